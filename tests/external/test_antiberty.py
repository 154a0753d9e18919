"""A real masked language model of antibodies through the public calls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dlm_eval.external.measure import hide, infill

from dlm_sampling import AutoDenoiser, Denoiser, generate, replay

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
def denoiser(antiberty_folder: Path) -> Denoiser:
    return AutoDenoiser.from_pretrained(antiberty_folder)


@pytest.mark.parametrize(
    ("sampler", "temperature", "restored", "passes"),
    [("llada", 0.0, 6, 10), ("fast-dllm", 0.0, 6, 8), ("first-hitting", 1.0, 5, 10)],
)
def test_most_of_10_hidden_residues_are_restored(
    denoiser: Denoiser, sampler: str, temperature: float, restored: int, passes: int
) -> None:
    """Chance restores half a residue; a threshold writes several residues per pass here."""
    right, nfe = infill(denoiser, sampler, temperature, count=10, seed=0)
    print(f"{sampler}: {right} of 10 in {nfe} passes")
    assert right >= restored
    assert nfe <= passes


def test_rows_alone_equal_rows_in_a_batch(denoiser: Denoiser) -> None:
    prompts = [hide(30, 0)[0], hide(30, 1)[0].removeprefix("E")]
    assert prompts[1] != hide(30, 1)[0]  # the rows have different lengths
    options = {"sampler": "ancestral", "temperature": 1.0, "steps": 2}
    together = generate(denoiser, prompts, seed=[5, 6], **options)
    for row, text in enumerate(prompts):
        alone = generate(denoiser, text, seed=[5 + row], **options)
        assert alone.texts is not None and together.texts is not None
        assert alone.texts[0] == together.texts[row]


def test_replay_gives_ratio_one(denoiser: Denoiser) -> None:
    out = generate(
        denoiser, hide(30, 0)[0], sampler="llada", temperature=1.0, steps=3, seed=0,
        return_trajectory=True,
    )  # fmt: skip
    found = replay(denoiser, out, grad=False)
    assert found.total.item() < -1.0  # something was sampled
    ratio = (found.logprob - out.logprobs).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-4)
