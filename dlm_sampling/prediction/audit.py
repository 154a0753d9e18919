"""Compare the law of a cached pass with that of a pass over all columns, beside a run.

Nothing of an audit reaches the run: its passes are not counted, its keys and values not stored, and
its draws use the random numbers of the step without taking any.  For draws by an exponential race

    TV <= P(the drawn tokens differ) <= 2 TV / (1 + TV)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.caches.policy import AnyPolicy
from dlm_sampling.caches.report import CacheReport
from dlm_sampling.prediction.logits import PassLogits
from dlm_sampling.prediction.model import RunModel
from dlm_sampling.prediction.positions import Sites
from dlm_sampling.types import DenoiserOutput


@dataclass
class Meter:
    """Collect the audits of a run.

    Fields:
        policy: the policy that is audited.
        every: audit each so many passes that are no refresh; None: only before a refresh, where the
            policy's pass is one of a block; 0: never.
        told_time: whether the network is told the time, where no policy is exact.
    """

    policy: AnyPolicy
    every: int | None = 0
    told_time: bool = False
    passes: int = 0
    nbytes: int = 0
    audits: int = 0
    floor: float = 0.0
    found: list[tuple[Tensor, ...]] = field(default_factory=list[tuple[Tensor, ...]])

    @property
    def at_refreshes(self) -> bool:
        """Return whether the pass before a refresh is audited."""
        return self.every != 0

    def due(self) -> bool:
        """Count a pass, and return whether it is audited."""
        self.passes += 1
        return bool(self.every) and self.passes % (self.every or 1) == 0

    def compare(
        self,
        model: RunModel,
        rng: ops.Rng,
        x: Tensor,
        where: Tensor,
        exact: list[DenoiserOutput],
        cached: list[DenoiserOutput],
        *,
        replaced: bool,
    ) -> None:
        """Compare two predictions of the canvases x, int64 [n, L], at `where`, bool [n, L].

        Args:
            model: the denoiser and the law of the run.
            rng: random numbers of the step, of n rows.
            x: the canvases.
            where: the positions that are compared.
            exact: outputs of passes over all columns.
            cached: outputs of the passes of the cache.
            replaced: whether a refresh takes the place of these passes.
        """
        sites = Sites.of(where)
        if not len(sites):
            return
        plain = model.own_law
        keys, positions, steps = rng.at(sites.row, sites.column)
        logs: list[Tensor] = []
        tokens: list[Tensor] = []
        for outputs in (exact, cached):
            logits = PassLogits.of(outputs, None, x, model, None)
            source, rows = logits.source(), logits.index(sites)
            logs.append(normalised(ops.log_probs(source, law=plain, rows=rows)))
            drawn = ops.draw(
                source, keys=keys, positions=positions, steps=steps, law=model.law,
                statistics="model", sub=0, rows=rows,
            )  # fmt: skip
            tokens.append(drawn.token)
        one, other = logs
        p, c = one.exp(), other.exp()
        entropies = [-(log.exp() * log.clamp_min(-1e4)).sum(1) for log in logs]
        self.audits += 1
        self.found.append(
            (
                kl(one, other),
                (p - c).abs().sum(1) / 2,
                one.argmax(1) != other.argmax(1),
                tokens[0] != tokens[1],
                (entropies[0] - entropies[1]).abs(),
                torch.full_like(tokens[0], replaced, dtype=torch.bool),
            )
        )

    def note_floor(
        self, model: RunModel, x: Tensor, where: Tensor, outputs: list[list[DenoiserOutput]]
    ) -> None:
        """Keep the KL between two computations of the same laws, of x int64 [n, L] at `where`."""
        sites = Sites.of(where)
        if not len(sites):
            return
        plain, logs = model.own_law, list[Tensor]()
        for some in outputs:
            logits = PassLogits.of(some, None, x, model, None)
            found = ops.log_probs(logits.source(), law=plain, rows=logits.index(sites))
            logs.append(normalised(found))
        self.floor = max(self.floor, float(kl(logs[0], logs[1]).max()))

    def report(self) -> CacheReport:
        """Return what was found."""
        parts = [torch.cat(list(part)).cpu() for part in zip(*self.found, strict=True)]
        if not parts:
            none, never = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.bool)
            parts = [none, none, never, never, none, never]
        kl_, tv, top1, drawn, entropy, replaced = parts
        policy = self.policy
        return CacheReport(
            repr(policy), policy.exact and not self.told_time, self.nbytes, self.audits,
            kl_, tv, top1, drawn, entropy, replaced, self.floor,
        )  # fmt: skip


def normalised(logs: Tensor) -> Tensor:
    """Return log-probabilities [R, V] in float64, whose sum is 1 to its last digits.

    In float32 the sum is off by about 1e-6, which would stand in the KL to first order; what
    rounding does to the shape of a law stands there to second order only.
    """
    return logs.double().log_softmax(1)


def kl(log_p: Tensor, log_c: Tensor) -> Tensor:
    """Return KL(p || c) in nats of log-probabilities [R, V], float64 [R]."""
    p = log_p.exp()
    return (p * (log_p - log_c)).masked_fill(p == 0.0, 0.0).sum(1).clamp_min(0.0)
