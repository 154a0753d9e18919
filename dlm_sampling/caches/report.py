"""Report how far a cache moved the laws that tokens were drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class CacheReport:
    """Hold the policy of a run, its memory, and what its audits found.

    An audit compares, on the same canvas and with the same random numbers, the law p of a pass over
    all columns with the law c of the cache, at the unknown positions of the block: R of them over
    all audits.

    Fields:
        policy: the policy, such as "DualCache()".
        exact: whether it is exact.
        nbytes: most memory of keys and values at a time, in bytes.
        audits: passes that were compared.
        kl: float64 [R], KL(p || c) in nats.
        tv: float64 [R], total variation, sum |p - c| / 2.
        top1: bool [R], whether the largest probabilities are those of different tokens.
        drawn: bool [R], whether the same random numbers draw different tokens.
        entropy: float64 [R], |H(p) - H(c)| in nats.
        replaced: bool [R], whether a refresh took the place of the audited pass: its law shows how
            far keys and values had drifted, and no token was drawn from it.
        floor: largest KL between p and itself, computed in a batch of another shape: rounding.
    """

    policy: str
    exact: bool
    nbytes: int
    audits: int
    kl: Tensor
    tv: Tensor
    top1: Tensor
    drawn: Tensor
    entropy: Tensor
    replaced: Tensor
    floor: float

    def where(self, *, replaced: bool) -> CacheReport:
        """Return the report of the passes that a refresh replaced, or of all others."""
        kept = self.replaced == replaced
        laws = (self.kl, self.tv, self.top1, self.drawn, self.entropy, self.replaced)
        kl, tv, top1, drawn, entropy, which = (values[kept] for values in laws)
        return replace(self, kl=kl, tv=tv, top1=top1, drawn=drawn, entropy=entropy, replaced=which)

    @property
    def kl_mean(self) -> float:
        """Return the mean of KL(p || c), NaN without an audit."""
        return float(self.kl.mean())

    @property
    def kl_max(self) -> float:
        """Return the largest KL(p || c), NaN without an audit."""
        return float(self.kl.max()) if len(self.kl) else float("nan")

    @property
    def kl_p99(self) -> float:
        """Return the least KL(p || c) that 99 % do not exceed, NaN without an audit."""
        return percentile(self.kl, 99) if len(self.kl) else float("nan")

    @property
    def top1_flip(self) -> float:
        """Return the share of positions whose most probable token differs."""
        return float(self.top1.double().mean())

    @property
    def draw_flip(self) -> float:
        """Return the share of positions whose drawn token differs."""
        return float(self.drawn.double().mean())

    def __str__(self) -> str:
        """Return the report on one line."""
        kind = "exact" if self.exact else "approximate"
        text = f"{self.policy} ({kind}), {self.nbytes / 2**20:.1f} MiB"
        if not self.audits:
            return f"{text}, not audited (cache_audit=)"
        parts = [
            f"{words} {one._laws()}"
            for words, one in (
                ("drawn from", self.where(replaced=False)),
                ("before a refresh", self.where(replaced=True)),
            )
            if len(one.kl)
        ]
        return f"{text}, {self.audits} audits, rounding {self.floor:.0e}: {'; '.join(parts)}"

    def _laws(self) -> str:
        return (
            f"({len(self.kl)} positions) KL {self.kl_mean:.2e}, 99 % {self.kl_p99:.2e}, largest "
            f"{self.kl_max:.2e}, TV {float(self.tv.mean()):.2e}, most probable tokens "
            f"differ {self.top1_flip:.2%}, drawn tokens differ {self.draw_flip:.2%}"
        )


def percentile(values: Tensor, percent: int) -> float:
    """Return the least of the values [n] that so many percent of them, from 1, do not exceed.

    `Tensor.quantile` takes 2^24 values at most, and has NaN between two infinite ones.
    """
    return float(values.kthvalue(-(-percent * len(values) // 100)).values)


def joined_reports(reports: Sequence[CacheReport | None]) -> CacheReport | None:
    """Join the reports of the parts of a run; None if no part had a cache."""
    found = [report for report in reports if report is not None]
    if not found:
        return None
    return CacheReport(
        found[0].policy,
        found[0].exact,
        max(report.nbytes for report in found),
        sum(report.audits for report in found),
        torch.cat([report.kl for report in found]),
        torch.cat([report.tv for report in found]),
        torch.cat([report.top1 for report in found]),
        torch.cat([report.drawn for report in found]),
        torch.cat([report.entropy for report in found]),
        torch.cat([report.replaced for report in found]),
        max(report.floor for report in found),
    )
