"""Compute KL(p || q) between two tensors of logits, row by row.

    KL = sum_v p(v) ln((p(v) + e) / (q(v) + e)),   p = exp(x - ln Z_x),  q = exp(y - ln Z_y)

It tells how far a law has moved.  e = 0 is the divergence itself; KLASS adds e = 1e-12.  Neither
law is stored.  Kim et al. 2025, "KLASS: KL-Guided Fast Inference in Masked Diffusion Models",
arXiv:2511.05664, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlm_sampling.ops._dispatch import kernel
from dlm_sampling.ops.scratch import Scratch, scratch_for
from dlm_sampling.ops.sources import Block, blocks, one_of, shape_of
from dlm_sampling.ops.tiles import chunks
from dlm_sampling.ops.vocabulary import Columns, allowed_ids
from dlm_sampling.types import TokenLaw

_KLASS = 1e-12


@torch.no_grad()
def divergence(
    logits: Tensor,
    previous: Tensor,
    log_normalizer: Tensor,
    previous_log_normalizer: Tensor,
    *,
    law: TokenLaw | None = None,
    rows: Tensor | None = None,
    tiny: float = _KLASS,
) -> Tensor:
    """Return KL(p || q) >= 0 in nats, [R].

    Args:
        logits: [N, V] of p.
        previous: [N, V] of q.
        log_normalizer: [R], logsumexp of the rows of `logits` that are asked for, without the
            suppressed ids; `Draw.log_normalizer` with statistics="model".
        previous_log_normalizer: [R], likewise of `previous`.
        law: its suppressed ids have probability 0 in both; nothing else of it is read.
        rows: int64 [R], rows of both, or None for all rows in order.
        tiny: e, added to both probabilities.

    Returns:
        float64 for float64 logits, else float32.

    Raises:
        ValueError: shapes do not fit, or an id is outside of the vocabulary.
    """
    count, vocab = shape_of(logits)
    wanted = count if rows is None else rows.shape[0]
    shapes = (previous.shape, log_normalizer.shape, previous_log_normalizer.shape)
    if shapes != (logits.shape, (wanted,), (wanted,)):
        found = ", ".join(str(tuple(s)) for s in shapes)
        raise ValueError(
            f"previous and the normalisers have shapes {found}: must be {tuple(logits.shape)}, "
            f"({wanted},) and ({wanted},)."
        )
    law = law or TokenLaw()
    fused = kernel("divergence", logits, dtype=logits.dtype, vocab=vocab)
    if fused is not None:
        return fused(
            logits, previous, log_normalizer, previous_log_normalizer,
            suppressed=law.suppressed, rows=rows, tiny=tiny,
        )  # fmt: skip
    suppressed = allowed_ids(vocab, tuple(law.suppressed), logits.device).suppressed
    scratch = scratch_for(vocab, logits.device)
    norms = (log_normalizer, previous_log_normalizer)
    parts: list[Tensor] = []
    for one, other in zip(blocks(logits, rows), blocks(previous, rows), strict=True):
        for here in chunks(one, filters=True):
            span = slice(one.span.start + here.start, one.span.start + here.stop)
            p = _law(one, here, norms[0][span], suppressed, scratch, "p")
            q = _law(other, here, norms[1][span], suppressed, scratch, "q")
            ratio = (p + tiny).log_().sub_((q + tiny).log_())
            terms = ratio.mul_(p)
            if tiny == 0.0:  # 0 * (-inf) is 0 here; with e > 0 no term is infinite
                terms.masked_fill_(p == 0.0, 0.0)
            parts.append(terms.sum(-1).clamp_min_(0.0))
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return one_of(parts, torch.empty(0, dtype=dtype, device=logits.device))


def _law(
    block: Block,
    here: slice,
    log_normalizer: Tensor,
    suppressed: Columns,
    scratch: Scratch,
    name: str,
) -> Tensor:
    """Return the probabilities of some rows of a block, [r, V]."""
    logits = block.chunk(here, scratch, name)
    law = (logits - log_normalizer.to(block.dtype)[:, None]).exp_()
    suppressed.fill(law, 0.0)
    return law
