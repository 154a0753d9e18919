"""The time that a denoiser is told: of its own schedule, and of all blocks that it is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dlm_sampling.denoisers import wrap
from dlm_sampling.prediction.carry import NO_CARRY
from dlm_sampling.prediction.model import Counts, RunModel, full_law, time_at
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


def test_work_is_what_passes_saw() -> None:
    counts = Counts.zero(2, torch.device("cpu"))
    assert counts.nfe.tolist() == [0, 0] and counts.work.tolist() == [0.0, 0.0]
    assert counts.nfe.dtype == torch.int64 and counts.model_time.isnan().all()
    counts.nfe.add_(3)
    counts.spared.add_(torch.tensor([0.5, 0.0]).double())
    counts.model_time.fill_(0.25)
    assert counts.work.tolist() == [2.5, 3.0]
    other = counts.without_time()
    other.model_time[0] = 1.0
    assert other.nfe is counts.nfe and other.spared is counts.spared
    assert other.model_time[1].isnan() and counts.model_time.tolist() == [0.25, 0.25]


@pytest.mark.parametrize(("scale", "passes"), [(0.0, 1), (0.7, 2), (-1.0, 2)])
def test_guidance_takes_two_passes_with_a_state_each(scale: float, passes: int) -> None:
    run = replace(model(LOG_LINEAR, None), guidance_scale=scale)
    assert run.passes == passes
    assert run.first_carries() == ()
    run.denoiser.carries = True
    assert run.first_carries() == (NO_CARRY,) * passes


def test_a_denoiser_without_a_schedule_counts_time_as_noise() -> None:
    plain = wrap(lambda input_ids: torch.zeros(*input_ids.shape, 4), vocab_size=4, mask_token_id=3)
    alpha = torch.tensor([0.25, 1.0]).double()
    torch.testing.assert_close(time_at(plain, alpha), 1.0 - alpha)
    cosine = model(Cosine(), None).denoiser
    torch.testing.assert_close(time_at(cosine, alpha), Cosine().time_of(alpha))


def test_ids_that_are_never_written_are_suppressed() -> None:
    law, quiet = TokenLaw(0.5, suppressed=(2, 0)), model(LOG_LINEAR, None).denoiser
    quiet.suppressed = (5,)
    assert full_law(law, quiet) == TokenLaw(0.5, suppressed=(0, 2, 3, 5))
    assert full_law(law, quiet, suppress_mask=False) == TokenLaw(0.5, suppressed=(0, 2, 5))
