"""The likelihood bound of a uniform-noise model: exactly that of its T-step ancestral sampler.

    -log p(x0) <= KL(q(x_1 | x0) || uniform) + sum_k E KL(q(x_s | x_t, x0) || p(x_s | x_t)),

t = k/T, s = t - 1/T, k = 1..T, with q(x_s | x_t, x0) the law of one reverse step given the clean
token and p the same law with the model's leave-one-out law plugged in for it; positions are
independent given x_t.  The term of k = 1 is -log p(x0 | x_t).  The steps k are drawn at random,
stratified.  As T grows the bound becomes that of continuous time.  Austin et al. 2021,
arXiv:2107.03006, eq. 1; plugged in as by Schiff et al. 2024, arXiv:2412.10193 (UDLM), and Sahoo et
al. 2025, arXiv:2506.10892 (Duo).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dlm_sampling import Denoiser


def uniform_bound(
    denoiser: Denoiser, windows: Tensor, *, samples: int, seed: int, batch: int, steps: int = 1000
) -> Tensor:
    """Unbiased estimates of the bound of the `steps`-step ancestral sampler, nats per window.

    Args:
        denoiser: a model of uniform noise with a schedule, whose logits are leave-one-out laws.
        windows: int64 [N, L].
        samples: draws of (step, noise) per window.
        seed: seed of the draws.
        batch: windows per forward pass; memory is about 100 batch * L * V bytes.
        steps: T.

    Returns:
        float64 [N].  Costs `samples` forward passes per window.

    Raises:
        ValueError: the denoiser is not such a model.
    """
    schedule = denoiser.schedule
    if denoiser.process.name != "uniform" or denoiser.kind != "leave_one_out" or schedule is None:
        raise ValueError(
            f"denoiser: noise {denoiser.process.name!r}, logits {denoiser.kind!r}, schedule "
            f"{schedule}; must be uniform noise with leave-one-out logits and a schedule, as Duo."
        )
    generator = torch.Generator().manual_seed(seed)
    count, length = windows.shape
    total = torch.zeros(count, dtype=torch.float64)
    for _ in tqdm(range(samples), unit="pass", disable=None):
        strata = torch.randperm(count, generator=generator).double() + torch.rand(
            count, generator=generator, dtype=torch.float64
        )
        step = (strata / count * steps).floor().clamp(max=steps - 1)
        t, alpha_t, alpha_s = (
            (step + 1) / steps,
            schedule.alpha((step + 1) / steps),
            schedule.alpha(step / steps),
        )
        noise = torch.randint(denoiser.vocab_size, windows.shape, generator=generator)
        kept = torch.rand(windows.shape, generator=generator) < alpha_t.unsqueeze(1)
        noised = torch.where(kept, windows, noise)
        for rows in torch.arange(count).split(batch):
            kl = step_kl(
                denoiser, windows[rows], noised[rows], t[rows], alpha_t[rows], alpha_s[rows]
            )
            total[rows] += steps * kl
    first = schedule.alpha(torch.ones((), dtype=torch.float64))
    return total / samples + length * prior_kl(float(first), denoiser.vocab_size)


@torch.no_grad()
def step_kl(
    denoiser: Denoiser, x0: Tensor, x_t: Tensor, t: Tensor, alpha_t: Tensor, alpha_s: Tensor
) -> Tensor:
    """KL(q(x_s | x_t, x0) || p(x_s | x_t)), summed over the positions of each row, float64 [n].

    Args:
        denoiser: see `uniform_bound`.
        x0: clean tokens, int64 [n, L].
        x_t: noised tokens, int64 [n, L].
        t: time of x_t, float64 [n].
        alpha_t: level of x_t, float64 [n].
        alpha_s: level of x_s, float64 [n]; 1 for the last step.
    """
    logits = denoiser.logits(x_t, t=t if denoiser.time_conditioned else None)
    law = logits.double().softmax(-1).cpu()
    clean = F.one_hot(x0, denoiser.vocab_size).double()
    levels = (alpha_t.unsqueeze(1), alpha_s.unsqueeze(1))
    q = denoiser.process.reverse(clean, x_t, *levels)
    p = denoiser.process.reverse(law, x_t, *levels)
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum((1, 2))


def prior_kl(alpha: float, vocab_size: int) -> float:
    """KL(q(x_1 | x0) || uniform) of one position, alpha = alpha(1)."""
    rest = torch.tensor((1 - alpha) / vocab_size, dtype=torch.float64)
    law = torch.stack((rest + alpha, rest))
    weight = torch.tensor([1.0, vocab_size - 1.0], dtype=torch.float64)
    return float((weight * torch.xlogy(law, law * vocab_size)).sum())
