"""Tilt the law of a position towards a condition c: guidance by a second model or a classifier.

    classifier-free    q'(y) = q_c(y)^g q_u(y)^(1 - g) / Z
    classifier-based   q'(y) = q(y) p(c | z, y at i)^g / Z

Where classifier-free guidance applies depends on the noise.  Under masking q is the law p0 of the
clean token and `Absorbing.reverse` adds the mask afterwards, so the rate of unmasking stays as it
is.  Under uniform noise q is the law of the step, `Uniform.reverse`.  A classifier sees noisy
canvases, so its rule always acts on the law of the step.  Once rows have more than one position
no choice of g but 0 and 1 gives the product law of whole rows.  Schiff et al. 2024,
arXiv:2412.10193 (D-CFG and D-CBG), and its released code; LLaDA's scale is w = g - 1.

Public toolbox: the pair of laws, as the paper writes it, made of `blended_logits`, which runs
like all other laws here, on logits and on laws of steps (`dlm_sampling.guidance`); `ops.Guided` is
the same law of two tensors of logits in the pass that draws from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dlm_sampling.processes.tables import off_diagonal, one_hot, value_at

CANDIDATES = 2**14
"""Canvases that a classifier is shown at a time."""


def classifier_free_law(conditional: Tensor, unconditional: Tensor, gamma: float) -> Tensor:
    """Return the law q_c^g q_u^(1 - g) / Z from two tables of laws, [..., V].

    gamma 1 is the conditional law and 0 the unconditional one, as they are.  For any other gamma a
    token to which either law gives probability 0 gets 0; the columns of the mask may stay in.

    Args:
        conditional: laws given the condition, [..., V].
        unconditional: laws without it, [..., V].
        gamma: weight of the condition; above 1 it counts more than in the model.
    """
    if gamma in (0.0, 1.0):
        return conditional if gamma == 1.0 else unconditional
    weights = torch.tensor((gamma, 1.0 - gamma), dtype=torch.float64, device=conditional.device)
    parts = (conditional.log(), unconditional.log())
    return blended_logits(parts, weights).softmax(-1)


def blended_logits(parts: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return sum_k w_k x_k of logits x_k, [..., V]: log p~ = sum_k w_k log p_k up to a constant.

    A part of weight 0 does not count, a single part of weight 1 is returned as it is, and a token
    to which a part that counts gives probability 0 gets 0, whatever the sign of its weight.

    Args:
        parts: K tensors of logits, [..., V].
        weights: w_k, [K], or [K, ...] for each position.
    """
    out = torch.zeros_like(parts[0])
    possible = torch.ones_like(out, dtype=torch.bool)
    for part, weight in zip(parts, weights, strict=True):
        w = weight.to(out.dtype).expand(out.shape[:-1]).unsqueeze(-1)
        finite = part > -torch.inf
        out = out + torch.where(finite & (w != 0.0), w * part, 0.0)
        possible = possible & (finite | (w == 0.0))
    return out.masked_fill(~possible, -torch.inf)


def candidate_log_ratios(
    log_classifier: Callable[[Tensor], Tensor],
    x: Tensor,
    vocab_size: int,
    where: Tensor | None = None,
) -> Tensor:
    """Ask the classifier for log p(c | z, y at i) - log p(c | z), [B, L, V], of all i and y.

    Costs B (L (V - 1) + 1) canvases of the classifier; the denoiser is not called.

    Args:
        log_classifier: canvases int64 [N, L] -> log p(c | z), [N].
        x: canvases z, int64 [B, L].
        vocab_size: symbols V, the mask included if there is one.
        where: bool [B, L], the only positions that are asked for; the rest is 0.  None: all.
    """
    here = log_classifier(x).view(-1, 1, 1)
    symbols = torch.arange(vocab_size, device=x.device)
    asked = x.unsqueeze(-1) != symbols
    if where is not None:
        asked = asked & where.unsqueeze(-1)
    row, column, symbol = asked.nonzero(as_tuple=True)
    ratios = here.new_zeros(*x.shape, vocab_size)
    for part in torch.split(torch.arange(len(row), device=x.device), CANDIDATES):
        b, i, y = row[part], column[part], symbol[part]
        candidates = x[b].scatter(1, i.unsqueeze(1), y.unsqueeze(1))
        ratios[b, i, y] = log_classifier(candidates) - here[b, 0, 0]
    return ratios


def first_order_log_ratios(gradient: Tensor, x: Tensor) -> Tensor:
    """Return the log-ratios to first order, g(y) - g(z_i), [..., V]: one forward and backward pass.

    Exact where log p(c | z) is linear in the one-hot canvas.

    Args:
        gradient: of log p(c | z) with respect to the one-hot canvas, [..., V].
        x: canvases z, int64 [...].
    """
    return gradient - value_at(gradient, x)


def classifier_based_law(law: Tensor, log_ratios: Tensor, gamma: float) -> Tensor:
    """Return the law q(y) p(c | z, y at i)^g / Z from the law of a step, [..., V].

    The mask is weighted like a token, so for g != 1 (or an inexact classifier) the rate of
    unmasking changes; `rate_preserving_law` keeps it.

    Args:
        law: laws of the next token, [..., V].
        log_ratios: from `candidate_log_ratios` or `first_order_log_ratios`, [..., V].
        gamma: weight of the classifier; 0 is the law itself.
    """
    return law if gamma == 0.0 else tilted_logits(law.log(), gamma * log_ratios).softmax(-1)


def tilted_logits(logits: Tensor, tilt: Tensor) -> Tensor:
    """Return the logits of p(y) exp(tilt(y)) / Z, [..., V]."""
    return logits + tilt.to(logits.dtype)


def rate_preserving_law(law: Tensor, log_ratios: Tensor, x: Tensor, gamma: float) -> Tensor:
    """Tilt the law of the moves only: the probability of staying at x is unchanged, [..., V].

    Arguments as there; x int64 [...].
    """
    if gamma == 0.0:
        return law
    stay, moves = value_at(law, x), classifier_based_law(off_diagonal(law, x), log_ratios, gamma)
    leave = torch.where(stay < 1.0, (1.0 - stay) * moves, 0.0)  # no moves: a token under masking
    return leave + stay * one_hot(x, law)
