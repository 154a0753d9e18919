"""The time that a denoiser is told: of its own schedule, and of all blocks that it is shown."""

from __future__ import annotations

import torch

from dlm_sampling.denoisers import wrap
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.prediction.rows import Beside
from dlm_sampling.schedules import LOG_LINEAR, Cosine
from dlm_sampling.types import Schedule, TokenLaw

T = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)


def model(own: Schedule, schedule: Schedule | None) -> RunModel:
    denoiser = wrap(
        lambda input_ids, t: torch.zeros(*input_ids.shape, 4),
        vocab_size=4, mask_token_id=3, schedule=own,
    )  # fmt: skip
    return RunModel(denoiser, TokenLaw(), Counts.zero(1, torch.device("cpu")), schedule=schedule)


def beside(width: float, masks: float, total: float) -> Beside:
    return Beside(*(torch.full_like(T, count) for count in (width, masks, total)))


def test_alpha_is_what_two_schedules_share() -> None:
    found = model(Cosine(), LOG_LINEAR).time_of(T)
    torch.testing.assert_close(Cosine().alpha(found), LOG_LINEAR.alpha(T))
    assert torch.equal(model(Cosine(), None).time_of(T), T)
    assert torch.equal(model(Cosine(), Cosine()).time_of(T), T)


def test_other_blocks_are_averaged_in() -> None:
    """10 positions at level alpha(t) beside 20 masks and 10 written ones."""
    for own in (Cosine(), LOG_LINEAR):
        found = model(own, LOG_LINEAR).time_of(T, beside(10, 20, 40))
        clean = (10.0 * LOG_LINEAR.alpha(T) + 10.0) / 40.0
        torch.testing.assert_close(own.alpha(found), clean)


def test_a_row_of_one_block_is_told_bit_for_bit_what_it_is_told_alone() -> None:
    for own in (Cosine(), LOG_LINEAR):
        run = model(own, LOG_LINEAR)
        for width in (7.0, 12.0, 31.0):
            assert torch.equal(run.time_of(T, beside(width, 0, width)), run.time_of(T))
