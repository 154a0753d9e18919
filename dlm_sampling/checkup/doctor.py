"""Check whether a model behaves as a denoiser must, before it is used for sampling."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.denoisers import AutoDenoiser, CheckpointError, Denoiser

Status = Literal["pass", "fail", "warn", "skip"]

PASSAGE = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having "
    "nothing to do: once or twice she had peeped into the book her sister was reading, but it had "
    "no pictures or conversations in it, and what is the use of a book, thought Alice, without "
    "pictures or conversations? So she was considering in her own mind, as well as she could, for "
    "the hot day made her feel very sleepy and stupid, whether the pleasure of making a daisy "
    "chain would be worth the trouble of getting up and picking the daisies."
)
"""Lewis Carroll, Alice's Adventures in Wonderland, 1865."""

LENGTH = 96
STRIDE = 4
PADDING = 5
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_TOLERANCE = 0.1


@dataclass(frozen=True)
class Check:
    """Hold the result of one named check.

    Fields:
        name: name of the check.
        status: "pass"; "fail" if samples would be wrong; "warn" if samples may suffer; "skip" if
            the check does not apply.
        detail: the observation.
        remedy: the action to take, empty on a pass.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


class Finding(NamedTuple):
    """Hold the result of a check without its name; see `Check`."""

    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """Hold the results of all checks of one model.

    Fields:
        model: name or path, or the class of the denoiser.
        family: the checkpoint family that loaded the model.
        checks: the results, in the order of the checks.
    """

    model: str
    family: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Return whether no check failed."""
        return all(check.status != "fail" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "checks": [asdict(check) for check in self.checks], "ok": self.ok}

    def to_json(self) -> str:
        """Return the report as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)


@dataclass(frozen=True)
class Patient:
    """Hold a denoiser under examination, and the inputs and outputs that checks share."""

    denoiser: Denoiser
    text: str

    @cached_property
    def tokenizer(self) -> Any:
        """Return the tokenizer, or None."""
        return self.denoiser.tokenizer

    @cached_property
    def tokens(self) -> Tensor:
        """Return one row of the text's ids, or of arbitrary ids without a tokenizer; int64 [1, L].

        For a network that writes whole canvases, the text is repeated to fill one.
        """
        canvas = self.denoiser.canvas_length or 0
        length = min(LENGTH + canvas, self.denoiser.max_length or LENGTH + canvas)
        if self.tokenizer is None:
            allowed = [v for v in range(min(self.denoiser.vocab_size, 1000)) if v != self.mask_id]
            picks = torch.randint(
                len(allowed), (1, length), generator=torch.Generator().manual_seed(0)
            )
            return torch.tensor(allowed)[picks]
        ids: list[int] = self.tokenizer(self.text, add_special_tokens=False)["input_ids"]
        return torch.tensor([(ids * (1 + canvas))[:length]])

    @property
    def mask_id(self) -> int | None:
        """Return the mask id, or None."""
        return self.denoiser.mask_token_id

    @cached_property
    def masked(self) -> Tensor:
        """Return the masked positions of `STRIDE` copies of the row, bool [STRIDE, L].

        Every position is masked in exactly one copy.
        """
        copies = torch.arange(STRIDE)[:, None]
        return torch.arange(self.tokens.shape[1]) % STRIDE == copies

    @cached_property
    def noised(self) -> Tensor:
        """Return the copies with their masked positions set to the mask id, int64 [STRIDE, L]."""
        return torch.where(self.masked, self.mask_id or 0, self.tokens)

    @cached_property
    def baseline(self) -> Tensor:
        """Return the logits of the copies as one batch, float32, on the CPU."""
        return self.logits(self.noised)

    @cached_property
    def tolerance(self) -> float:
        """Return the largest difference of logits that counts as rounding."""
        dtype = self.denoiser.dtype or self.baseline.dtype
        scale = max(1.0, float(self.baseline.nan_to_num().std()))
        return TOLERANCES.get(dtype, HALF_TOLERANCE) * scale

    def logits(self, ids: Tensor, mask: Tensor | None = None, t: float = 1 / STRIDE) -> Tensor:
        """Return the logits of one forward pass at time t, float32, on the CPU.

        A step-conditioned model gets the step from t to 0.
        """
        level = torch.full(ids.shape[:1], t, dtype=torch.float64)
        return self.denoiser.logits(ids, mask, level, level).float().cpu()


@torch.no_grad()
def diagnose(
    denoiser_or_path: Denoiser | str | Path, *, text: str = PASSAGE, **options: Any
) -> DoctorReport:
    """Examine a denoiser: mask id, vocabulary, alignment, padding, batches, type, time.

    Args:
        denoiser_or_path: a denoiser, or a model for `AutoDenoiser.from_pretrained`.
        text: a passage that the model should predict well; the alignment check uses it.
        options: passed to `AutoDenoiser.from_pretrained`.

    Returns:
        The report; a model that cannot be loaded gives one failed check.  The checks take about ten
        forward passes over up to 96 tokens.
    """
    if isinstance(denoiser_or_path, Denoiser):
        denoiser, name = denoiser_or_path, type(denoiser_or_path).__name__
    else:
        name = str(denoiser_or_path)
        try:
            denoiser = AutoDenoiser.from_pretrained(denoiser_or_path, **options)
        except CheckpointError as error:
            return DoctorReport(name, "unknown", (Check("load", "fail", str(error), str(error)),))
    patient = Patient(denoiser, text)
    return DoctorReport(name, denoiser.family, tuple(examine(patient, check) for check in CHECKS))


def examine(patient: Patient, name: str) -> Check:
    """Run one check by name; an error of the model is a failed check."""
    try:
        return Check(name, *CHECKS[name](patient))
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        return Check(
            name, "fail", reason, "the forward pass must take such a canvas: fix the error"
        )


def check_parameters(patient: Patient) -> Finding:
    """Count the weights."""
    count = patient.denoiser.num_parameters
    if not count:
        return Finding("skip", "a plain function: no weights to count")
    context = patient.denoiser.max_length
    limit = "no limit" if context is None else f"{context} tokens"
    return Finding("pass", f"{count:,} parameters; context: {limit}")


def check_dtype(patient: Patient) -> Finding:
    """Check dtype and device of the weights."""
    dtype, device = patient.denoiser.dtype, patient.denoiser.device
    found = f"{str(dtype).removeprefix('torch.')} on {device}"
    if dtype is not None and dtype.itemsize == 2 and device.type == "cpu":
        remedy = "pass dtype='float32': 16-bit matrix products are slow on a CPU"
        return Finding("warn", found, remedy)
    return Finding("skip" if dtype is None else "pass", found)


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
    "dtype": check_dtype,
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
