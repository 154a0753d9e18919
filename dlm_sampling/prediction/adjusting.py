"""Change logits by the canvas of their row before the token law: penalties and processors.

    repetition    x(v) -> x(v) / r where x(v) > 0, x(v) r else    for v present elsewhere in the row
    presence      x(v) -> x(v) - a                      for v present where the run writes

A token is present at a position if it stands in another column of the row that is no padding.  The
mask may count, as it is never drawn.  Keskar et al. 2019, arXiv:1909.05858; the released rules of
transformers (repetition) and of OpenAI's interface (presence).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.errors import named
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.types import LogitsProcessor, TokenLaw
from dlm_sampling.types.values import distinct, ints


def adjust_of(law: TokenLaw, x: Tensor, rows: PassRows, sites: Sites) -> ops.Adjust | None:
    """Return what a law does to the logits of the positions first; None if it reads no canvas.

    Args:
        law: its penalties and its processor are read.
        x: int64 [A, L], the canvases that were predicted.
        rows: of the pass; `attention`, and `given` for the presence penalty, are read.
        sites: the positions that are drawn.
    """
    if not law.reads_canvas:
        return None

    def adjust(logits: Tensor, draws: Tensor) -> Tensor:
        row, column = sites.row[draws], sites.column[draws]
        counted = torch.arange(x.shape[1], device=x.device) != column.unsqueeze(1)
        if rows.attention is not None:
            counted = counted & rows.attention[row]
        if law.repetition_penalty != 1.0:
            here = present(x[row], counted, logits.shape[1])
            logits = logits.where(~here, penalised(logits, law.repetition_penalty))
        if law.presence_penalty != 0.0:
            assert rows.given is not None
            here = present(x[row], counted & ~rows.given[row], logits.shape[1])
            logits = logits - law.presence_penalty * here
        if law.logits_processor is not None:
            first = _first_columns(rows, x)[row]
            logits = processed(law.logits_processor, x[row], first, column, logits)
        return logits

    return adjust


def penalised(logits: Tensor, penalty: float) -> Tensor:
    """Return x / r where x > 0, and x r elsewhere."""
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def present(x: Tensor, counted: Tensor, vocab: int) -> Tensor:
    """Return which tokens stand in a counted column, bool [r, V].

    Args:
        x: int64 [r, L], canvases.
        counted: bool [r, L].
        vocab: V.
    """
    ids = x.masked_fill(~counted, vocab)  # a column for what does not count
    return torch.zeros(len(x), vocab + 1, dtype=torch.bool, device=x.device).scatter(1, ids, True)[
        :, :vocab
    ]


def processed(
    processor: LogitsProcessor, x: Tensor, first: Tensor, column: Tensor, logits: Tensor
) -> Tensor:
    """Return the logits behind a processor of transformers, called once per place in the rows.

    Args:
        processor: takes ids int64 [n, p] and logits [n, V].
        x: int64 [r, L], the canvas of each position.
        first: int64 [r], first column of each row that is no padding.
        column: int64 [r], the position's column.
        logits: [r, V].

    Raises:
        TypeError, ValueError: it returned something else than logits of the same shape.
    """
    out, place = logits, column - first
    for p in ints(distinct(place)[0]):
        at = (place == p).nonzero().squeeze(1)
        columns = first[at].unsqueeze(1) + torch.arange(p, device=x.device)
        mine = processor(x[at].gather(1, columns), logits[at])
        if not isinstance(mine, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"logits_processor returned {named(mine)}: must return logits [r, V].")
        if mine.shape != (len(at), logits.shape[1]):
            raise ValueError(
                f"logits_processor returned shape {tuple(mine.shape)}: must be "
                f"{(len(at), logits.shape[1])}, that of its logits."
            )
        out = out.index_copy(0, at, mine.to(out.dtype))
    return out


def _first_columns(rows: PassRows, x: Tensor) -> Tensor:
    """Return the first column of each row that is no padding, int64 [A]."""
    if rows.attention is None:
        return torch.zeros_like(x[:, 0])
    return rows.attention.long().argmax(1)
