"""K3 beside what loops in PyTorch do: top-k row by row, or one batched sort."""

from __future__ import annotations

from functools import partial

import torch
from dlm_kernels import operators
from machine import Report, timed
from torch import Tensor


def loop_of_topk(score: Tensor, eligible: Tensor, k: Tensor, tokens: Tensor, new: Tensor) -> None:
    """torch.topk for every row with its own k, which the host reads."""
    masked = score.masked_fill(~eligible, -torch.inf)
    for row in range(score.shape[0]):
        where = masked[row].topk(int(k[row])).indices
        tokens[row, where] = new[row, where]


def batched_sort(score: Tensor, eligible: Tensor, k: Tensor, tokens: Tensor, new: Tensor) -> None:
    """One sort of all rows, ranks against k."""
    order = (
        score.masked_fill(~eligible, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    )
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(score.shape[1], device=score.device).expand_as(order))
    tokens.copy_(torch.where(eligible & (rank < k[:, None]), new, tokens))


def run(report: Report) -> None:
    """Batches and lengths."""
    lengths = (256, 1024, 4096, 32_768)
    sizes = [(2, 40)] if report.small else [(b, n) for b in (1, 8, 64) for n in lengths]
    for batch, length in sizes:
        if report.late:
            return
        generator = torch.Generator(report.device).manual_seed(0)
        score = torch.rand(batch, length, generator=generator, device=report.device)
        eligible = torch.rand(score.shape, generator=generator, device=report.device) < 0.7
        tokens = torch.zeros_like(score, dtype=torch.int64)
        new, unknown = tokens + 1, eligible.clone()
        k = torch.full((batch,), max(length // 32, 1), device=report.device)
        cost = score * 3.0
        kernel = partial(operators.unmask_, tokens, unknown, new, score, eligible)
        calls = {
            "K3, k best": partial(kernel, k=k),
            "K3, threshold": partial(kernel, k=k, threshold=0.95),
            "K3, budget": partial(kernel, k=k, cost=cost, budget=0.5),
            "torch.topk in a loop": partial(loop_of_topk, score, eligible, k, tokens, new),
            "one batched sort": partial(batched_sort, score, eligible, k, tokens, new),
        }
        for name, call in calls.items():
            report.add(name, batch=batch, length=length, **timed(report, [call] * 4))
