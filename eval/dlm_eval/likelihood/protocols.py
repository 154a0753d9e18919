"""Define how a likelihood bound is estimated, with the published protocols as presets.

mdlm: the documents are one stream with an end token between them, cut into chunks of 1024 tokens;
one mask per chunk at a uniform t, weight 1 / t; perplexity is exp of the mean nats per token.
Sahoo et al. 2024, arXiv:2406.07524.  The release draws t above 0.001; here t is uniform on (0, 1),
so that the estimate is unbiased.

llada: 128 masks of l of the answer's C tokens, weight C / l, l systematic.  Nie et al. 2025,
arXiv:2502.09992, appendix B.  The release rounds l half to even, which is not uniform on 1..C;
here it is.

dream: 128 masks at a uniform t, weight 1 / t; of the answer given the prompt ("answer", their log
type ftb), of the prompt given the answer ("prompt", btf) or of both ("both", union).  Ye et al.
2025, arXiv:2508.15487.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

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
    """

    scheme: str = "stratified"
    masks: int = 8
    length: int = 1024
    score: Score = "answer"
    packed: bool = False
    end: bool = True
    steps: int = 1000


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "default": Protocol(),
        "mdlm": Protocol(scheme="bernoulli", masks=1, length=1024, packed=True),
        "llada": Protocol(scheme="stratified", masks=128, length=4096),
        "dream": Protocol(scheme="bernoulli", masks=128, length=2048),
    }
)
LOG_TYPES: Mapping[str, Score] = MappingProxyType(
    {"ftb": "answer", "btf": "prompt", "union": "both"}
)
