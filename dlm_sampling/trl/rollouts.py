"""Draw texts for TRL: `rollout_func`, and the texts of a run as lists of ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from dlm_sampling.errors import named
from dlm_sampling.likelihood.rollout import Rollout
from dlm_sampling.text.completion import GenerateOutput
from dlm_sampling.trl.drawn_rows import DrawnRow
from dlm_sampling.types.values import int_rows, ints


@runtime_checkable
class Drawing(Protocol):
    """Define what `rollout_func` asks of a trainer; `DiffusionGRPOMixin` has it."""

    def draw_texts(self, prompts: list[Any]) -> dict[str, Any]:
        """Draw one text per prompt."""
        ...


def rollout_func(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Draw one text per prompt with a diffusion model, as TRL's argument of this name does.

    The trainer must have the mixin, which trains the likelihood that belongs to these texts; it
    passes this function to TRL itself.

    Args:
        prompts: strings or chats; TRL repeats each as often as texts are wanted.
        trainer: a trainer with `DiffusionGRPOMixin`.

    Returns:
        prompt_ids, completion_ids, logprobs and env_mask for TRL; step_index, the number of the
        step that wrote each token, for reward functions.

    Raises:
        TypeError: the trainer is another one.
    """
    if not isinstance(trainer, Drawing):
        raise TypeError(
            f"trainer is {named(trainer)}: must have DiffusionGRPOMixin before TRL's GRPOTrainer, "
            "which would score these texts as those of a causal model; take grpo_trainer()."
        )
    return trainer.draw_texts(prompts)


@dataclass(frozen=True)
class DrawnTexts:
    """Hold the texts of a run as TRL takes them.

    Fields:
        rows: one per text, for the loss.
        prompt_ids: tokens before the text; none for rows that are filled in place.
        completion_ids: the text up to its end-of-text, then padding as far as the loss reaches.
        lengths: tokens of each text, with its end-of-text.
        counted: tokens that the loss counts, as lists of 0 and 1 like completion_ids.
        logprobs: log-probabilities at sampling, like completion_ids.
        step_index: number of the step that wrote each token of the text.
    """

    rows: list[DrawnRow]
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    lengths: list[int]
    counted: list[list[int]]
    logprobs: list[list[float]]
    step_index: list[list[int]]

    @classmethod
    def of(cls, out: GenerateOutput, *, padding: int, behind_eos: bool) -> DrawnTexts:
        """Read the texts of a run.

        Args:
            out: the run, with its rollout.
            padding: id behind the end of a text.
            behind_eos: whether the loss counts the tokens behind an end-of-text, which the model
                drew and saw like all others.
        """
        rollout = out.rollout
        assert rollout is not None
        first = ints(rollout.attention_mask.long().argmax(1))
        editable = ints(rollout.editable.long().argmax(1))
        tokens, counted = int_rows(rollout.tokens), int_rows(counted_in(rollout).long())
        steps, drawn = int_rows(rollout.step_index), rollout.logprob.cpu()
        found = cls([], [], [], [], [], [], [])
        for b, text in enumerate(out.token_ids):
            behind = first[b] + out.prompt_lengths[b]
            begin = behind if editable[b] >= behind else first[b]  # else it was filled in place
            length = len(text) + (out.finish_reasons[b] == "eos")
            width = len(tokens[b]) - begin if behind_eos else max(length, 1)
            kept = slice(begin, begin + length)
            found.rows.append(DrawnRow(rollout, b, begin))
            found.prompt_ids.append(tokens[b][first[b] : begin])
            found.completion_ids.append(tokens[b][kept] + [padding] * (width - length))
            found.lengths.append(length)
            found.counted.append(counted[b][begin : begin + width])
            found.logprobs.append([float(x) for x in drawn[b, begin : begin + width]])
            found.step_index.append(steps[b][kept])
        return found


def counted_in(rollout: Rollout) -> Tensor:
    """Return the positions with a token that was drawn at random, bool [B, L].

    A token taken as the argmax has log-probability 0 and no gradient; it would only thin the mean.
    """
    if not rollout.masked:
        return rollout.editable
    written = rollout.step_index >= 0
    return written if rollout.request.sampler.revises else written & ~rollout.argmax
