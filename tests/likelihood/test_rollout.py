"""A rollout that is selected, joined, shuffled, built while sampling or from steps is the run."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from dlm_sampling import Rollout, generate, replay, samplers, wrap
from dlm_sampling.types import TokenLaw
from tests.samplers.small import run, small_toy

LENGTH = 6


def remasked(rows: int = 4, length: int = LENGTH) -> Rollout:
    """Tokens are masked again, so that positions are written more than once."""
    sampler = samplers.create("remdm-cap", eta=0.5)
    toy = small_toy(length=length, vocab_size=9)
    return Rollout.from_output(run(toy, sampler, length=length, rows=rows, steps=6, law=TokenLaw()))


def same(one: Rollout, other: Rollout) -> None:
    for field in fields(Rollout):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, tuple) and hasattr(mine, "_fields"):
            for name, a, b in zip(mine._fields, mine, theirs, strict=True):
                assert torch.equal(a.nan_to_num(-9), b.nan_to_num(-9)), (field.name, name)
        else:
            assert mine == theirs, field.name


def test_a_rollout_is_smaller_than_the_canvases() -> None:
    rollout = remasked()
    assert len(rollout) == 4
    per_row = torch.bincount(rollout.writes.row.long())
    assert int(per_row.max()) > LENGTH  # rewritten
    assert rollout.step_index.max() == rollout.writes.iteration.max()


def test_selected_rows_are_those_rows_in_every_field() -> None:
    toy, rollout = small_toy(length=LENGTH, vocab_size=9), remasked()
    order = torch.tensor([3, 0, 0, 2])
    chosen = rollout.select(order)
    assert chosen.seeds == tuple(rollout.seeds[i] for i in order.tolist())
    for name in ("tokens", "initial", "nfe", "step_index", "logprob", "argmax", "total"):
        assert torch.equal(getattr(chosen, name), getattr(rollout, name)[order]), name
    assert torch.equal(replay(toy, chosen).logprob, replay(toy, rollout).logprob[order])
    same(rollout.select(torch.arange(4)), rollout)
    mixed, places = rollout.shuffle(seed=0)
    assert sorted(places.tolist()) == [0, 1, 2, 3] and places.tolist() != [0, 1, 2, 3]
    same(mixed.select(places.argsort()), rollout)


def test_rollouts_of_other_settings_are_told_apart_by_their_fields() -> None:
    rollout = remasked()
    law = replace(rollout.request, law=TokenLaw(temperature=0.7))
    other = replace(rollout, request=law)
    with pytest.raises(ValueError, match=r"differ in law\.temperature \(1\.0 and 0\.7\): join"):
        Rollout.cat([rollout, other])
    with pytest.raises(ValueError, match=r"differ in masked \(True and False\): join"):
        Rollout.cat([rollout, replace(rollout, masked=False)])
    with pytest.raises(TypeError, match="rollouts holds an int"):
        Rollout.cat([rollout, 3])  # type: ignore[list-item]


def test_rows_are_chosen_by_a_mask_or_by_numbers_in_any_holder() -> None:
    rollout = remasked()
    wanted = rollout.select(torch.tensor([1, 3]))
    mask = torch.tensor([False, True, False, True])
    for rows in (mask, mask.tolist(), [1, 3], (1, -1), range(1, 4, 2), torch.tensor([1, 3]).int()):
        same(rollout.select(rows), wanted)
    assert len(rollout.select([])) == 0
    for rows, message in (
        (mask[:3], r"rows is a bool mask \(3,\): must be \[4\]"),
        ([0, 4], "rows has 4: must be 0 to 3"),
        ([[0]], r"rows has shape \(1, 1\): must be a bool mask"),
        ([0.5], "rows is torch.float32: must be a bool mask"),
        ("a", "rows='a': must be a bool mask"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            rollout.select(rows)  # type: ignore[arg-type]


def test_parts_that_are_joined_are_the_whole() -> None:
    rollout = remasked()
    parts = [rollout.select(torch.tensor(rows)) for rows in ([0, 1], [2], [3])]
    same(Rollout.cat(parts), rollout)
    same(Rollout.cat(parts[:1]), parts[0])
    same(rollout.to("cpu"), rollout)
    other = Rollout.from_output(
        run(small_toy(length=LENGTH, vocab_size=9), samplers.LLaDA(), length=LENGTH, rows=1)
    )
    with pytest.raises(ValueError, match="rollouts differ in"):
        Rollout.cat([rollout, other])
    with pytest.raises(ValueError, match="rollouts is empty"):
        Rollout.cat([])
    with pytest.raises(ValueError, match="seeds has 1 entries for 4 rows"):
        rollout.with_seeds([1])


def test_steps_alone_give_the_rollout_of_an_unmask_only_run() -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    out = run(toy, samplers.LLaDA(), length=LENGTH, rows=3, law=TokenLaw(), steps=3)
    rollout = Rollout.from_output(out)
    made = Rollout.of_steps(
        rollout.tokens, rollout.step_index, mask_token_id=8, logprob=rollout.logprob
    )
    assert torch.equal(made.initial, rollout.initial)
    for name in ("step_index", "logprob"):
        assert torch.equal(getattr(made, name), getattr(rollout, name)), name
    assert (made.step_logprob - rollout.step_logprob).abs().max() <= 1e-6
    assert torch.equal(replay(toy, made).logprob, replay(toy, rollout).logprob)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("llada-entropy", {"start": [5, 5, 0, 0, 7, 0]}),
        ("ancestral", {"start": [5, 4, 3, 2, 7, 1], "t_start": 0.5}),
        ("remdm-cap", {"start": [5, 4, 3, 0, 7, 1], "t_start": 0.5, "renoise": False}),
    ],
)
def test_a_draft_is_no_step(sampler: str, options: dict[str, object], tmp_path: Path) -> None:
    """Draft tokens that stay were not drawn: beside the run, after it, and in a file."""
    table = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))

    def network(input_ids: torch.Tensor) -> torch.Tensor:
        return table[: input_ids.shape[1]].expand(len(input_ids), -1, -1)

    toy = wrap(network, vocab_size=8, mask_token_id=0)
    out = generate(
        toy, [[1], [2, 1, 1]], sampler=sampler, steps=4, temperature=1.0, top_p=1.0, seed=5,
        return_rollout=True, return_trajectory=True, num_return_sequences=4, **options,
    )  # fmt: skip
    rollout = out.rollout
    assert rollout is not None and out.trajectory is not None
    drawn = torch.zeros_like(rollout.editable)
    for event in out.trajectory.events:
        drawn[event.rows] |= event.written
    assert torch.equal(rollout.step_index >= 0, drawn & rollout.editable)
    kept = rollout.editable & ~drawn
    assert kept.any() and torch.equal(rollout.initial[kept], rollout.tokens[kept])
    assert torch.equal(rollout.logprob, torch.where(drawn, out.logprobs, 0.0))
    wanted = replay(toy, out.trajectory).logprob
    path = tmp_path / "r.safetensors"
    rollout.save(path)
    for same_run in (rollout, Rollout.load(path), Rollout.from_output(out)):
        assert torch.equal(same_run.step_index, rollout.step_index)
        assert torch.equal(replay(toy, same_run).logprob, wanted)
    half = Rollout.cat([rollout.select(torch.tensor([6, 1])), rollout.select(torch.tensor([0]))])
    assert torch.equal(replay(toy, half).logprob, wanted[torch.tensor([6, 1, 0])])
