"""The doctor finds what is wrong: each planted fault must fail its own check and no other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling.checkup.checks import check_memory
from dlm_sampling.checkup.doctor import DoctorReport, diagnose
from dlm_sampling.checkup.patient import Patient
from dlm_sampling.denoisers import AutoDenoiser, Denoiser, wrap

V, MASK, END = 40, 39, 38
TEXT = "once upon a time there was a small fox and the big bear " * 4
Maker = Callable[..., Denoiser]


def statuses(report: DoctorReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def failed(report: DoctorReport) -> list[str]:
    return [check.name for check in report.checks if check.status == "fail"]


class Reader:
    """Knows the passage: at a mask it sees the neighbours and finds the word between them."""

    def __init__(self, tokenizer: Any) -> None:
        ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        self.between = {(a, c): b for a, b, c in zip(ids, ids[1:], ids[2:], strict=False)}

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = torch.zeros(*input_ids.shape, V)
        for i, row in enumerate(input_ids.tolist()):
            seen = [True] * len(row) if attention_mask is None else attention_mask[i].tolist()
            total = sum(token for token, here in zip(row, seen, strict=True) if here)
            logits[i, :, 0] = 0.01 * total
            for j in range(1, len(row) - 1):
                if (word := self.between.get((row[j - 1], row[j + 1]))) is not None:
                    logits[i, j, word] += 6.0
        return logits


def facts(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {"vocab_size": V, "mask_token_id": MASK, "tokenizer": tokenizer, **more}


def test_a_sound_denoiser_passes(tokenizer: Any) -> None:
    report = diagnose(wrap(Reader(tokenizer), **facts(tokenizer)), text=TEXT)
    assert report.ok
    assert set(statuses(report).values()) == {"pass", "skip"}
    assert statuses(report)["alignment"] == "pass"
    assert all(not check.remedy for check in report.checks if check.status == "pass")


def test_every_native_family_passes_on_a_checkpoint(
    make: Maker, tmp_path: Path, tokenizer: Any
) -> None:
    make(tokenizer=tokenizer).save_pretrained(tmp_path)
    report = diagnose(tmp_path, text=TEXT)
    assert report.ok, report.to_json()
    assert statuses(report)["alignment"] == "warn", "random weights know no alignment"
    assert report.family == AutoDenoiser.from_pretrained(tmp_path).family


@pytest.mark.parametrize(("places", "advice"), [(-1, "shifted=True"), (1, "shifted twice")])
def test_shifted_logits(tokenizer: Any, places: int, advice: str) -> None:
    reader = Reader(tokenizer)
    denoiser = wrap(lambda ids: reader(ids).roll(places, 1), **facts(tokenizer))
    report = diagnose(denoiser, text=TEXT)
    assert failed(report) == ["alignment"]
    assert advice in next(c.remedy for c in report.checks if c.name == "alignment")
    if places == -1:
        repaired = wrap(lambda ids: reader(ids).roll(-1, 1), shifted=True, **facts(tokenizer))
        assert diagnose(repaired, text=TEXT).ok


def test_padding_that_is_attended_to(tokenizer: Any) -> None:
    reader = Reader(tokenizer)
    fn = lambda input_ids, attention_mask=None: reader(input_ids)  # noqa: E731
    assert failed(diagnose(wrap(fn, **facts(tokenizer)), text=TEXT)) == ["padding"]
    honest = wrap(fn, honours_padding=False, **facts(tokenizer))
    assert diagnose(honest, text=TEXT).ok


def test_causal_attention(tokenizer: Any) -> None:
    def causal(input_ids: Tensor) -> Tensor:
        logits = torch.zeros(*input_ids.shape, V)
        logits[..., 0] = input_ids.cumsum(1) * 0.01
        return logits

    assert failed(diagnose(wrap(causal, **facts(tokenizer)), text=TEXT)) == ["attention"]


def test_rows_that_influence_each_other(tokenizer: Any) -> None:
    reader = Reader(tokenizer)
    denoiser = wrap(lambda ids: reader(ids) + 0.1 * ids.float().std(), **facts(tokenizer))
    assert "batch" in failed(diagnose(denoiser, text=TEXT))


def test_dropout_that_is_on(tokenizer: Any) -> None:
    reader, generator = Reader(tokenizer), torch.Generator().manual_seed(0)

    def noisy(input_ids: Tensor) -> Tensor:
        return reader(input_ids) + torch.randn(*input_ids.shape, V, generator=generator)

    assert "repeatable" in failed(diagnose(wrap(noisy, **facts(tokenizer)), text=TEXT))


def test_logits_that_are_no_numbers(tokenizer: Any) -> None:
    reader = Reader(tokenizer)
    denoiser = wrap(lambda ids: reader(ids) * torch.nan, **facts(tokenizer))
    assert "finite" in failed(diagnose(denoiser, text=TEXT))


def test_mask_and_vocabulary(tokenizer: Any) -> None:
    reader = Reader(tokenizer)
    wrong = wrap(reader, vocab_size=V, mask_token_id=END, tokenizer=tokenizer)
    assert failed(diagnose(wrong, text=TEXT)) == ["mask id"]
    other = wrap(reader, vocab_size=V, mask_token_id=37, tokenizer=tokenizer)
    assert statuses(diagnose(other, text=TEXT))["mask id"] == "warn"
    tokenizer.add_tokens(["one", "more"])
    assert failed(diagnose(wrap(reader, **facts(tokenizer)), text=TEXT)) == ["vocabulary"]


def test_columns_without_a_token(tokenizer: Any) -> None:
    reader = Reader(tokenizer)
    wide = lambda ids: torch.cat((reader(ids), torch.zeros(*ids.shape, 8)), -1)  # noqa: E731
    denoiser = wrap(wide, **facts(tokenizer, vocab_size=V + 8))
    assert statuses(diagnose(denoiser, text=TEXT))["vocabulary"] == "warn"
    quiet = wrap(wide, **facts(tokenizer, vocab_size=V + 8, suppressed=range(V, V + 8)))
    assert statuses(diagnose(quiet, text=TEXT))["vocabulary"] == "pass"


def test_time_that_is_declared_and_ignored(tokenizer: Any) -> None:
    reader = Reader(tokenizer)
    deaf = wrap(lambda input_ids, t: reader(input_ids), **facts(tokenizer))
    assert statuses(diagnose(deaf, text=TEXT))["time conditioning"] == "warn"


def test_time_conditioning_that_works(mdlm: Maker, tokenizer: Any) -> None:
    report = diagnose(mdlm(time_conditioned=True, tokenizer=tokenizer), text=TEXT)
    assert statuses(report)["time conditioning"] == "pass"


def test_a_model_that_breaks_down(tokenizer: Any) -> None:
    def broken(input_ids: Tensor) -> Tensor:
        raise RuntimeError("out of range\nand more")

    report = diagnose(wrap(broken, **facts(tokenizer)), text=TEXT)
    assert "batch" in failed(report)
    assert all("\n" not in check.detail for check in report.checks)


def test_a_checkpoint_that_cannot_be_loaded(tmp_path: Path) -> None:
    report = diagnose(tmp_path)
    assert not report.ok
    assert failed(report) == ["load"]
    assert "config.json" in report.checks[0].detail


def test_without_a_tokenizer(llada: Maker) -> None:
    report = diagnose(llada())
    assert report.ok
    assert statuses(report)["alignment"] == "skip"
    assert statuses(report)["padding"] == "pass"


def test_json(llada: Maker) -> None:
    report = json.loads(diagnose(llada()).to_json())
    assert report["ok"] is True
    assert report["family"] == "llada"
    assert {"name", "status", "detail", "remedy"} == set(report["checks"][0])


def test_the_memory_of_a_batch_is_estimated(llada: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = llada()
    assert denoiser.num_parameters == 20128
    report = diagnose(denoiser, text=TEXT)
    (check,) = [check for check in report.checks if check.name == "memory"]
    assert check.status == "pass"
    assert "for 16 x 64 tokens (weights 0.1 MB," in check.detail, "the context is 64"
    monkeypatch.setattr(Denoiser, "device", torch.device("cuda"))
    for free, status in ((100_000, "warn"), (100_000_000, "pass")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        finding = check_memory(Patient(denoiser, TEXT))
        assert finding.status == status
        assert ("100.0 kB are free" in finding.remedy) == (status == "warn")
