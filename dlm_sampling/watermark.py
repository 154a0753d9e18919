"""Draw tokens with noise that a secret key repeats, and tell from a text whether it was.

    x_i = argmin_v E_i,v / p_i(v),   E_i,v ~ Exp(1) a function of key, place i and token v
    score = sum_i -log(1 - exp(-E_i,x_i));   without the key's noise it is Gamma(n, 1)

With U = exp(-E) this is the Gumbel maximum argmax_v log p(v) - log(-log U).  The race is that of
every draw (`ops.categorical`), which has up to three levels in large vocabularies: tile, run and
token.  Each level adds its own Exp(1), so the score is Gamma(levels n, 1), and the p-value exact.

Over keys the law of a text is that of the run without a watermark.  That holds as long as a place's
noise is used for one token only, whatever was drawn there and dropped in steps before: positions
are chosen without regard to drawn tokens, with noise of their own, and no token is changed.  Other
samplers are refused.  The place counts from the first position that a row writes, so the order of
writing is free.  One key gives one noise, so that two texts of the same law are alike, which
`variants` keys in turn avoid.

Gumbel noise keyed for detection: Kirchenbauer et al. 2023, arXiv:2301.10226, and Kuditipudi et al.
2023, arXiv:2307.15593 (without distortion, by place); for models that write in any order,
arXiv:2511.02083.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import index
from typing import NamedTuple, SupportsIndex

import torch
from torch import Tensor

from dlm_sampling.errors import check_whole, named
from dlm_sampling.ops.philox import Rng, Stream, lane_exponentials
from dlm_sampling.ops.vocabulary import RUN, TILE, grid

MOST_VARIANTS = 2**16


@dataclass(frozen=True)
class MarkedRng(Rng):
    """Make the random numbers of a batch, those of its tokens by keys and places of a watermark.

    Fields:
        token_keys: int64 [B].
        token_origin: int64 [B], the column of place 0.
    """

    token_keys: Tensor
    token_origin: Tensor

    def at(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and places of the watermark, and step 0."""
        place = columns - self.token_origin[rows]
        return self.token_keys[rows], place, torch.zeros_like(place)


@dataclass(frozen=True)
class Watermark:
    """Hold the secret of a watermark.

    Args:
        key: any whole number of up to 64 bits; keep it secret, it is not shown.
        variants: different noises of the key; a row has that of its seed modulo `variants`, and the
            detector tries all.

    Raises:
        TypeError, ValueError: a value is of another type or out of range.
    """

    key: int = field(repr=False)
    variants: int = 1

    def __post_init__(self) -> None:
        check_whole("variants", self.variants)
        if not 0 <= _whole(self.key) < 2**64:
            raise ValueError("watermark key: must be in [0, 2^64).")
        if not 1 <= self.variants <= MOST_VARIANTS:
            raise ValueError(f"variants={self.variants}: must be in [1, {MOST_VARIANTS}]; try 64.")

    @property
    def name(self) -> str:
        """Return what tells two watermarks apart and does not give the key away."""
        secret = _whole(self.key).to_bytes(8, "little")
        return f"{hashlib.blake2b(secret, digest_size=8, person=b'name').hexdigest()}"

    def keys(self) -> Tensor:
        """Return the key of each variant, int64 [variants]; no row seed gives the same noise."""
        secret = _whole(self.key).to_bytes(8, "little")
        found = (
            hashlib.blake2b(i.to_bytes(8, "little"), key=secret, digest_size=8, person=b"watermark")
            for i in range(self.variants)
        )
        return torch.tensor(
            [int.from_bytes(part.digest(), "little", signed=True) for part in found]
        )

    def marked(self, rng: Rng, editable: Tensor) -> MarkedRng:
        """Return the random numbers of a batch with the noise of this watermark.

        Args:
            rng: of the batch.
            editable: bool [B, L], the positions to write.
        """
        keys = self.keys().to(rng.keys.device)[rng.keys.remainder(self.variants)]
        own = {field.name: vars(rng)[field.name] for field in fields(Rng)}
        return MarkedRng(**own, token_keys=keys, token_origin=editable.long().argmax(1))


def as_watermark(value: object) -> Watermark | None:
    """Return the argument `watermark` of a call: a whole number is a key.

    Raises:
        TypeError: it is something else.
    """
    if value is None or isinstance(value, Watermark):
        return value
    return Watermark(_whole(value))


def _whole(value: object) -> int:
    """Return a key as a number; the message of the error does not show it.

    Raises:
        TypeError: it is no whole number.
    """
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return index(value)
    raise TypeError(
        f"watermark is {named(value)}: must be a secret whole number, a Watermark, or None."
    )


class Detection(NamedTuple):
    """Hold what a text says of a watermark.

    Fields:
        p_value: probability of a text without the watermark to look like it as much as this one.
            It assumes that the text was made without the key, and that its tokens stand at the
            places that were given, up to the shifts; all variants and shifts that are tried are
            counted (Bonferroni).
        tokens: n, the tokens that were read.
        score: of the variant and shift that fit best; `levels` n on average without a watermark.
    """

    p_value: float
    tokens: int
    score: float


def detect(
    token_ids: Sequence[int], watermark: Watermark | int, *, vocab_size: int, shifts: int = 0
) -> Detection:
    """Return whether a text carries a watermark, as an exact p-value.

    Args:
        token_ids: the tokens of the text from the first place that was written, with -1 for tokens
            that are to be passed over, such as fixed words in between; the model's own tokens, not
            those of a text that was read again.
        watermark: the one it may carry, or its key.
        vocab_size: V of the denoiser that may have written it, `denoiser.vocab_size`.
        shifts: most tokens that may be missing or added in front; all numbers are tried.

    Raises:
        TypeError, ValueError: no token, an id outside of the vocabulary, or no watermark.
    """
    if isinstance(token_ids, str):
        raise TypeError(
            f"token_ids is the text {token_ids[:20]!r}: must be the ids that were written, such as "
            "out.token_ids[0]; a text that is read again may have others."
        )
    mark = as_watermark(watermark)
    check_whole("vocab_size", vocab_size)
    check_whole("shifts", shifts)
    if mark is None or shifts < 0:
        raise ValueError(f"watermark={mark}, shifts={shifts}: need a watermark, and shifts >= 0.")
    try:
        ids = torch.tensor([index(token) for token in token_ids], dtype=torch.int64)
    except TypeError:
        raise TypeError(
            f"token_ids is {named(token_ids)}: must be the ids of one text, such as "
            "out.token_ids[0]."
        ) from None
    place = (ids != -1).nonzero().flatten()
    ids = ids[place]
    if not len(ids) or not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise ValueError(
            f"token_ids: {len(ids)} tokens, which must be at least one, in [0, {vocab_size})."
        )
    scores = torch.stack(
        [
            _scores(mark.keys(), place + shift, ids, vocab_size)
            for shift in range(-shifts, shifts + 1)
        ]
    )
    best = scores.max()
    size = float(levels(vocab_size) * len(ids))
    tail = torch.igammac(torch.tensor(size, dtype=torch.float64), best)
    return Detection(min(1.0, float(tail) * scores.numel()), len(ids), float(best))


def levels(vocab_size: int) -> int:
    """Return the races of a draw: 1 up to 32 tokens, 2 up to 1024, 3 beyond."""
    return 1 + (vocab_size > RUN) + (vocab_size > TILE)


def _scores(keys: Tensor, places: Tensor, ids: Tensor, vocab_size: int) -> Tensor:
    """Return the score of n tokens for each of K keys, float64 [K]."""
    tiles, width = grid(vocab_size)
    runs = width // RUN
    zero = torch.zeros_like(places)
    clocks = [
        lane_exponentials(
            key.expand_as(places), places, zero, stream=Stream.TOKEN,
            lanes=vocab_size if runs == 1 else RUN + runs + (tiles if tiles > 1 else 0),
        )
        for key in keys
    ]  # fmt: skip
    lanes = [ids % RUN, RUN + ids % TILE // RUN, RUN + TILE // RUN + ids // TILE]
    index = torch.stack(lanes[: levels(vocab_size)], 1)
    return torch.stack([-torch.log(-torch.expm1(-own.gather(1, index))).sum() for own in clocks])
