"""Launch log-probabilities under the sampled law: the twin of dlm_sampling.ops.log_probs.

    ln p(v) = (x_v - m) / T - ln sum_u exp((x_u - m) / T)

The passes leave the sum; then one logit per row is read again for given tokens, or all of them to
write [R, V].

No GPU has run this yet; see kernels/STATUS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from dlm_kernels.common.device_tables import Filters, Law, law_inverse_temperatures
from dlm_kernels.common.logit_pass import Logits, blocks, run_passes, shape_of
from dlm_kernels.common.results import NEVER, columns, refuse_lawless, temperatures_of
from dlm_kernels.common.support import obstacle, refuse
from dlm_kernels.common.tiles import TILE
from dlm_kernels.log_probs.kernel import log_probs_kernel

_MODEL = Law()


def log_prob_of(
    source: Tensor | Any,
    tokens: Tensor,
    *,
    law: Law | Any = _MODEL,
    rows: Tensor | None = None,
    check: bool = True,
    temperatures: Tensor | None = None,
) -> Tensor:
    """Return the log-probability of given tokens under the sampled law, float32 [R].

    Args:
        source: logits [N, V], or a dlm_sampling.ops.LogitRows or Pair.
        tokens: int64 [R]; NaN where it is no id of the vocabulary.
        law: temperature, filters and suppressed ids.
        rows: int64 [R], or None for all rows in order.
        check: refuse rows that define no law; waits for the device.
        temperatures: float [R] instead of the law's.

    Raises:
        ValueError: a suppressed id outside of the vocabulary; with `check`, a row without a law or
            a temperature that is negative or not finite.
        TypeError: the kernels cannot run: device, dtype, size of the vocabulary.
    """
    return _run(source, tokens, law, rows, check, temperatures)


def log_probs(
    source: Tensor | Any,
    *,
    law: Law | Any = _MODEL,
    rows: Tensor | None = None,
    check: bool = True,
    temperatures: Tensor | None = None,
) -> Tensor:
    """Return the logarithm of the sampled law, float32 [R, V]; arguments as `log_prob_of`."""
    return _run(source, None, law, rows, check, temperatures)


def _run(
    source: Tensor | Any, tokens: Tensor | None, law: Law | Any, rows: Tensor | None, check: bool,
    temperatures: Tensor | None,
) -> Tensor:  # fmt: skip
    count, vocab = shape_of(source)
    wanted = count if rows is None else rows.shape[0]
    first = getattr(source, "first", source)
    device = first.device
    refuse(obstacle(device, vocab=vocab))
    tempered = temperatures_of(law, temperatures, True, check)
    suppressed = sorted(set(law.suppressed))
    found = [
        log_probs_rows(
            *block.logits[:3], block.rows, None if tokens is None else tokens[block.span],
            block.span.stop - block.span.start, columns(tempered.inverses, block.span),
            tempered.numbers[1], suppressed, *Filters.of(law), block.logits.kind,
            tempered.mode != NEVER,
        )
        for block in blocks(source, rows, wanted)
    ] or [_results(0, vocab, tokens is None, device)]  # fmt: skip
    out, status = (torch.cat(field) for field in zip(*found, strict=True))
    if check:
        refuse_lawless(status)
    return out


def _results(count: int, vocab: int, every: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (count, vocab) if every else (count,)
    return (
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(count, dtype=torch.int32, device=device),
    )


@torch.library.custom_op(
    "dlm_kernels::log_probs_rows",
    mutates_args=(),
    schema="(Tensor logits, Tensor? second, Tensor? mix, Tensor? rows, Tensor? tokens, int count, "
    "Tensor? inverses, float temperature, int[] suppressed, int top_k, float top_p, float min_p, "
    "bool include, int kind, bool greedy) -> (Tensor, Tensor)",
)
def log_probs_rows(
    logits: Tensor, second: Tensor | None, mix: Tensor | None, rows: Tensor | None,
    tokens: Tensor | None, count: int, inverses: Tensor | None, temperature: float,
    suppressed: Sequence[int],
    top_k: int, top_p: float, min_p: float, include: bool, kind: int, greedy: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run the passes and the log-probabilities as one operator, without synchronising.

    Args:
        logits: as `draw_rows`, and so are second, mix, rows, inverses, suppressed, the filters and
            kind; the law's own temperature stands in both rows of inverses.
        second: [N, V] or None.
        mix: float32 [2, N] or [2, 1], or None.
        rows: int64 [R] or None.
        tokens: int64 [R], or None for every token.
        count: R.
        inverses: float32 [3, R], or None for the next.
        temperature: of the law.
        suppressed: ids, ascending.
        top_k: 0 for no limit.
        top_p: 1 for all.
        min_p: 0 for all.
        include: whether the token that crosses top_p is kept.
        kind: see `tiles.combined`.
        greedy: whether some temperatures may be 0.

    Returns:
        float32 [R], or [R, V] without tokens; and a status int32 [R], 0 where there is a law.
    """
    vocab, every = logits.shape[1], tokens is None
    out, status = _results(count, vocab, every, logits.device)
    if count == 0:
        return out, status
    device = logits.device
    inverses = (
        law_inverse_temperatures(temperature, temperature, device) if inverses is None else inverses
    )
    filters = Filters(top_k, top_p, min_p, include)
    tensors, boundary, where, options = run_passes(
        Logits(logits, second, mix, kind), rows, count, inverses, tuple(suppressed), filters,
        one_law=True, law_statistics=True,
    )  # fmt: skip
    grid = (count, triton.cdiv(vocab, TILE.value)) if every else (count,)
    with torch.cuda.device_of(logits):
        log_probs_kernel[grid](
            *tensors, None if tokens is None else tokens.contiguous(), out, status, *boundary,
            *where, **options, GREEDY=greedy, FILTERS=filters.active, EVERY=every, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
    return out, status


@log_probs_rows.register_fake
def _(
    logits: Tensor, second: Tensor | None, mix: Tensor | None, rows: Tensor | None,
    tokens: Tensor | None, count: int, *_: object,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _results(count, logits.shape[1], tokens is None, logits.device)
