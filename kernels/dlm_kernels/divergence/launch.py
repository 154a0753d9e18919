"""Launch KL(p || q) between two tensors of logits: the twin of dlm_sampling.ops.divergence.

    KL = sum_v p(v) ln((p(v) + e) / (q(v) + e)),   p = exp(x - ln Z_x),  q = exp(y - ln Z_y)

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from dlm_kernels.common.device_tables import suppressed_table
from dlm_kernels.common.support import obstacle, refuse
from dlm_kernels.common.tiles import TILE
from dlm_kernels.divergence.kernel import divergence_kernel

_GROUP = 8  # tiles per program


def divergence(
    logits: Tensor,
    previous: Tensor,
    log_normalizer: Tensor,
    previous_log_normalizer: Tensor,
    *,
    suppressed: Sequence[int] = (),
    rows: Tensor | None = None,
    tiny: float = 1e-12,
) -> Tensor:
    """Return KL(p || q) >= 0 in nats, float32 [R], without synchronising.

    Args:
        logits: [N, V] of p; float32, float16 or bfloat16 of any strides.
        previous: [N, V] of q.
        log_normalizer: [R], logsumexp of the rows of p asked for.
        previous_log_normalizer: [R], of q.
        suppressed: ids of probability 0.
        rows: int64 [R], or None for all rows in order.
        tiny: added to both probabilities.

    Raises:
        ValueError: a suppressed id outside of the vocabulary.
        TypeError: the kernel cannot run: device, dtype, size of the vocabulary.
    """
    norms = (log_normalizer, previous_log_normalizer)
    return divergence_rows(logits, previous, *norms, rows, sorted(set(suppressed)), tiny)


@torch.library.custom_op(
    "dlm_kernels::divergence_rows",
    mutates_args=(),
    schema="(Tensor logits, Tensor previous, Tensor norms, Tensor previous_norms, Tensor? rows, "
    "int[] suppressed, float tiny) -> Tensor",
)
def divergence_rows(
    logits: Tensor, previous: Tensor, norms: Tensor, previous_norms: Tensor, rows: Tensor | None,
    suppressed: Sequence[int], tiny: float,
) -> Tensor:  # fmt: skip
    """Run `divergence` as an operator; suppressed ascending."""
    vocab, device = logits.shape[1], logits.device
    refuse(obstacle(device, logits.dtype, vocab=vocab))
    count, tiles = norms.shape[0], triton.cdiv(vocab, TILE.value)
    groups = triton.cdiv(tiles, _GROUP)
    out = torch.zeros(count, groups, dtype=torch.float32, device=device)
    if count:
        with torch.cuda.device_of(logits):
            divergence_kernel[(count, groups)](
                logits, previous, None if rows is None else rows.contiguous(),
                norms.float().contiguous(), previous_norms.float().contiguous(),
                *suppressed_table(tuple(suppressed), vocab, device), out, vocab, tiles,
                logits.shape[0], tiny,
                *logits.stride(), *previous.stride(), HAS_ROWS=rows is not None, GROUP=_GROUP,
                num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return out.sum(1).clamp_min_(0.0)


@divergence_rows.register_fake
def _(logits: Tensor, previous: Tensor, norms: Tensor, *_: object) -> Tensor:
    return torch.empty(norms.shape, dtype=torch.float32, device=logits.device)
