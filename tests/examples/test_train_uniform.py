"""The training script of uniform noise: its law, its batches, and runs that stop and resume."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlm_sampling import AutoDenoiser, wrap
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import DenoiserOutput

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The old king went into the forest, and the fox said: come home.\n\n" * 60


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import train_uniform
    finally:
        sys.path.pop(0)
    return train_uniform


@pytest.fixture(scope="module")
def books(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books")
    for stem in (*script.TRAIN_BOOKS, *script.HELD_OUT_BOOKS):
        (folder / f"{stem}.txt").write_text(TEXT, encoding="utf-8")
    return folder


def test_noise_replaces_each_token_at_its_level(script: ModuleType) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.zeros(3000, 20, dtype=torch.int64)
    noised, replaced, t = script.noise_batch(x, 4, rng)
    assert bool((noised[~replaced] == 0).all())
    counts = torch.bincount(noised[replaced], minlength=4).double()
    assert float((counts / counts.sum() - 0.25).abs().max()) < 0.01  # the same token too
    free = replaced[1000:].double().mean(1)
    assert abs(float((free - 0.999 * t[1000:]).mean())) < 0.01
    assert abs(float(torch.corrcoef(torch.stack((free, t[1000:])))[0, 1])) > 0.9
    assert 0.4 < float(replaced[:1000].double().mean() / replaced[1000:].double().mean()) < 0.6


def test_the_loss_is_least_at_the_leave_one_out_law(script: ModuleType) -> None:
    """On two positions of three symbols, all gradients vanish at that law and not at others."""
    size, rng = 3, torch.Generator().manual_seed(1)
    joint = torch.rand(size, size, generator=rng, dtype=torch.float64) ** 2
    joint /= joint.sum()
    t = torch.tensor([0.4], dtype=torch.float64)
    alpha = 1 - 0.999 * float(t)
    channel = alpha * torch.eye(size, dtype=torch.float64) + (1 - alpha) / size
    pair = joint @ channel  # law of (x0_0, x_t1); rows are x0_0
    first = pair / pair.sum(0)
    pair = joint.T @ channel
    second = pair / pair.sum(0)
    states = all_states(2, size)
    loo = torch.stack((first.T[states[:, 1]], second.T[states[:, 0]]), 1)
    posterior = loo * channel[:, states].permute(1, 2, 0)
    posterior /= posterior.sum(-1, keepdim=True)

    def gradient(law: Tensor) -> float:
        logits = law.log().requires_grad_()
        denoiser = wrap(
            lambda input_ids: DenoiserOutput(
                logits[input_ids[:, 0] * size + input_ids[:, 1]], nn.Identity()
            ),
            vocab_size=size,
            mask_token_id=None,
        )
        total = torch.zeros((), dtype=torch.float64)
        for clean in states:
            for noise in states:
                for bits in range(1, 4):
                    replaced = torch.tensor([[bool(bits & 1), bool(bits & 2)]])
                    noised = torch.where(replaced, noise, clean)
                    chance = float(joint[clean[0], clean[1]]) / size**2
                    chance *= (1 - alpha) ** int(replaced.sum()) * alpha ** int((~replaced).sum())
                    loss = script.loss_of(denoiser, clean[None], noised, replaced, t, False)
                    total = total + chance * int(replaced.sum()) * loss
        (found,) = torch.autograd.grad(total, logits)
        return float(found.abs().max())

    assert gradient(loo) < 1e-8
    assert gradient(posterior) > 1e-3


def run(script: ModuleType, books: Path, out: Path, **options: Any) -> dict[str, Tensor]:
    """Twelve steps of a network of one narrow block; returns the averaged weights."""
    sizes = {"hidden_size": 16, "layers": 1, "heads": 1, "cond_dim": 8, "length": 16}
    script.train(
        books=books,
        out=out,
        steps=12,
        batch_size=6,
        eval_every=6,
        eval_rows=4,
        save_every=5,
        bf16=False,
        **(sizes | options),
    )
    return torch.load(out / "state.pt", weights_only=True)["ema"]


def test_a_stopped_run_ends_where_an_unbroken_one_does(
    script: ModuleType, books: Path, tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        whole = run(script, books, tmp_path / "whole")
        run(script, books, tmp_path / "parts", stop_at=7)
        parts = run(script, books, tmp_path / "parts")
        other = run(script, books, tmp_path / "other", seed=1)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert not torch.equal(whole["vocab_embed.embedding"], other["vocab_embed.embedding"])
    with pytest.raises(SystemExit, match="another --out"):
        run(script, books, tmp_path / "parts", lr=0.01)

    script.convert(out=tmp_path / "parts", to=tmp_path / "model")
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert [row["step"] for row in record["log"]] == [6, 12]
    first, last = (row[script.HELD_OUT_BOOKS[0]]["nats_per_token"] for row in record["log"])
    assert last < first < 8.6  # log 4096 = 8.3
    denoiser = AutoDenoiser.from_pretrained(tmp_path / "model")
    assert (denoiser.kind, denoiser.mask_token_id) == ("leave_one_out", None)
    weights = dict(denoiser.module.named_parameters())
    for name, value in whole.items():
        assert torch.equal(weights[name], value.half().float())
