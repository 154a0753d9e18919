"""Choose the log-probabilities of tokens that the trainer's ratios are made of.

`RunLikelihood` scores what was drawn, step by step, as TraceRL does.  The others are those of d1
and DiffuCoder, on masks that follow from the seed of a row, so that policy, old policy and
reference see the same ones wherever the row stands in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.likelihood.replay import LawName, replay
from dlm_sampling.likelihood.retake import needs_retaking
from dlm_sampling.likelihood.rollout import Rollout
from dlm_sampling.rl.estimators import coupled_logprob, mean_field_logprob


class TokenScores(NamedTuple):
    """Hold log-probabilities and entropies of the tokens of a rollout; 0 where none is scored."""

    logprob: Tensor  # [B, L], with a graph in grad mode
    entropy: Tensor  # [B, L], nats; with a graph if exact, else -logprob, whose mean is the entropy


class TokenLikelihood(Protocol):
    """Define what a likelihood for the trainer is."""

    def __call__(
        self, policy: Denoiser, rollout: Rollout, *, batch_size: int | None, exact_entropy: bool
    ) -> TokenScores:
        """Score the tokens of a rollout.

        Args:
            policy: the model.
            rollout: the rows.
            batch_size: canvases per forward pass; None: all rows together.
            exact_entropy: whether an estimate of the entropy will not do.

        Raises:
            ValueError: it has no exact entropy.
        """
        ...

    def recorded(self, rollout: Rollout) -> Tensor | None:
        """Return what the call would give under the weights that drew the rollout, [B, L].

        None if the record does not tell.
        """
        ...


@dataclass(frozen=True)
class RunLikelihood:
    """Score each token in the step that drew it; see `replay`.

    Fields:
        shrink: steps per forward pass; above 1 it is an approximation that saves passes.
        law: "sampled", the law with temperature and filters that the run drew from, or "model".
    """

    shrink: int = 1
    law: LawName = "sampled"

    def __call__(
        self, policy: Denoiser, rollout: Rollout, *, batch_size: int | None, exact_entropy: bool
    ) -> TokenScores:
        """Score by `replay`; NFE that of `replay`."""
        by_canvas = not needs_retaking(policy, rollout.header)
        if exact_entropy and not by_canvas:
            raise _no_entropy(f"runs of {rollout.header.sampler}, whose steps are taken again,")
        found = replay(
            policy, rollout, shrink=self.shrink, law=self.law, batch_size=batch_size,
            entropy=by_canvas,
        )  # fmt: skip
        logprob = found.position_logprob if self.shrink == 1 else found.logprob
        entropy = -logprob.detach() if found.entropy is None else found.entropy
        return TokenScores(logprob, entropy)

    def recorded(self, rollout: Rollout) -> Tensor | None:
        """Return the log-probabilities of sampling, if each position was drawn once."""
        once = rollout.masked and not rollout.request.sampler.revises
        exact = rollout.header.cache is None and self.law == "sampled" and self.shrink == 1
        return rollout.logprob if once and exact else None


@dataclass(frozen=True)
class MeanFieldLikelihood:
    """Score all tokens in one pass, as if independent: d1; see `mean_field_logprob`.

    Fields:
        prompt_masking: chance that a token of the prompt is masked.
    """

    prompt_masking: float = 0.15

    def __call__(
        self, policy: Denoiser, rollout: Rollout, *, batch_size: int | None, exact_entropy: bool
    ) -> TokenScores:
        """Score in one pass; NFE 1."""
        if exact_entropy:
            raise _no_entropy("MeanFieldLikelihood")
        found = mean_field_logprob(
            policy, rollout.tokens, editable=rollout.step_index >= 0, seed=rollout.seeds,
            attention_mask=rollout.attention_mask, prompt_masking=self.prompt_masking,
            batch_size=batch_size,
        )  # fmt: skip
        return TokenScores(found, -found.detach())

    def recorded(self, rollout: Rollout) -> Tensor | None:
        """Return None: no step drew from this law."""
        return None


@dataclass(frozen=True)
class CoupledLikelihood:
    """Score with a mask and its complement: DiffuCoder; see `coupled_logprob`."""

    def __call__(
        self, policy: Denoiser, rollout: Rollout, *, batch_size: int | None, exact_entropy: bool
    ) -> TokenScores:
        """Score in three passes; NFE 3."""
        if exact_entropy:
            raise _no_entropy("CoupledLikelihood")
        found = coupled_logprob(
            policy, rollout.tokens, editable=rollout.step_index >= 0, seed=rollout.seeds,
            attention_mask=rollout.attention_mask, batch_size=batch_size,
        )  # fmt: skip
        return TokenScores(found, -found.detach())

    def recorded(self, rollout: Rollout) -> Tensor | None:
        """Return None: no step drew from this law."""
        return None


def _no_entropy(what: str) -> ValueError:
    return ValueError(
        f"{what} give no exact entropy, which entropy_coef, use_adaptive_entropy and "
        "top_entropy_quantile need: leave these at their defaults, or use RunLikelihood with a "
        "sampler on masks such as 'llada-random'."
    )
