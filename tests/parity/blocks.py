"""Replay of block-causal cases: growing canvases, rows in step, a tail in the last block."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.engine.sample import sample
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.testing import FixtureToy
from dlm_sampling.types import Sampler, TokenLaw
from tests.parity.common import Replay


class Row(NamedTuple):
    """The model calls of one row: the end of the block and the canvas that each call saw."""

    calls: list[tuple[int, Tensor]]
    final: Tensor
    ended: bool  # by an end token

    def inside(self, end: int) -> list[list[int]]:
        """What the calls of the block that ends at `end` saw."""
        return [canvas[:end].tolist() for e, canvas in self.calls if e == end]

    def after(self, end: int) -> list[int]:
        """The canvas that the row leaves at the end of that block."""
        return next((canvas for e, canvas in self.calls if e > end), self.final)[:end].tolist()


def replay_blocks(
    case: dict[str, Any],
    toy: FixtureToy,
    sampler: Sampler[Any],
    *,
    steps_per_block: int,
    law: TokenLaw,
    every_step: bool,
    keep_tail: bool,
    end_token: int | None = None,
) -> Replay:
    """Run a case of the form prompt + masks up to the next multiple of the block.

    keep_tail: the tail belongs to the result and is attended to; else it is padding and dropped.
    end_token: a row ends in a step that writes it, once nothing before its first one is masked.
    """
    args, prompt = case["args"], torch.tensor(case["inputs"]["prompt"])
    width, stop = args["block_length"], prompt.shape[1] + args["gen_length"]
    total = -(-stop // width) * width
    tokens = torch.nn.functional.pad(prompt, (0, total - prompt.shape[1]), value=case["mask_id"])
    column = torch.arange(total).expand(tokens.shape)
    out = sample(
        toy,
        sampler,
        tokens,
        column >= prompt.shape[1],
        attention_mask=None if keep_tail else column < stop,
        seeds=list(range(len(tokens))),
        block_length=width,
        steps_per_block=steps_per_block,
        align_blocks=True,
        causal_blocks=True,
        law=law,
        every_step=every_step,
        suppress_mask=case["mask_logit"] is not None,
        return_trajectory=True,
    )
    assert out.trajectory is not None
    rows = [
        row_of(out.trajectory, b, prompt.shape[1], width, end_token) for b in range(len(tokens))
    ]
    canvases = in_step(rows, steps_per_block, case["mask_id"])
    final = torch.stack([row.final for row in rows])
    return Replay(canvases, (final if keep_tail else final[:, :stop]).tolist(), len(canvases))


def row_of(trajectory: Trajectory, row: int, prompt: int, width: int, end_token: int | None) -> Row:
    """The model calls of one row, up to its end token."""
    calls: list[tuple[int, Tensor]] = []
    tokens = trajectory.initial[row]
    for event, i in trajectory.steps(row):
        tokens = event.tokens[i]
        if bool(event.forwarded[i]):
            calls.append(((prompt // width + int(event.block[i]) + 1) * width, event.before[i]))
        is_end = tokens == end_token if end_token is not None else torch.zeros_like(tokens).bool()
        if not bool((is_end & event.written[i]).any()):
            continue
        first = int(is_end.long().argmax())
        if first >= prompt and not bool(event.unknown[i, prompt:first].any()):
            return Row(calls, tokens, True)
    return Row(calls, tokens, False)


def in_step(rows: list[Row], steps: int, mask: int) -> list[list[list[int]]]:
    """Align rows block by block, as released batch loops run: a row done with a block waits.

    A waiting row is fed its canvas again.  The masks that an ended row leaves keep every block
    going for all its planned steps, until the last row has ended.
    """
    ends = sorted({end for row in rows for end, _ in row.calls})
    canvases: list[list[list[int]]] = []
    for end in ends:
        seen = [row.inside(end) for row in rows]
        calls = max(len(own) for own in seen)
        idle = [r.ended and end >= r.calls[-1][0] and mask in r.after(end) for r in rows]
        closing = end == ends[-1] and all(row.ended for row in rows)
        if any(idle) and not closing:
            calls = max(calls, steps)
        held = [
            own + [row.after(end)] * (calls - len(own)) for own, row in zip(seen, rows, strict=True)
        ]
        canvases += [[own[n] for own in held] for n in range(calls)]
    return canvases
