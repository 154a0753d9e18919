"""Define what a guidance may do: ask further passes, tilt laws, choose among steps.

    blend    log p~ = sum_k w_k log p_k - log Z         of the run's own pass (k = 0) and others
    tilt     p~(v) = p(v) exp(tilt(v)) / Z              of a classifier or a reward
    choose   one of several steps from the same canvas

On masks blends and tilts make the law p of the clean token, before temperature and filters; the
mask is added afterwards, so the rate of unmasking stays as it is.  Under noise without a mask they
act on the law of the step, which a solver makes of each p_k; a sampler that draws from p itself has
the blended p.  The arithmetic is that of `processes.guidance`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import named
from dlm_sampling.types import Canvas, Clock, Pass, Predict, RandomSource, Sampler, Step


class Moment(NamedTuple):
    """Hold the canvases of a prediction; n rows."""

    x: Tensor  # int64 [n, L]
    t: Tensor  # float64 [n], the sampler's times
    rows: Tensor  # int64 [n], their numbers in the batch
    fixed: Tensor  # bool [n, L], tokens that the run does not write, padding among them
    mask: int | None  # the mask, or None under noise without one


class View(NamedTuple):
    """Say what one pass of a blend asks, and what it is shown."""

    denoiser: Denoiser | None = None  # None: the run's own
    shown: Callable[[Pass, Moment], Pass] | None = None  # changes the canvases; None: as they are


class Guidance:
    """Give every hook of a guidance its default, which does nothing.

    A subclass is a frozen dataclass.  `logprob` of a guided run belongs to the guided law of a
    token; `replay` refuses guided runs, except with the model's own law.  A network that carries a
    state from pass to pass has one for each view, which waits where the view is not asked.
    """

    @property
    def shorthand(self) -> float | None:
        """Return the `guidance_scale` that says the same, or None if no number does."""
        return None

    @property
    def views(self) -> tuple[View, ...]:
        """Return the passes of a prediction, the run's own first."""
        return (View(),)

    def weights(self, moment: Moment) -> Tensor:
        """Return w_k of every view, float64 [K, n]; a view of weight 0 is not asked in that row."""
        return torch.ones(1, len(moment.t), dtype=torch.float64, device=moment.t.device)

    def settle(self, weights: Tensor, laws: Callable[[int], Tensor], where: Tensor) -> Tensor:
        """Return the weights once the passes have run, float64 [K, n].

        Args:
            weights: of the passes that have run.
            laws: probabilities of view k, [n, L, V].
            where: bool [n, L], the positions to be written.
        """
        return weights

    def keeps(self, first: Tensor) -> Tensor | None:
        """Return which tokens stay possible, bool [r, V], by the first view's logits; None: all."""
        return None

    @property
    def tilts(self) -> bool:
        """Return whether `tilt` does anything."""
        return False

    @property
    def chooses(self) -> bool:
        """Return whether `step` compares several candidates."""
        return False

    @property
    def looks_ahead(self) -> bool:
        """Return whether `step` reads predictions of positions outside of the current block."""
        return False

    @property
    def moves_rates(self) -> bool:
        """Return whether a tilt on masks changes how likely a mask is to be written."""
        return False

    @property
    def keeps_rates(self) -> bool:
        """Return whether a tilt of a step's law leaves the probability of staying as it is."""
        return False

    def tilt(self, moment: Moment, where: Tensor, log_p: Callable[[], Tensor]) -> Tensor:
        """Return what is added to log-laws, float64 [n, L, V], 0 outside of `where`.

        Args:
            moment: the canvases.
            where: bool [n, L], positions that may be drawn.
            log_p: the model's log-law there, [n, L, V]; elsewhere that of the token that stands.
        """
        raise NotImplementedError

    def step(
        self,
        sampler: Sampler[Any],
        state: Any,
        canvas: Canvas,
        clock: Clock,
        predict: Predict,
        rng: RandomSource,
    ) -> tuple[Any, Step]:
        """Take the sampler's step."""
        return sampler.step(state, canvas, clock, predict, rng)

    def part(self, first: int, last: int) -> Guidance:
        """Return the guidance of the rows `first` to `last` - 1 of a batch."""
        return self

    def check(self, denoiser: Denoiser, sampler: Sampler[Any], rows: int) -> None:
        """Check that it fits a run.

        Raises:
            TypeError, ValueError: it does not; the message names what and why.
        """
        for view in self.views[1:]:
            check_partner(type(self).__name__, denoiser, view.denoiser)

    def check_prompts(self, lengths: Tensor) -> None:
        """Check that it fits rows with so many tokens before the first one to write, int64 [n].

        Raises:
            ValueError: it does not.
        """


def one_per_row(name: str, values: object, rows: int) -> Tensor:
    """Return what a function of a caller says of rows, float64 [rows], with its graph.

    Raises:
        TypeError, ValueError: it is no tensor, not one number per row, or holds NaN or +inf.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} returned {named(values)}: must be a tensor, one number per row.")
    if values.shape != (rows,):
        raise ValueError(
            f"{name} returned shape {tuple(values.shape)} for {rows} rows: must be one number per "
            f"row, [{rows}]."
        )
    if not bool((values < torch.inf).all()):
        raise ValueError(f"{name} returned NaN or +inf for a row: must be a number or -inf.")
    return values.double()


def check_partner(name: str, denoiser: Denoiser, other: Denoiser | None) -> None:
    """Check that two denoisers can be blended.

    Raises:
        ValueError: they are of another vocabulary, noise, or kind of prediction.
    """
    if other is None:
        return
    facts = {
        "vocab_size": (denoiser.vocab_size, other.vocab_size),
        "mask_token_id": (denoiser.mask_token_id, other.mask_token_id),
        "kind": (denoiser.kind, other.kind),
    }
    for what, (mine, theirs) in facts.items():
        if mine != theirs:
            raise ValueError(
                f"guidance={name}: its denoiser ({other.family}) has {what}={theirs!r}, and that "
                f"of the run {mine!r}; both must be of one vocabulary, noise and prediction."
            )
    if denoiser.process.name != other.process.name:
        raise ValueError(
            f"guidance={name}: its denoiser ({other.family}) was trained on {other.process.name} "
            f"noise, and that of the run on {denoiser.process.name}; they must be of one noise."
        )
