"""Define the interfaces of noise processes and of random numbers."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

NoiseKind = Literal["absorbing", "uniform", "matrix"]
PredictionKind = Literal["posterior", "leave_one_out", "log_score"]


class RandomSource(Protocol):
    """Make counter-based random numbers; `ops.philox.Rng` implements it.

    It is a value, not a stream: the same call returns the same numbers.
    """

    def uniform(self, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        """Return uniforms in (0, 1), float64, one per position of `like` [B, L] or per row [B]."""
        ...

    def gumbel(self, stream: int, like: Tensor, sub: int = 0) -> Tensor:
        """Return standard Gumbel variates, float64, shaped like `uniform`."""
        ...

    def spread(self, steps: Tensor) -> RandomSource:
        """Repeat each row n times, copy i at step `steps[:, i]` (int64 [B, n]): B n rows."""
        ...

    def branch(self, number: int) -> RandomSource:
        """Return the same rows with the numbers of candidate `number`; 0 keeps its own."""
        ...

    def at(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, row-relative positions and steps of places of the canvas, all int64 [R]."""
        ...


@runtime_checkable
class Process(Protocol):
    """Describe the noise that a denoiser was trained on, and the laws that follow from it.

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
        """Return the absorbing token, or None."""
        ...

    def prior(self, like: Tensor, rng: RandomSource, vocab_size: int, /) -> Tensor:
        """Draw the first canvas, int64 like `like` [B, L]."""
        ...

    def noised(self, x: Tensor, alpha: float, rng: RandomSource, vocab_size: int, /) -> Tensor:
        """Draw x_t given x0 = x at the level alpha, int64 like x [B, L]."""
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
        """Convert one kind of prediction into another; a table of probabilities, or of ratios."""
        ...

    def forward(self, law: Tensor, alpha: Tensor, /) -> Tensor:
        """Return the law of x_t when x0 has `law`."""
        ...

    def reverse(self, p: Tensor, x: Tensor, alpha_t: Tensor, alpha_s: Tensor, /) -> Tensor:
        """Return the law of x_s given x_t, with p (of kind `reads`) plugged in.

        alpha_s = 1 is the last step.
        """
        ...

    def rates(self, values: Tensor, x: Tensor, alpha: Tensor, slope: Tensor, /) -> Tensor:
        """Return the rates of x -> y back in time, 0 at x, from a table of kind `rates_read`."""
        ...

    def noising_rates(self, x: Tensor, alpha: Tensor, slope: Tensor, like: Tensor, /) -> Tensor:
        """Return the rates of x -> y forwards in time, 0 at x, with the columns of `like`."""
        ...
