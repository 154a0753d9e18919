"""The whole step: forward pass and sampling, with and without CUDA graphs, beside published loops.

Random weights: a bidirectional transformer of MDLM's small size, and one shaped like LLaDA-8B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from dlm_kernels import operators
from machine import Report, timed
from peers import llada, mdlm
from torch import Tensor, nn

from dlm_sampling import ops


@dataclass(frozen=True)
class Shape:
    """A model and its canvas."""

    name: str
    layers: int
    width: int
    heads: int
    hidden: int
    vocab: int
    length: int
    batches: tuple[int, ...]


SHAPES = (
    Shape("DiT 130M", 12, 768, 12, 3072, 50_258, 1024, (1, 8, 32)),
    Shape("LLaDA-8B shape", 32, 4096, 32, 12_288, 126_464, 512, (1,)),
)
TINY = (Shape("tiny", 1, 16, 2, 32, 40, 3, (1,)),)


class Layer(nn.Module):
    """Attention to everything, then a gated feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.first, self.second = nn.RMSNorm(shape.width), nn.RMSNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.up = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states [B, L, d]."""
        batch, length, width = x.shape
        parts = self.qkv(self.first(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.up(self.second(x)).chunk(2, -1)
        return x + self.down(nn.functional.silu(gate) * up)


class Model(nn.Module):
    """Tokens to hidden states; the head stands apart."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states [B * L, d]."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).flatten(0, 1)


@torch.no_grad()
def run(report: Report) -> None:
    """Every model, batch and loop."""
    for shape in TINY if report.small else SHAPES:
        torch.manual_seed(0)
        with torch.device(report.device):
            model = Model(shape).to(torch.float32 if report.dry else torch.bfloat16)
        for batch in shape.batches:
            if report.late:
                return
            measure(report, shape, model, batch)
        del model


def measure(report: Report, shape: Shape, model: Model, batch: int) -> None:
    """Forward alone, then whole steps."""
    size, label = (batch, shape.length), {"model": shape.name, "batch": batch}
    tokens = torch.zeros(size, dtype=torch.int64, device=report.device)
    unknown = torch.ones(size, dtype=torch.bool, device=report.device)
    k = torch.ones(batch, dtype=torch.int64, device=report.device)
    column = torch.arange(tokens.numel(), device=report.device)
    place = {"keys": column // shape.length, "positions": column % shape.length}
    steps = torch.zeros_like(column)
    count = max(tokens.numel() // 32, 1)  # rows that a step of 32 per canvas reveals

    def forward_only() -> Tensor:
        return model(tokens)

    def with_head() -> Tensor:
        return model.head(model(tokens))

    def ours() -> None:
        logits = model.head(model(tokens))
        drawn = operators.draw(logits, **place, steps=steps, check=False)
        found = drawn.token.view(size), drawn.log_confidence.view(size)
        operators.unmask_(tokens, unknown, *found, unknown, k=k)
        steps.add_(1)

    def ours_in_blocks() -> None:
        source = ops.head_rows(model(tokens), model.head.weight)
        drawn = operators.draw(source, **place, steps=steps, check=False)
        found = drawn.token.view(size), drawn.log_confidence.view(size)
        operators.unmask_(tokens, unknown, *found, unknown, k=k)
        steps.add_(1)

    def positions_first() -> None:
        """As ancestral samplers allow: the head sees only what the step reveals."""
        source = ops.head_rows(model(tokens), model.head.weight)
        some = column[:count]
        address = {name: value[some] for name, value in (*place.items(), ("steps", steps))}
        drawn = operators.draw(source, rows=some, **address, check=False)
        tokens.view(-1).scatter_(0, some, drawn.token)
        steps.add_(1)

    def theirs(draw: Callable[[Tensor, float], tuple[Tensor, Tensor]]) -> None:
        token, rank = draw(model.head(model(tokens)), 1.0)
        where = rank.view(size).masked_fill(~unknown, -torch.inf).topk(1).indices
        tokens.scatter_(1, where, token.view(size).gather(1, where))

    loops: dict[str, Callable[[], Any]] = {
        "forward, no head": forward_only,
        "forward": with_head,
        "ours": ours,
        "ours, head in blocks": ours_in_blocks,
        "ours, positions first": positions_first,
        "MDLM's draw": partial(theirs, mdlm),
        "LLaDA's draw": partial(theirs, llada),
    }
    for name, step in loops.items():
        wide = tokens.numel() * shape.vocab * 32 > 90e9  # float64 copies would not fit
        if not (wide and name == "LLaDA's draw"):
            report.add(name, **label, **timed(report, [step] * 3))
