"""Compute the rates of two-stage solvers: theta-trapezoidal and theta-RK-2.

Stage 1 leaps from x to x* over theta h with the rates R_t(x).  With R* = R_rho(x*), rho = t - theta
h:

    trapezoidal  from x*, over (1 - theta) h:   [a1 R* - a2 R_t]_+,
                 a1 = 1 / (2 theta (1 - theta)),  a2 = ((1 - theta)^2 + theta^2) a1
    RK-2         from x, over h:                [(1 - 1 / (2 theta)) R_t + 1 / (2 theta) R*]_+

Rates are labelled by the token they lead to.  The trapezoidal rule is of second order where no rate
is clamped; RK-2 is of first order, as is the trapezoidal rule with the indicator 1[R_t > 0].  Ren
et al. 2025, "Fast Solvers for Discrete Diffusion Models", arXiv:2502.00234, algorithms 1 and 2.
"""

from __future__ import annotations

from torch import Tensor


def trapezoidal_weights(theta: float) -> tuple[float, float]:
    """Return a1 and a2, with a1 - a2 = 1; ValueError unless 0 < theta < 1."""
    if not 0.0 < theta < 1.0:
        raise ValueError(f"theta={theta}: must be in (0, 1); the paper uses values of 0.3 to 0.5.")
    a1 = 1.0 / (2.0 * theta * (1.0 - theta))
    return a1, ((1.0 - theta) ** 2 + theta**2) * a1


def rk2_weights(theta: float) -> tuple[float, float]:
    """Return the factors of R_t and of R*; ValueError unless 0 < theta <= 1."""
    if not 0.0 < theta <= 1.0:
        raise ValueError(f"theta={theta}: must be in (0, 1]; the paper's theory asks for <= 1/2.")
    return 1.0 - 1.0 / (2.0 * theta), 1.0 / (2.0 * theta)


def trapezoidal_rates(
    rates_t: Tensor, rates_star: Tensor, theta: float, *, indicator: bool = False
) -> Tensor:
    """Return the rates of the second stage, [..., V]; `indicator` drops rates with R_t = 0.

    With labels by destination the indicator also blocks the way back to x, at the cost of the
    second order.
    """
    a1, a2 = trapezoidal_weights(theta)
    rates = (a1 * rates_star - a2 * rates_t).clamp_min(0.0)
    return rates * (rates_t > 0) if indicator else rates


def rk2_rates(rates_t: Tensor, rates_star: Tensor, theta: float) -> Tensor:
    """Return the rates of the second stage, which starts at x again, [..., V]."""
    first, second = rk2_weights(theta)
    return (first * rates_t + second * rates_star).clamp_min(0.0)
