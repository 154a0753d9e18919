"""A trainer whose likelihood cannot score its texts is refused before anything is drawn."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from dlm_sampling import wrap
from dlm_sampling.trl.likelihoods import CoupledLikelihood, MeanFieldLikelihood, RunLikelihood
from dlm_sampling.trl.scored import check_scored
from tests.samplers.small import small_toy

MASKS = small_toy()


def logits(input_ids: Tensor) -> Tensor:
    return MASKS.logits(input_ids)


NOISE = wrap(logits, vocab_size=9, mask_token_id=None)


@pytest.mark.parametrize(
    ("likelihood", "denoiser", "generation", "message"),
    [
        (MeanFieldLikelihood(), NOISE, {}, r"likelihood=MeanFieldLikelihood.*on uniform noise"),
        (CoupledLikelihood(), NOISE, {}, r"likelihood=CoupledLikelihood.*on uniform noise"),
        (RunLikelihood(), MASKS, {"sampler": "picard"}, r"generation\['sampler'\] is Picard"),
        (RunLikelihood(), MASKS, {"sampler": "theta-rk2"}, "its look-ahead is drawn"),
        (RunLikelihood(), NOISE, {"sampler": "gillespie"}, "Gillespie.*Use 'ancestral'"),
        (RunLikelihood(), MASKS, {"constraint": "a+"}, r"generation\['constraint'\]: no record"),
        (RunLikelihood(), MASKS, {"sampler": "lada"}, "Did you mean 'llada'"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    likelihood: Any, denoiser: Any, generation: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_scored(likelihood, denoiser, generation)


def test_what_can_be_scored_is_not() -> None:
    for name in ("llada-random", "gillespie", "rdm", "theta-trapezoidal", "remdm-cap"):
        check_scored(RunLikelihood(), MASKS, {"sampler": name})
    check_scored(RunLikelihood(), NOISE, {})
    check_scored(MeanFieldLikelihood(), MASKS, {"sampler": "picard"})
