"""Compute losses of preferred and rejected texts: DPO, VRPO and D3PO.

    L = - ln sigmoid( beta [ (l(w) - l_ref(w)) - (l(u) - l_ref(u)) ] ),   w preferred to u

DPO takes log-likelihoods l; VRPO takes likelihood bounds, with the same masks for policy and
reference; D3PO takes the log-probabilities of the two denoising chains, which a CTMC sampler's
steps give exactly.

Rafailov et al. 2023, arXiv:2305.18290 (DPO); Zhu et al. 2025, "LLaDA 1.5", arXiv:2505.19223 (VRPO);
Borso et al. 2025, "Preference-Based Alignment of Discrete Diffusion Models", arXiv:2503.08295
(D3PO).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import SamplingWarning, named
from dlm_sampling.likelihood.elbo import elbo
from dlm_sampling.likelihood.replay import replay
from dlm_sampling.likelihood.rollout import Rollout
from dlm_sampling.rl.checks import check_numbers, check_shapes, check_weight


def dpo_loss(
    preferred: Tensor,
    rejected: Tensor,
    reference_preferred: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Return the loss of each pair, [B].

    Args:
        preferred: log-likelihoods of the better texts under the policy, [B], with a graph.
        rejected: log-likelihoods of the worse texts, [B].
        reference_preferred: like preferred, under the reference.
        reference_rejected: like rejected, under the reference.
        beta: > 0, how near the policy stays to the reference; the papers use 0.01 to 0.5.

    A log-likelihood of -inf warns: a token of the text is outside of a law with filters.

    Raises:
        TypeError: an argument is of another type.
        ValueError: beta <= 0, shapes differ, or a value is NaN.
    """
    check_weight("beta", beta, zero=False)
    given = {
        "preferred": preferred,
        "rejected": rejected,
        "reference_preferred": reference_preferred,
        "reference_rejected": reference_rejected,
    }
    check_shapes("[B]", **given)
    check_numbers(infinite=True, **given)
    lost = [name for name, value in given.items() if bool(value.detach().isinf().any())]
    if lost:
        warnings.warn(
            f"{' and '.join(lost)} hold -inf: the law has filters, which a token of the text does "
            "not pass. Sample with top_p=1.0 and no top_k or min_p, or score with law='model'.",
            SamplingWarning,
            stacklevel=2,
        )
    better = preferred - reference_preferred.detach()
    worse = rejected - reference_rejected.detach()
    return -functional.logsigmoid(beta * (better - worse))


def vrpo_loss(
    policy: Denoiser,
    reference: Denoiser,
    preferred: Tensor,
    rejected: Tensor,
    *,
    preferred_editable: Tensor,
    rejected_editable: Tensor,
    seed: int,
    n: int = 8,
    beta: float = 0.1,
) -> Tensor:
    """Return DPO's loss of likelihood bounds, [B]; policy and reference share their masks.

    Each text is seen through n mask patterns, one per noise level: "optimal allocation".  NFE 2 n
    per text.

    Args:
        policy: the model that is trained.
        reference: the model to stay near to.
        preferred: int64 [B, L], the better texts with their prompts.
        rejected: int64 [B, M], the worse ones.
        preferred_editable: bool [B, L], the answer of each better text.
        rejected_editable: bool [B, M], the answer of each worse one.
        seed: of the masks.
        n: mask patterns per text.
        beta: see `dpo_loss`.

    Raises:
        TypeError: see `elbo` and `dpo_loss`.
        ValueError: see these; or the texts are not as many.
    """
    check_weight("beta", beta, zero=False)
    _check_pairs(preferred, rejected)
    bounds: list[Tensor] = []
    for tokens, editable in ((preferred, preferred_editable), (rejected, rejected_editable)):
        new = elbo(policy, tokens, editable=editable, n=n, seed=seed)
        with torch.no_grad():
            old = elbo(reference, tokens, editable=editable, masks=new.masks)
        bounds += [new.value, old.value]
    better, reference_better, worse, reference_worse = bounds
    return dpo_loss(better, worse, reference_better, reference_worse, beta=beta)


def d3po_loss(
    policy: Denoiser,
    reference: Denoiser,
    preferred: Rollout,
    rejected: Rollout,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Return DPO's loss of whole denoising chains, [B].

    Exact for samplers whose positions do not depend on the model, under masks and uniform noise:
    then the log-probability of the chain is that of its tokens up to a constant.  NFE that of two
    replays under each model.

    Args:
        policy: the model that is trained.
        reference: the model to stay near to.
        preferred: the better runs.
        rejected: the worse runs, in the same order.
        beta: see `dpo_loss`.

    Raises:
        TypeError: see `replay` and `dpo_loss`.
        ValueError: see these; or the runs are not of as many rows.
    """
    check_weight("beta", beta, zero=False)
    for name, run in (("preferred", preferred), ("rejected", rejected)):
        if not isinstance(run, Rollout):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{name} is {named(run)}: must be a Rollout.")
    _check_pairs(preferred.tokens, rejected.tokens)
    better, worse = replay(policy, preferred).total, replay(policy, rejected).total
    with torch.no_grad():
        known = [replay(reference, run).total for run in (preferred, rejected)]
    return dpo_loss(better, worse, *known, beta=beta)


def _check_pairs(preferred: Tensor, rejected: Tensor) -> None:
    """Refuse texts that are not as many, before any pass."""
    if len(preferred) != len(rejected):
        raise ValueError(
            f"preferred has {len(preferred)} rows and rejected {len(rejected)}: must be pairs."
        )
