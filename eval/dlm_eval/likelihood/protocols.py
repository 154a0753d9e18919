"""Define how a likelihood bound is estimated, with the published protocols as presets.

mdlm: the documents are one stream with an end token between them, cut into chunks of 1024 tokens;
one mask per chunk at a uniform t, weight 1 / t; perplexity is exp of the mean nats per token.
Sahoo et al. 2024, arXiv:2406.07524.  The release draws t above 0.001; here t is uniform on (0, 1),
so that the estimate is unbiased.

llada: 128 masks of l of the answer's C tokens, weight C / l, l systematic in each of four groups
of 32 masks.  Nie et al. 2025, arXiv:2502.09992, appendix B.  The release rounds l half to even,
which is not uniform on 1..C; here it is.

dream: 128 masks at a uniform t, weight 1 / t; of the answer given the prompt ("answer", their log
type ftb), of the prompt given the answer ("prompt", btf) or of both ("both", union).  Ye et al.
2025, arXiv:2508.15487.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

Score = Literal["answer", "prompt", "both"]
SCHEMES = (
    "count",
    "stratified",
    "bernoulli",
    "coupled",
    "mean_field",
    "leave_one_out",
    "enumerate",
)
DRAWN = ("count", "stratified", "bernoulli", "coupled")
APART = ("count", "bernoulli")
"""Schemes whose masks are drawn independently, so that their spread is the error of their mean."""
NOT_BOUNDS = ("mean_field", "leave_one_out")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Hold everything that changes the bound, apart from model, data and seed.

    Fields:
        scheme: the rule that chooses masks; see `dlm_sampling.elbo`.  Models of uniform noise have
            none: their bound is that of the ancestral sampler of `steps` steps.
        masks: masks, or noised texts, per window.
        length: maximum tokens per window.
        score: the part of a pair of prompt and answer that is scored; the rest is context.
        packed: whether documents are joined to one stream, whose last part of a chunk is dropped.
        end: whether an end token closes each document without a prompt.
        steps: T of the bound of uniform noise.
        groups: most groups of at least two masks that are drawn independently, so that their
            spread is an error of one window; masks of one group are spread evenly by the scheme.
    """

    scheme: str = "stratified"
    masks: int = 8
    length: int = 1024
    score: Score = "answer"
    packed: bool = False
    end: bool = True
    steps: int = 1000
    groups: int = 1

    @property
    def drawn_groups(self) -> int:
        """Return the groups that the masks are drawn in; each has as many masks, or pairs."""
        if self.scheme in APART or self.scheme not in DRAWN:
            return 1
        size = 2 if self.scheme == "stratified" else 4  # two pairs of coupled masks
        even = range(2, min(self.groups, self.masks // size) + 1)
        step = 1 if self.scheme == "stratified" else 2
        return max((n for n in even if self.masks % (n * step) == 0), default=1)

    def facts(self, *, uniform: bool, pairs: bool) -> dict[str, Any]:
        """Return the fields that change a figure.

        Args:
            uniform: whether the model is one of uniform noise, which has no masks.
            pairs: whether the texts are pairs of prompt and answer.
        """
        found = asdict(self)
        unused = {"scheme", "groups"} if uniform else {"steps"}
        if not uniform:
            unused |= set() if self.scheme in DRAWN else {"masks"}
            found["groups"] = self.drawn_groups
            unused |= set() if self.drawn_groups > 1 else {"groups"}
        unused |= set() if pairs and not self.packed else {"score"}
        return {name: value for name, value in found.items() if name not in unused}


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "default": Protocol(groups=4),
        "mdlm": Protocol(scheme="bernoulli", masks=1, length=1024, packed=True),
        "llada": Protocol(scheme="stratified", masks=128, length=4096, groups=4),
        "dream": Protocol(scheme="bernoulli", masks=128, length=2048),
    }
)
LOG_TYPES: Mapping[str, Score] = MappingProxyType(
    {"ftb": "answer", "btf": "prompt", "union": "both"}
)
