"""Hold the answers whose log-likelihood is estimated, and score them on masked canvases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.request import Canvases
from dlm_sampling.likelihood.clean_prefix import CacheName, check_cache
from dlm_sampling.likelihood.elbo import check_texts, score_masks
from dlm_sampling.likelihood.mask_plans import Places


@dataclass(frozen=True)
class Answers:
    """Hold checked texts with the random numbers of their rows.

    Fields:
        denoiser: the model.
        inputs: texts int64 [B, L], with the positions of the answers as `editable`.
        places: the answers, with the random numbers of each row.
        batch_size: canvases per forward pass; None is B.
        cache: see `elbo`.
    """

    denoiser: Denoiser
    inputs: Canvases
    places: Places
    batch_size: int | None
    cache: CacheName

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        tokens: Tensor,
        editable: Tensor,
        attention_mask: Tensor | None,
        seed: int | Sequence[int] | None,
        batch_size: int | None,
        cache: CacheName,
    ) -> Answers:
        """Check the texts; see `elbo` for the arguments and the errors."""
        if seed is None:
            raise TypeError(
                "seed=None: must be given, one int or one per row, so that policy, old policy and "
                "reference see the same masks."
            )
        check_cache(cache)
        inputs = check_texts(denoiser, tokens, editable, attention_mask, batch_size)
        rng = ops.Rng.from_seeds(ops.row_seeds(seed, len(tokens)), device=inputs.tokens.device)
        rng = replace(rng, origin=inputs.attention.long().argmax(1))
        return cls(denoiser, inputs, Places(inputs.editable, rng), batch_size, cache)

    @property
    def prompts(self) -> Places:
        """Return the context of the answers in place of the answers, with other random numbers."""
        context = self.inputs.attention & ~self.inputs.editable
        return Places(context, self.places.at(_CONTEXT))

    def logprobs(self, hidden: Tensor, scored: Tensor) -> Tensor:
        """Return log-probabilities at `scored`, [n, B, L], 0 elsewhere; NFE n per row.

        Args:
            hidden: bool [n, B, L], positions that are masked.
            scored: bool [n, B, L], positions whose tokens are scored; each is hidden.
        """
        found = score_masks(self.denoiser, self.inputs, hidden, scored, self.batch_size, self.cache)
        return found.logprob.new_zeros(scored.shape).index_put(found.place, found.logprob)


_CONTEXT = 1 << 20  # step of the random numbers of the context, far from those of the masks
