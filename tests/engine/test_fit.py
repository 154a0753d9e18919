"""A sampler meets only models of the noise that it was made for."""

from __future__ import annotations

import pytest
import torch

from dlm_sampling import samplers, wrap
from dlm_sampling.engine.fit import check_fit, shortened

V = 7
MASKS = wrap(lambda ids: torch.zeros(*ids.shape, V), vocab_size=V, mask_token_id=6)
NOISE = wrap(lambda ids: torch.zeros(*ids.shape, V), vocab_size=V, mask_token_id=None)
PLAIN = {"absorbing": MASKS, "uniform": NOISE}


@pytest.mark.parametrize("name", ["llada", "ancestral", "duo", "psi", "diffusion-gemma"])
@pytest.mark.parametrize("kind", PLAIN)
def test_who_fits_gets_the_noise_and_others_a_list_of_those_who_do(name: str, kind: str) -> None:
    entry, denoiser = samplers.available()[name], PLAIN[kind]
    if kind in entry.runs_on:
        assert check_fit(denoiser, entry.build(), 0.0) is denoiser.process
        return
    with pytest.raises(ValueError, match=f"this denoiser .* was trained on {kind} noise") as raised:
        check_fit(denoiser, entry.build(), 0.0)
    fitting = [n for n, e in samplers.available().items() if kind in e.runs_on]
    named = f"{', '.join(fitting[:6])} and {len(fitting) - 6} others; for all with their noise: "
    assert f"Samplers that fit: {named}dlm-sampling samplers." in str(raised.value)
    assert shortened(fitting[:6]) == ", ".join(fitting[:6])
    assert ("pass mask_token_id=" in str(raised.value)) == (kind == "uniform")


def test_guidance_needs_a_mask_to_put_in_place_of_the_prompt() -> None:
    ancestral = samplers.create("ancestral")
    assert check_fit(MASKS, ancestral, 1.5) is MASKS.process
    with pytest.raises(ValueError, match=r"guidance_scale=1\.5: the unconditional pass puts masks"):
        check_fit(NOISE, ancestral, 1.5)
