"""Check a denoiser, one property at a time; each check gives a finding with its remedy."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dlm_sampling.checkup.memory import expected_memory, in_units
from dlm_sampling.checkup.patient import LENGTH, PADDING, Finding, Patient

BATCH_ROWS, BATCH_LENGTH = 16, 1024
"""The batch whose memory is estimated; its rows are shorter where the context is."""


def check_parameters(patient: Patient) -> Finding:
    """Count the weights."""
    count = patient.denoiser.num_parameters
    if not count:
        return Finding("skip", "a plain function: no weights to count")
    context = patient.denoiser.max_length
    limit = "no limit" if context is None else f"{context} tokens"
    return Finding("pass", f"{count:,} parameters; context: {limit}")


def check_config(patient: Patient) -> Finding:
    """List the keys of the checkpoint's config that nothing reads."""
    unread = patient.denoiser.unread_keys
    if unread:
        return Finding("pass", f"not read, of training or null: {', '.join(unread)}")
    return Finding("pass", "no unread key")


def check_dtype(patient: Patient) -> Finding:
    """Check dtype and device of the weights."""
    dtype, device = patient.denoiser.dtype, patient.denoiser.device
    packed = patient.denoiser.quantized
    found = f"{str(dtype).removeprefix('torch.')} on {device}"
    found += "" if packed is None else f", linear layers quantised by {packed}"
    if dtype is not None and dtype.itemsize == 2 and device.type == "cpu":
        remedy = "pass dtype='float32': 16-bit matrix products are slow on a CPU"
        return Finding("warn", found, remedy)
    return Finding("skip" if dtype is None else "pass", found)


def check_memory(patient: Patient) -> Finding:
    """Estimate the memory of a batch by formula; see `memory`, which has the assumptions."""
    denoiser = patient.denoiser
    length = min(BATCH_LENGTH, denoiser.max_length or BATCH_LENGTH)
    memory = expected_memory(denoiser, BATCH_ROWS, length)
    found = f"{memory}; without guidance and gradients"
    if denoiser.device.type != "cuda":
        return Finding("pass", found)
    free = torch.cuda.mem_get_info(denoiser.device)[0]
    if memory.total - memory.weights > free:
        remedy = f"{in_units(free)} are free: run fewer rows at a time (batch_size=)"
        return Finding("warn", found, remedy)
    return Finding("pass", found)


def check_mask_id(patient: Patient) -> Finding:
    """Check that the mask id is a token of its own."""
    denoiser, mask, tokenizer = patient.denoiser, patient.mask_id, patient.tokenizer
    if mask is None:
        return Finding("skip", "no mask token: the noise is uniform")
    if mask in (denoiser.eos_token_id, denoiser.pad_token_id):
        remedy = "pass the right mask_token_id="
        return Finding("fail", f"{mask} is also the end or padding token", remedy)
    if tokenizer is None:
        return Finding("pass", f"{mask}; no tokenizer to compare it with")
    own: int | None = tokenizer.mask_token_id
    if own is not None and own != mask:
        remedy = f"pass mask_token_id={own} if the tokenizer is right"
        return Finding("warn", f"{mask}, but the tokenizer's mask token is {own}", remedy)
    named = tokenizer.convert_ids_to_tokens(mask) if mask < len(tokenizer) else None
    return Finding("pass", f"{mask} ({named or 'outside the tokenizer'})")


def check_vocabulary(patient: Patient) -> Finding:
    """Check that every id of the tokenizer has a column of logits, and the reverse."""
    width = patient.denoiser.vocab_size
    if patient.tokenizer is None:
        remedy = "pass tokenizer= to use text"
        return Finding("skip", f"{width} columns; no tokenizer", remedy)
    tokens = len(patient.tokenizer)
    found = f"{width} columns for {tokens} tokens"
    if tokens > width:
        remedy = "the tokenizer belongs to another model: pass tokenizer="
        return Finding("fail", f"{found}: some ids have no column", remedy)
    spare = set(range(tokens, width)) - set(patient.denoiser.suppressed) - {patient.mask_id}
    if spare:
        remedy = "suppress them if one is ever drawn: they decode to nothing"
        return Finding("warn", f"{found}: {len(spare)} columns have no token", remedy)
    return Finding("pass", found)


def check_finite(patient: Patient) -> Finding:
    """Check that the logits are finite."""
    bad = int((~patient.baseline.isfinite()).sum())
    remedy = "load with dtype='float32', or download the weights again"
    if bad:
        return Finding("fail", f"{bad} logits are not finite", remedy)
    return Finding("pass", "all logits are finite")


def check_repeatable(patient: Patient) -> Finding:
    """Check that the same input gives the same logits; with dropout on, it does not."""
    difference = gap(patient.logits(patient.noised), patient.baseline)
    remedy = "call .eval() on the module: dropout is on"
    return verdict(difference, patient.tolerance, "two passes", remedy)


def check_alignment(patient: Patient) -> Finding:
    """Check by paired losses which alignment of the logits predicts masked tokens best."""
    if patient.tokenizer is None or patient.mask_id is None:
        remedy = "pass tokenizer=" if patient.tokenizer is None else ""
        return Finding("skip", "needs a tokenizer and a mask token", remedy)
    loss = {offset: alignment_losses(patient, offset) for offset in (0, -1, 1)}
    mean = {offset: float(values.mean()) for offset, values in loss.items()}
    uniform = math.log(patient.denoiser.vocab_size)
    found = (
        f"loss of hidden tokens by the logits in place {mean[0]:.2f} nats, "
        f"one before {mean[-1]:.2f}, one after {mean[1]:.2f}; "
        f"uniform {uniform:.2f}"
    )
    best = min(mean, key=lambda offset: mean[offset])
    others = [z_score(loss[other] - loss[best]) for other in loss if other != best]
    if min(others) < 3 or mean[best] > uniform - 1:
        remedy = "no alignment is clearly better: untrained weights, or pass text= the model knows"
        return Finding("warn", found, remedy)
    if best == 0:
        return Finding("pass", found)
    remedy = {-1: "the logits are late: wrap(..., shifted=True)", 1: "the logits are shifted twice"}
    return Finding("fail", found, remedy[best])


def alignment_losses(patient: Patient, offset: int) -> Tensor:
    """Return the losses of the masked tokens under the logits `offset` columns away, [L - 2].

    The first and the last position are left out.
    """
    logits = patient.baseline.clone()
    logits[..., patient.mask_id] = -torch.inf
    inside = patient.masked.clone()
    inside[:, [0, -1]] = False
    rows, places = inside.nonzero(as_tuple=True)
    law = logits[rows, places + offset].log_softmax(dim=-1)
    order = places.argsort()
    return -law.gather(1, patient.tokens[0, places, None])[order, 0]


def z_score(differences: Tensor) -> float:
    """Return the mean of paired differences divided by its standard error."""
    error = differences.std() / math.sqrt(len(differences))
    return float(differences.mean() / error.clamp_min(1e-9))


def check_attention(patient: Patient) -> Finding:
    """Check that the first token's logits depend on the last token (of its block, if any)."""
    row, block = patient.noised[:1], patient.denoiser.block_length
    place = min(row.shape[1], block or row.shape[1]) - 1
    whose = "token" if block is None else f"token of a block of {block}"
    first = row.shape[1] - (patient.denoiser.canvas_length or row.shape[1])
    last = int(row[0, place])
    others = patient.tokens[patient.tokens != last]
    changed = row.clone()
    changed[0, place] = int(others[0]) if len(others) else (last + 1) % 2
    moved = gap(patient.logits(changed)[0, first], patient.logits(row)[0, first])
    if moved == 0.0:
        remedy = "the model attends to the left only: switch its causal mask off"
        return Finding("fail", f"the last {whose} does not reach the first", remedy)
    return Finding("pass", f"full: the last {whose} moves the first by {moved:.1e}")


def check_padding(patient: Patient) -> Finding:
    """Check that a row with padding on the left gives the logits of the row alone."""
    denoiser = patient.denoiser
    room = (denoiser.max_length or LENGTH + PADDING) - PADDING
    row = patient.noised[:1, :room]
    filler = denoiser.pad_token_id if denoiser.pad_token_id is not None else patient.tokens[0, 0]
    pads = torch.full((1, PADDING), int(filler))
    mask = torch.cat((torch.zeros_like(pads), torch.ones_like(row)), dim=1)
    padded = patient.logits(torch.cat((pads, row), dim=1), mask)[:, PADDING:]
    difference = gap(padded, patient.logits(row))
    if denoiser.honours_padding:
        remedy = "the attention mask is not applied: pass honours_padding=False to wrap()"
        return verdict(difference, patient.tolerance, "padded and alone", remedy)
    found = f"not declared; padded and alone differ by {difference:.1e}"
    if difference <= patient.tolerance:
        return Finding("warn", found, "honours_padding=True would let rows run together")
    return Finding("pass", f"{found}; such rows run separately")


def check_batch(patient: Patient) -> Finding:
    """Check that a row in a batch gives the logits of the row alone."""
    alone = torch.cat([patient.logits(row[None]) for row in patient.noised[:2]])
    difference = gap(alone, patient.baseline[:2])
    remedy = "rows influence each other: sample with one row at a time"
    return verdict(difference, patient.tolerance, "batch and single", remedy)


def check_time(patient: Patient) -> Finding:
    """Check whether the time changes the logits, as `time_conditioned` declares."""
    declared = patient.denoiser.time_conditioned
    difference = gap(patient.logits(patient.noised, t=0.9), patient.logits(patient.noised, t=0.1))
    claim = "declared" if declared else "none declared"
    found = f"{claim}; t = 0.1 and 0.9 differ by {difference:.1e}"
    if declared and difference == 0.0:
        remedy = "drop time_conditioned=True, or pass t on to the network"
        return Finding("warn", found, remedy)
    return Finding("pass", found)


def gap(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference; infinite if any difference is NaN."""
    return float((a - b).abs().nan_to_num(nan=math.inf).max())


def verdict(difference: float, tolerance: float, what: str, remedy: str) -> Finding:
    """Return a pass if the difference is at most `tolerance`, else a failure."""
    found = f"{what} differ by {difference:.1e} (rounding: up to {tolerance:.1e})"
    if difference <= tolerance:
        return Finding("pass", found)
    return Finding("fail", found, remedy)


CHECKS: dict[str, Callable[[Patient], Finding]] = {
    "parameters": check_parameters,
    "config keys": check_config,
    "dtype": check_dtype,
    "memory": check_memory,
    "mask id": check_mask_id,
    "vocabulary": check_vocabulary,
    "finite": check_finite,
    "repeatable": check_repeatable,
    "alignment": check_alignment,
    "attention": check_attention,
    "padding": check_padding,
    "batch": check_batch,
    "time conditioning": check_time,
}
