"""A real masked language model of antibodies through the public calls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dlm_sampling import AutoDenoiser, Denoiser, generate, replay

pytestmark = pytest.mark.external

# Heavy chain, variable domain, of trastuzumab: Protein Data Bank entry 1N8Z, chain B, 1 to 120.
SEQUENCE = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKG"
    "RFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)


@pytest.fixture(scope="module")
def denoiser(antiberty_folder: Path) -> Denoiser:
    return AutoDenoiser.from_pretrained(antiberty_folder)


def hidden(seed: int) -> list[int]:
    order = torch.randperm(len(SEQUENCE), generator=torch.Generator().manual_seed(seed))
    return order[:30].tolist()


def prompt(seed: int) -> str:
    places = set(hidden(seed))
    return "".join("[MASK]" if i in places else c for i, c in enumerate(SEQUENCE))


@pytest.mark.parametrize(
    ("sampler", "temperature", "restored", "passes"),
    [("llada", 0.0, 24, 30), ("fast-dllm", 0.0, 24, 15), ("first-hitting", 1.0, 18, 30)],
)
def test_most_of_30_hidden_residues_are_restored(
    denoiser: Denoiser, sampler: str, temperature: float, restored: int, passes: int
) -> None:
    """Chance restores 1.5 of 30; a threshold writes several residues per pass here."""
    out = generate(denoiser, prompt(0), sampler=sampler, temperature=temperature, seed=0)
    assert out.texts is not None
    right = sum(out.texts[0][i] == SEQUENCE[i] for i in hidden(0))
    print(f"{sampler}: {right} of 30 in {int(out.nfe[0])} passes")
    assert right >= restored
    assert int(out.nfe[0]) <= passes


def test_rows_alone_equal_rows_in_a_batch(denoiser: Denoiser) -> None:
    prompts = [prompt(0), prompt(1).removeprefix("E")]  # of different lengths
    assert prompts[1] != prompt(1)
    together = generate(denoiser, prompts, sampler="first-hitting", temperature=1.0, seed=[5, 6])
    for row, text in enumerate(prompts):
        alone = generate(denoiser, text, sampler="first-hitting", temperature=1.0, seed=[5 + row])
        assert alone.texts is not None and together.texts is not None
        assert alone.texts[0] == together.texts[row]


def test_replay_gives_ratio_one(denoiser: Denoiser) -> None:
    out = generate(
        denoiser, prompt(0), sampler="llada", temperature=1.0, seed=0, return_trajectory=True
    )
    found = replay(denoiser, out, grad=False)
    assert found.total.item() < -1.0  # something was sampled
    ratio = (found.logprob - out.logprobs).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-4)
