"""Define `DiffusionGRPOMixin`, which makes TRL's GRPO trainer one of diffusion language models.

It overrides what is causal in the trainer: the texts are those of `generate`, and the ratios those
of the likelihood that the texts were drawn in.  Rows travel with their texts through TRL's
shuffling and splitting, so that the loss scores each text in its own canvas.

    from dlm_sampling.trl import grpo_trainer

    policy = AutoDenoiser.from_pretrained("GSAI-ML/LLaDA-8B-Instruct")
    trainer = grpo_trainer()(
        policy,
        reward_funcs=reward,
        args=GRPOConfig(output_dir, max_completion_length=128, num_iterations=2, beta=0.04),
        generation={"sampler": "llada-random", "steps": 64, "block_length": 32},
        train_dataset=prompts,
        peft_config=LoraConfig(target_modules="all-linear"),
    )
    trainer.train()
    policy.save_pretrained(folder)  # loads with AutoDenoiser; TRL's own checkpoints only resume
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.errors import named
from dlm_sampling.text.generate import generate
from dlm_sampling.trl.drawn_rows import DrawnBatch, DrawnRow
from dlm_sampling.trl.likelihoods import RunLikelihood, TokenLikelihood, TokenScores
from dlm_sampling.trl.lost_terms import without_lost
from dlm_sampling.trl.network import calling, network_for_trainer, tokenizer_for_trainer
from dlm_sampling.trl.rollouts import DrawnTexts, rollout_func
from dlm_sampling.trl.scored import check_scored
from dlm_sampling.trl.settings import check_settings, law_of

ROWS = "drawn_rows"
"""Key of the rows in the batches of the trainer."""


class DiffusionGRPOMixin:
    """Draw texts with a denoiser and train their likelihood; stands before TRL's `GRPOTrainer`.

    Works with accelerate (data parallelism), PEFT (`peft_config`), gradient checkpointing and
    `num_iterations`.  Reward functions get the texts cut at their end, and `step_index`.

    Args:
        denoiser: the policy; its network is trained in place.
        reward_funcs: as TRL takes them.
        args: a `GRPOConfig`; its temperature, top_k, top_p, min_p and max_completion_length are
            those of `generate`.
        generation: further arguments of `generate`, such as {"sampler": "llada-random",
            "steps": 64}.
        likelihood: the log-probabilities to train; default `RunLikelihood()`, that of the run.
        loss_behind_eos: count the tokens behind an end-of-text, which the model drew and saw; False
            leaves them out of the loss, though not out of the canvas.
        processing_class: the tokenizer; default that of the denoiser.
        given: further arguments of the trainer.

    Raises:
        TypeError: the denoiser is none, or has no network or no tokenizer.
        ValueError: a setting of TRL does not apply to diffusion models, or the likelihood cannot
            score what is drawn.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        reward_funcs: Any = None,
        args: Any = None,
        *,
        generation: Mapping[str, Any] | None = None,
        likelihood: TokenLikelihood | None = None,
        loss_behind_eos: bool = True,
        processing_class: Any = None,
        **given: Any,
    ) -> None:
        if not isinstance(denoiser, Denoiser):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"denoiser is {named(denoiser)}: must be a Denoiser, from "
                "AutoDenoiser.from_pretrained or denoiser_of(model)."
            )
        self.generation = dict(generation or {})
        check_settings(args, self.generation, given)
        tokenizer = denoiser.tokenizer if processing_class is None else processing_class
        if tokenizer is None:
            raise TypeError(
                f"denoiser ({denoiser.family}) has no tokenizer: give processing_class=."
            )
        self.denoiser = denoiser
        self.likelihood: TokenLikelihood = RunLikelihood() if likelihood is None else likelihood
        check_scored(self.likelihood, denoiser, self.generation)
        self.loss_behind_eos = loss_behind_eos
        self._texts: DrawnTexts | None = None  # of the latest generation
        self._scoring: Sequence[DrawnRow] = ()  # rows of the batch that is scored now
        self._questions: deque[str] = deque()  # what TRL asks for while it generates, in order
        self._scored: TokenScores | None = None  # of the batch whose loss is computed now
        self._draws = 0
        network = network_for_trainer(denoiser)
        self.reference: Denoiser | None = None
        if args.beta != 0.0 and given.get("peft_config") is None and not _is_peft(network):
            self.reference = _frozen_copy(denoiser)  # TRL's patch of `forward` must not be copied
        beta, args.beta = args.beta, 0.0  # else TRL loads the reference by its name, as causal
        try:
            trainer: Any = super()
            trainer.__init__(
                model=network, reward_funcs=reward_funcs, args=args,
                processing_class=tokenizer_for_trainer(tokenizer), rollout_func=rollout_func,
                **given,
            )  # fmt: skip
        finally:
            args.beta = beta
        this: Any = self
        if this.aux_loss_enabled:
            raise ValueError("router_aux_loss_coef: must be 0 for diffusion models.")
        self.beta = beta
        if self.reference is not None:
            this.ref_model = this.accelerator.prepare_model(
                self.reference.module, evaluation_mode=True
            )
            self.reference.module = this.ref_model
        denoiser.module = this.model

    def draw_texts(self, prompts: list[Any]) -> dict[str, Any]:
        """Draw one text per prompt; see `rollout_func`."""
        this: Any = self
        with this.accelerator.autocast(), calling(self.denoiser, this.model):
            out = generate(
                self.denoiser, prompts, seed=self._seeds(len(prompts)), return_rollout=True,
                progress=False, **law_of(this.args, self.generation),
            )  # fmt: skip
        padding = this.processing_class.pad_token_id
        texts = DrawnTexts.of(out, padding=padding, behind_eos=self.loss_behind_eos)
        self._texts, self._scoring = texts, texts.rows
        return {
            "prompt_ids": texts.prompt_ids,
            "completion_ids": texts.completion_ids,
            "logprobs": texts.logprobs,
            "env_mask": texts.counted,
            "step_index": texts.step_index,
        }

    def _seeds(self, count: int) -> list[int]:
        """Return a seed per row, other ones in every call; those of a row of all processes."""
        this: Any = self
        call = (this.args.seed * 1_000_003 + this.state.global_step) * 1_000_003 + self._draws
        self._draws += 1
        first = this.accelerator.process_index * count
        seeds = ops.row_seeds(call % 2**63, first + count)
        return list(seeds[first:])

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """Generate as TRL does, and put the rows beside their texts."""
        this: Any = self
        period = this.args.steps_per_generation * this.num_iterations
        if this.args.gradient_accumulation_steps % period:
            self._questions.append("old")
        try:
            trainer: Any = super()
            output = trainer._generate_and_score_completions(inputs)
        finally:
            self._questions.clear()
        assert self._texts is not None
        output[ROWS] = self._texts.rows
        return output

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """Reward the texts up to their ends."""
        assert self._texts is not None
        cut = [ids[:n] for ids, n in zip(completion_ids_list, self._texts.lengths, strict=True)]
        trainer: Any = super()
        return trainer._calculate_rewards(inputs, prompts, completions, cut)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Compute TRL's loss of the rows that lie in the batch."""
        self._scoring = inputs[ROWS]
        width = inputs["completion_ids"].shape[1]
        self._scored, inputs = without_lost(self._scores(model, width, entropy=True), inputs)
        try:
            trainer: Any = super()
            return trainer._compute_loss(model, inputs)
        finally:
            self._scored = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **unused: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Score the tokens of the texts in their canvases, [B, C] each.

        The old policy's are those of sampling, where the record tells them: no pass is needed.
        """
        question = self._questions.popleft() if self._questions else ""
        if question == "old":
            batch = DrawnBatch.of(self._scoring)
            recorded = self.likelihood.recorded(batch.rollout)
            if recorded is not None:
                return batch.behind(recorded, logits_to_keep).to(input_ids.device), None, None
        found = self._scored
        if found is None:
            found = self._scores(
                model, logits_to_keep, batch_size=batch_size, entropy=compute_entropy
            )
        return found.logprob, found.entropy if compute_entropy else None, None

    def _scores(
        self, model: Any, width: int, *, batch_size: int | None = None, entropy: bool
    ) -> TokenScores:
        """Score `width` columns from the begin of each text of the batch under a network."""
        this: Any = self
        batch = DrawnBatch.of(self._scoring)
        is_reference = self.reference is not None and model is this.ref_model
        policy = self.reference if is_reference and self.reference else self.denoiser
        exact = entropy and (this._entropy_bonus_enabled or this.top_entropy_quantile < 1.0)
        with this.accelerator.autocast(), calling(policy, model):
            found = self.likelihood(
                policy, batch.rollout, batch_size=batch_size, exact_entropy=exact
            )
        device = this.accelerator.device
        logps, entropies = (batch.behind(part, width).to(device) for part in found)
        if torch.is_grad_enabled() and not logps.requires_grad:
            raise ValueError(
                "no token of the batch was drawn at random, so that nothing can be trained: "
                f"sampler {batch.rollout.header.sampler} took each as the argmax. Use more steps, "
                "a temperature above 0, or 'llada-random'."
            )
        return TokenScores(logps, entropies)


def _is_peft(network: Any) -> bool:
    """Return whether a network is a PEFT model, which is its own reference without adapters."""
    return "peft_config" in vars(network)


def _frozen_copy(denoiser: Denoiser) -> Denoiser:
    """Return a copy of a denoiser whose weights do not train."""
    reference = copy.deepcopy(denoiser)
    assert reference.module is not None
    reference.module.requires_grad_(False).eval()
    return reference
