"""What the adapters of the trajectory fixtures share: a case in, canvases and NFE out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from dlm_sampling.engine.sample import sample
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.testing import FixtureToy
from dlm_sampling.types import Sampler, TokenLaw


class Replay(NamedTuple):
    """What our sampler did with a case, in the format of the fixture."""

    canvases: list[list[list[int]]]  # [calls][B][L], the canvas of every forward pass
    final: list[list[int]]  # [B][L]
    nfe: int
    expect: dict[str, Any] = {}  # noqa: RUF012  further outputs by the fixture's names


def toy_of(
    case: dict[str, Any], toys: dict[str, FixtureToy], *, shifted: bool = False
) -> FixtureToy:
    """The case's toy in its variant."""
    dtype = {"float64": torch.float64, "float32": torch.float32}[case["logits_dtype"]]
    return toys[case["toy"]].variant(mask_logit=case["mask_logit"], shifted=shifted, dtype=dtype)


def replay(
    case: dict[str, Any],
    toy: FixtureToy,
    sampler: Sampler[Any],
    *,
    steps: int | None = None,
    block_length: int | None = None,
    law: TokenLaw | None = None,
    every_step: bool = True,
    **options: Any,
) -> Replay:
    """Run a case of the form prompt + gen_length masks (or canvas0) through the loop."""
    mask = case["mask_id"]
    if "canvas0" in case["inputs"]:
        tokens = torch.tensor(case["inputs"]["canvas0"])
        editable = tokens == mask
    else:
        prompt = torch.tensor(case["inputs"]["prompt"])
        new = torch.full((len(prompt), case["args"]["gen_length"]), mask)
        tokens = torch.cat([prompt, new], 1)
        editable = torch.cat([torch.zeros_like(prompt), torch.ones_like(new)], 1).bool()
    attention = None
    if "attention_mask" in case["inputs"]:
        given = torch.tensor(case["inputs"]["attention_mask"])
        attention = torch.cat(
            [given, torch.ones(len(given), tokens.shape[1] - given.shape[1]).long()], 1
        ).bool()
    guidance = case["args"].get("cfg_scale", 0.0)
    out = sample(
        toy,
        sampler,
        tokens,
        editable,
        attention_mask=attention,
        seeds=list(range(len(tokens))),
        steps=steps,
        block_length=block_length,
        law=law or TokenLaw(temperature=0.0),
        guidance_scale=guidance,
        every_step=every_step,
        suppress_mask=case["mask_logit"] is not None,
        return_trajectory=True,
        **options,
    )
    assert out.trajectory is not None
    rows = [row_calls(out.trajectory, b) for b in range(len(tokens))]
    canvases = in_step(rows)
    own = torch.tensor([sum(len(seen) for seen, _ in row.values()) for row in rows])
    nfe = int((out.nfe // (2 if guidance else 1) + len(canvases) - own).max())
    return Replay(canvases, out.tokens.tolist(), nfe)


Calls = dict[int, tuple[list[list[int]], list[int]]]
"""By block: the canvases of one row that the model saw, and the canvas that the block left."""


def row_calls(trajectory: Trajectory, row: int) -> Calls:
    """The model calls of one row, block by block."""
    calls: Calls = {}
    for event, i in trajectory.steps(row):
        seen, _ = calls.get(int(event.block[i]), ([], []))
        new = [event.before[i].tolist()] if bool(event.forwarded[i]) else []
        calls[int(event.block[i])] = (seen + new, event.tokens[i].tolist())
    return calls


def in_step(rows: list[Calls]) -> list[list[list[int]]]:
    """Align rows block by block, as in the released batch loops.

    A row that is done with a block waits, unchanged, and is seen again while the others go on.
    """
    canvases: list[list[list[int]]] = []
    for block in sorted({block for row in rows for block in row}):
        parts = [row[block] for row in rows]
        width = max(len(seen) for seen, _ in parts)
        held = [seen + [left] * (width - len(seen)) for seen, left in parts]
        canvases += [list(call) for call in zip(*held, strict=True)]
    return canvases
