"""The model `dlm` in lm-evaluation-harness: its figures are those of `elbo` and `generate`.

lm_eval and what it needs are 210 MB and 100 s of installation, so they are not part of [test].
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dlm_sampling import elbo, generate
from dlm_sampling.denoisers.checkpoints import reach
from dlm_sampling.errors import UsageError
from dlm_sampling.ops import row_seeds

lm_eval: Any = pytest.importorskip("lm_eval", reason="needs: pip install 'dlm-sampling[lm-eval]'")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dlm_eval.cli.app import app  # noqa: E402
from dlm_eval.journal import SettingsChanged  # noqa: E402
from dlm_eval.tasks.answers import OthersAtWork  # noqa: E402
from dlm_eval.tasks.harness import DiffusionLM  # noqa: E402
from dlm_eval.tasks.local.rules import DATA  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

pytestmark = pytest.mark.external


def asked(kind: Any, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.fixture(scope="module")
def model(tiny_llada: Path) -> DiffusionLM:
    return DiffusionLM(str(tiny_llada), masks=6, batch_size=2, seed=5, sampler="llada")


def test_loglikelihood_is_elbo(model: DiffusionLM) -> None:
    pairs = [("Once upon", " a time"), ("", "there was"), ("a b c", " d")]
    found = model.loglikelihood([asked("loglikelihood", *pair) for pair in pairs])
    seeds = row_seeds(5, 3)
    for (context, rest), seed, (value, greedy) in zip(pairs, seeds, found, strict=True):
        ids = model.tok_encode(context + rest)
        begin = len(model.tok_encode(context))
        editable = torch.arange(len(ids)) >= begin
        direct = elbo(
            model.denoiser, torch.tensor([ids]), editable=editable[None], scheme="stratified",
            n=6, seed=[seed], grad=False,
        )  # fmt: skip
        assert abs(value - float(direct.value)) < 1e-4 * abs(value)
        assert not greedy
    whole = model.loglikelihood_rolling([asked("loglikelihood_rolling", "there was")])
    assert abs(whole[0] - float(_rolled(model, "there was"))) < 1e-3


def _rolled(model: DiffusionLM, text: str) -> torch.Tensor:
    ids = torch.tensor([model.tok_encode(text)])
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    options: dict[str, Any] = {
        "scheme": "stratified",
        "n": 6,
        "seed": row_seeds(5, 1),
        "grad": False,
    }
    return elbo(model.denoiser, ids, editable=everywhere, **options).value


def test_greedy_continuations_are_recognised(tiny_llada: Path) -> None:
    model = DiffusionLM(str(tiny_llada), masks=1, greedy=True)
    ids = model.tok_encode("Once upon")
    options: dict[str, Any] = {"sampler": "llada", "temperature": 0.0, "eos": "keep", "seed": 0}
    out = generate(model.denoiser, [ids], max_new_tokens=3, **options)
    rest = out.token_ids[0][:3]
    assert model._score([(ids, rest)], True)[0][1]
    assert not model._score([(ids, [*rest[:2], (rest[2] + 1) % 5])], True)[0][1]


def test_texts_are_those_of_generate_up_to_a_stop_string(model: DiffusionLM) -> None:
    whole = generate(
        model.denoiser, ["Once", "upon"], sampler="llada", max_new_tokens=8, eos="stop",
        seed=row_seeds(5, 2),
    )  # fmt: skip
    assert whole.texts is not None and all(whole.texts)
    stops = [text[1:3] for text in whole.texts]
    found = model.generate_until(
        [
            asked("generate_until", text, {"until": [stop], "max_gen_toks": 8})
            for text, stop in zip(("Once", "upon"), stops, strict=True)
        ]
    )
    cut = [text[: text.index(stop)] for text, stop in zip(whole.texts, stops, strict=True)]
    assert found == cut


def test_a_text_does_not_depend_on_its_batch(model: DiffusionLM) -> None:
    """Requests of several lengths, in every batch size, give the texts of `generate` alone."""
    limits = [4, 9, 4, 2]
    texts = [
        asked("generate_until", f"Once {i}", {"until": [], "max_gen_toks": limit})
        for i, limit in enumerate(limits)
    ]
    alone = [
        (generate(
            model.denoiser, [f"Once {i}"], sampler="llada", max_new_tokens=limit, seed=[seed],
            progress=False,
        ).texts or [])[0]
        for i, (limit, seed) in enumerate(zip(limits, row_seeds(5, len(limits)), strict=True))
    ]  # fmt: skip
    for size in (1, 2, 4):
        batched = DiffusionLM(model.denoiser, batch_size=size, seed=5, sampler="llada")
        assert batched.generate_until(texts, disable_tqdm=True) == alone


def test_a_task_of_text_needs_more_positions_than_it_writes(model: DiffusionLM) -> None:
    model.denoiser.max_length, before = 16, model.denoiser.max_length
    with pytest.raises(ValueError, match=r"reads 16 positions.*eval compare sudoku4x4"):
        model._prompt("Fill the grid", 32)
    model.denoiser.max_length = before


def test_wrong_counts_are_named(model: DiffusionLM) -> None:
    with pytest.raises(TypeError, match="masks='x': must be a whole number"):
        DiffusionLM(model.denoiser, masks="x")  # type: ignore[arg-type]


def test_the_default_device_of_the_harness_is_the_cpu_without_a_gpu(
    tiny_llada: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    found = DiffusionLM(str(tiny_llada), device="cuda:0")
    assert str(found.denoiser.device) == "cpu"
    assert [r.message for r in caplog.records if "no GPU" in r.message] == [
        "device cuda:0: there is no GPU; the model runs on the CPU."
    ]


def test_the_harness_finds_it_by_name(tiny_llada: Path) -> None:
    """As the help of `eval tasks` says."""
    told = " ".join(CliRunner().invoke(app, ["tasks", "--help"]).stdout.split())
    assert "import dlm_eval.tasks.harness" in told and "--model_args pretrained=" in told
    manager = TaskManager(include_path=str(DATA.parent), include_defaults=False)
    options: dict[str, Any] = {"tasks": ["sudoku4x4", "gsm8k"], "limit": 2, "num_fewshot": 0}
    text = f"pretrained={tiny_llada},sampler=llada,steps=2,max_new_tokens=4,seed=1"
    found = lm_eval.simple_evaluate(
        model="dlm", model_args=text, task_manager=manager, bootstrap_iters=0, **options
    )
    assert found["results"]["sudoku4x4"]["solved,none"] == 0.0
    assert found["n-samples"]["gsm8k"] == {"original": 1319, "effective": 2}
    sample = found["samples"]["sudoku4x4"][0]
    same = DiffusionLM(str(tiny_llada), sampler="llada", steps=2, seed=1)
    prompt = same._prompt(sample["arguments"][0][0], 4)
    out = generate(
        same.denoiser, [prompt], sampler="llada", steps=2, max_new_tokens=4, stop=["\n"],
        seed=row_seeds(1, 1), eos="stop",
    )  # fmt: skip
    assert out.texts == [sample["resps"][0][0]]


def test_programs_run_with_consent_only(
    tiny_llada: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # no repository: git would say so
    words = ["tasks", str(tiny_llada), "--tasks", "humaneval,mbpp", "--limit", "1", "--out"]
    words += [str(tmp_path), *(f"--set={one}" for one in ("sampler=llada", "steps=2"))]
    words += ["--set=max_new_tokens=4"]
    with pytest.raises(UsageError, match="unsafe"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    done = CliRunner().invoke(app, [*words, "--confirm_run_unsafe_code"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "git" not in capfd.readouterr().err
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [(m["name"], m["value"], m["group"]) for m in results["metrics"]] == [
        ("pass@1", 0.0, "humaneval"),
        ("pass@1", 0.0, "mbpp"),
    ]
    assert results["metrics"][0]["note"] == "95 % interval 0.0 to 79.3 %"
    assert results["command"].startswith("dlm-sampling eval tasks")
    subject = results["subject"]
    assert subject["sampler"].startswith("LLaDA(") and subject["blocks"]["steps"] == 2
    assert "temperature=" in subject["law"] and "Custom kwargs" not in done.stderr
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(row["group"], row["row"], row["pass@1"]) for row in map(json.loads, lines)] == [
        ("humaneval", 0, 0.0),
        ("mbpp", 0, 0.0),
    ]
    (prompt,) = (row["prompt"] for row in map(json.loads, lines) if row["group"] == "mbpp")
    shots = prompt.split("[DONE]\n\n")  # as published: three, the code right behind [BEGIN]
    assert [shot.count("You are an expert Python programmer") for shot in shots] == [1, 1, 1, 1]
    assert "[BEGIN]\ndef similar_elements(" in shots[0] and shots[3].endswith("[BEGIN]\n")
    assert "remove_Occ" in shots[3] and shots[0].count("assert") == 3


def test_a_killed_run_goes_on(
    tiny_llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finds the answers of the first, and runs no pass for them."""
    options: dict[str, Any] = {"masks": 2, "sampler": "llada", "journal": tmp_path / "answers"}
    text = [asked("generate_until", "Once", {"until": ["."], "max_gen_toks": 4})]
    pair = [asked("loglikelihood", "Once", " upon")]
    first = DiffusionLM(str(tiny_llada), **options)
    found = first.generate_until(text), first.loglikelihood(pair)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("dlm_eval.tasks.harness.generate", never)
    monkeypatch.setattr("dlm_eval.tasks.harness.nats_of", never)
    again = DiffusionLM(str(tiny_llada), **options)
    assert (again.generate_until(text), again.loglikelihood(pair)) == found
    with pytest.raises(SettingsChanged, match="masks"):
        DiffusionLM(str(tiny_llada), **{**options, "masks": 3})


def test_processes_give_the_answers_of_one(
    model: DiffusionLM, tiny_llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [asked("generate_until", f"{i}", {"until": ["."], "max_gen_toks": 4}) for i in range(5)]
    pairs = [asked("loglikelihood", "Once", " upon" * (1 + i % 2)) for i in range(5)]
    whole = model.generate_until(texts), model.loglikelihood(pairs)
    options: dict[str, Any] = {"masks": 6, "batch_size": 2, "seed": 5, "sampler": "llada"}

    def share(index: int, **more: Any) -> DiffusionLM:
        monkeypatch.setenv("DLM_SHARD", f"{index}/2")
        return DiffusionLM(str(tiny_llada), journal=tmp_path, **options, **more)

    second = share(1, blanks=True)
    found = second.generate_until(texts), second.loglikelihood(pairs)
    assert found[0] == ["", "", *whole[0][2:4], ""] and second.missing > 1
    with pytest.raises(OthersAtWork):
        share(1).generate_until(texts)
    first = share(0)
    assert (first.generate_until(texts), first.loglikelihood(pairs)) == whole


def test_the_last_process_of_a_launcher_writes_the_results(
    tiny_llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness itself gives results to LOCAL_RANK 0 alone."""
    words = ["tasks", str(tiny_llada), "--tasks", "sudoku4x4", "--limit", "3", "--out"]
    words += [str(tmp_path), *(f"--set={one}" for one in ("steps=2", "max_new_tokens=4"))]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, told in (("0", "the share of process 0 is done"), ("1", "sudoku4x4 solved: 0.000")):
        assert not (tmp_path / "results.json").exists()
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0 and told in done.output
    samples = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["row"] for line in samples] == [0, 1, 2]


def test_a_task_of_the_harness_without_network_is_one_line(
    tiny_llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is asked once: nothing is tried again and again."""
    import lm_eval.tasks
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reach, "why_out_of_reach", lambda _: "the hub cannot be reached")
    whole = lm_eval.tasks.TaskManager  # the harness reads thousands of files for its own tasks

    def small(*, include_defaults: bool, **given: Any) -> Any:
        assert include_defaults
        return whole(include_defaults=False, **given)

    def evaluate(**_: Any) -> None:
        assert constants.HF_HUB_OFFLINE
        raise ConnectionError("Couldn't reach 'a/b'")

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", small)
    monkeypatch.setattr(lm_eval, "simple_evaluate", evaluate)
    words = ["tasks", str(tiny_llada), "--tasks", "sudoku4x4", "--harness-tasks", "--out"]
    with pytest.raises(UsageError, match=r"--tasks sudoku4x4: .*'a/b'; the hub cannot be reached"):
        CliRunner().invoke(app, [*words, str(tmp_path)], catch_exceptions=False)
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_batch_that_does_not_fit_is_halved(
    error: type[Exception],
    model: DiffusionLM,
    tiny_llada: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The halves are remembered, and the questions stay those of whole batches."""
    from dlm_eval.tasks import harness

    texts = [asked("generate_until", f"{i}", {"until": ["."], "max_gen_toks": 4}) for i in range(5)]
    pairs = [asked("loglikelihood", "Once", " upon") for _ in range(5)]
    whole = model.generate_until(texts), model.loglikelihood(pairs)
    sizes: list[int] = []

    def small(run: Any) -> Any:
        def limited(denoiser: Any, rows: Any, *rest: Any, **given: Any) -> Any:
            sizes.append(len(rows))
            if len(rows) > 1:
                raise error("DefaultCPUAllocator: not enough memory")
            return run(denoiser, rows, *rest, **given)

        return limited

    for name in ("generate", "nats_of"):
        monkeypatch.setattr(harness, name, small(getattr(harness, name)))
    little = DiffusionLM(str(tiny_llada), masks=6, batch_size=2, seed=5, sampler="llada")
    assert little.generate_until(texts) == whole[0]
    assert sizes == [2, 1, 1, 1, 1, 1]
    for (value, _), (wanted, _) in zip(little.loglikelihood(pairs), whole[1], strict=True):
        assert value == pytest.approx(wanted, rel=1e-5)
