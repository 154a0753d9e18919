"""Guide by a classifier of noisy canvases: exact or first-order D-CBG.

    q~(v) = q(v) p(c | z, v at i)^g / Z

exact: the classifier is asked for every token at every position to be written; first order: one
forward and one backward pass, exact where log p(c | z) is linear in the one-hot canvas.  Schiff et
al. 2024, arXiv:2412.10193; Nisonoff et al. 2024, arXiv:2406.01572.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from dlm_sampling.errors import check_fields, named, unknown_choice
from dlm_sampling.guidance.base import Guidance, Moment, one_per_row
from dlm_sampling.processes.guidance import candidate_log_ratios, first_order_log_ratios

Order = Literal["exact", "first"]
LogClassifier = Callable[[Tensor], Tensor]
"""Maps canvases int64 [n, L] to log p(c | z), [n]; with order "first" one-hot canvases [n, L, V]
of floats, with a graph."""


@dataclass(frozen=True)
class Classifier(Guidance):
    """Tilt each law by the probability of a class.

    Fields:
        log_classifier: log p(c | z): of canvases int64 [n, L] with order "exact", of one-hot
            canvases float [n, L, V] with "first".  `SequenceClassifier` is both.
        vocab_size: V, the columns of the denoiser.
        strength: g; 0 is no guidance, and costs nothing.
        order: "exact" asks for all candidates: positions times tokens canvases; "first" one.
        rate_preserving: keep the probability that a mask is written, or that a token of uniform
            noise stays.  False is the rule as it stands, whose rate is right with an exact
            classifier and g = 1; on masks only samplers that step in time have such a rate.

    NFE: none; the classifier's own passes are not counted.
    """

    log_classifier: LogClassifier
    vocab_size: int
    strength: float = 1.0
    order: Order = "exact"
    rate_preserving: bool = True

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise unknown_choice("order", self.order, get_args(Order))
        if not callable(self.log_classifier):
            raise TypeError(
                f"log_classifier is {named(self.log_classifier)}: must be a function of canvases; "
                "try SequenceClassifier(model, label)."
            )
        check_fields(self)
        if not math.isfinite(self.strength):
            raise ValueError(f"strength={self.strength}: must be finite; 1 is Bayes' rule.")

    @property
    def tilts(self) -> bool:
        """Return whether the classifier counts."""
        return self.strength != 0.0

    @property
    def moves_rates(self) -> bool:
        """Return whether the rate of writing masks changes."""
        return self.tilts and not self.rate_preserving

    @property
    def keeps_rates(self) -> bool:
        """Return whether the probability of staying is kept."""
        return self.rate_preserving

    def tilt(self, moment: Moment, where: Tensor, log_p: Callable[[], Tensor]) -> Tensor:
        """Return g times the log-ratios of the candidates, float64 [n, L, V]."""
        ratios = _RATIOS[self.order](self, moment.x, where)
        return self.strength * ratios.double().masked_fill(~where.unsqueeze(-1), 0.0)


def _exact(guide: Classifier, x: Tensor, where: Tensor) -> Tensor:
    def asked(canvas: Tensor) -> Tensor:
        return one_per_row("log_classifier", guide.log_classifier(canvas), len(canvas))

    with torch.no_grad():
        return candidate_log_ratios(asked, x, guide.vocab_size, where)


def _first_order(guide: Classifier, x: Tensor, where: Tensor) -> Tensor:
    canvas = torch.nn.functional.one_hot(x, guide.vocab_size).float()
    gradient = gradient_of("log_classifier", guide.log_classifier, canvas)
    return first_order_log_ratios(gradient, x)


_RATIOS: dict[str, Callable[[Classifier, Tensor, Tensor], Tensor]] = {
    "exact": _exact,
    "first": _first_order,
}


def gradient_of(name: str, function: LogClassifier, table: Tensor) -> Tensor:
    """Return the gradient of the sum of a function of tables [n, L, V], like the table.

    Rows must not depend on each other.

    Raises:
        ValueError: it does not return one number per row; `name` is its name.
    """
    with torch.enable_grad():
        given = table.detach().clone().requires_grad_()
        total = one_per_row(name, function(given), len(given)).sum()
        (gradient,) = cast("tuple[Tensor]", torch.autograd.grad(total, given))
    return gradient.detach()
