"""What a noise process is, and where random numbers come from."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from torch import Tensor

NoiseKind = Literal["absorbing", "uniform", "matrix"]
PredictionKind = Literal["posterior", "leave_one_out", "log_score"]


class RandomSource(Protocol):
    """Counter-based random numbers: a value, not a stream.  `ops.philox.Rng` implements it."""

    def uniform(self, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        """Uniforms in (0, 1), float64, one per position of `like` [B, L] or per row [B]."""
        ...

    def gumbel(self, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        """Standard Gumbel variates, float64, shaped like `uniform`."""
        ...

    def spread(self, steps: Tensor) -> RandomSource:
        """Each row n times over, copy i at step `steps[:, i]` (int64 [B, n]); B n rows."""
        ...

    def at(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, row-relative positions and steps of places of the canvas, all int64 [R]."""
        ...


class Process(Protocol):
    """The noise that a denoiser was trained on, and the laws that follow from it.

    Tables are [..., V], tokens x int64 [...]; alpha is the probability that a position is clean,
    slope is -alpha'(t) > 0, both broadcast to [...].
    """

    name: ClassVar[NoiseKind]
    """The family of noise; samplers say which of them they run on."""
    reads: ClassVar[PredictionKind]
    """The kind of prediction that `reverse` plugs in."""
    rates_read: ClassVar[PredictionKind]
    """The kind of prediction that `rates` takes."""

    @property
    def mask_token_id(self) -> int | None:
        """The absorbing token, or None."""
        ...

    def prior(self, like: Tensor, rng: RandomSource, vocab_size: int, /) -> Tensor:
        """The first canvas, int64 like `like` [B, L]."""
        ...

    def convert(
        self,
        values: Tensor,
        x: Tensor,
        alpha: Tensor,
        source: PredictionKind,
        target: PredictionKind,
        /,
    ) -> Tensor:
        """One kind of prediction from another; a table of probabilities, or of ratios."""
        ...

    def forward(self, law: Tensor, alpha: Tensor, /) -> Tensor:
        """Law of x_t when x0 has `law`."""
        ...

    def reverse(self, p: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor, /) -> Tensor:
        """Law of x_s given x_t, p (of kind `reads`) plugged in; alpha_s = 1 is the last step."""
        ...

    def rates(self, values: Tensor, x: Tensor, alpha: Tensor, slope: Tensor, /) -> Tensor:
        """Rates of x -> y backwards in time, 0 at x, from a table of kind `rates_read`."""
        ...

    def noising_rates(self, x: Tensor, alpha: Tensor, slope: Tensor, like: Tensor, /) -> Tensor:
        """Rates of x -> y forwards in time, 0 at x, with the columns of `like`."""
        ...
