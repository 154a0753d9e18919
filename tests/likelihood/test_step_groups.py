"""Groups of steps: the canvas before the first of them, and the tokens that all of them wrote."""

from __future__ import annotations

import torch

from dlm_sampling import samplers, wrap
from dlm_sampling.likelihood.step_groups import views_of
from tests.samplers.small import run, small_toy


def test_a_group_has_the_canvas_before_it_and_the_tokens_of_its_steps() -> None:
    toy = small_toy(length=6, vocab_size=9)
    out = run(toy, samplers.LLaDA(order="random"), length=6, rows=1, steps=6)
    assert out.trajectory is not None
    canvases = out.trajectory.canvases(0)
    for shrink in (1, 2, 4):
        views = [v for v in views_of(toy, out.trajectory, out.trajectory.events, shrink, None)
                 if len(v.rows)]  # fmt: skip
        starts = list(range(0, 6, shrink))
        assert [v.canvas[0].tolist() for v in views] == [canvases[k].tolist() for k in starts]
        assert [int(v.where.sum()) for v in views] == [min(shrink, 6 - k) for k in starts]
        for view in views:
            assert torch.equal(view.tokens[view.where], out.tokens[view.where])


def test_a_window_leaves_out_what_stands_outside_of_it() -> None:
    toy = small_toy(length=6, vocab_size=9)
    out = run(toy, samplers.LLaDA(order="random"), length=6, rows=1, steps=6)
    assert out.trajectory is not None
    found = list(views_of(toy, out.trajectory, out.trajectory.events, 1, (2, 4)))
    seen = [v.canvas[0].tolist() for v in found if len(v.rows)]
    assert seen == out.trajectory.canvases(0)[2:4].tolist()


def test_times_that_were_not_recorded_are_missed() -> None:
    toy = small_toy(length=3, vocab_size=9)
    out = run(toy, samplers.LLaDA(), length=3, rows=1, steps=3)
    timed = wrap(
        lambda input_ids, t: toy.logits(input_ids), vocab_size=9, mask_token_id=toy.mask_token_id
    )
    assert timed.time_conditioned
    assert out.trajectory is not None
    try:
        list(views_of(timed, out.trajectory, out.trajectory.events, 1, None))
    except ValueError as error:
        assert "does not tell the times of its steps" in str(error)
    else:
        raise AssertionError
