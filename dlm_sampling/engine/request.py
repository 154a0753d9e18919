"""Define the input of a run: canvases and request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.caches import AnyPolicy, check_audit, check_cache_name
from dlm_sampling.constraints import TokenAutomaton
from dlm_sampling.engine.start import Start, check_times
from dlm_sampling.errors import check_flag, check_real, check_whole, named
from dlm_sampling.guidance.base import Guidance
from dlm_sampling.types import Sampler, TokenLaw
from dlm_sampling.watermark import Watermark

MOST_STEPS = 100_000
MOST_COLUMNS = 2**31 - 1
MOST_DRAFTS = 64
MOST_GUIDANCE = 1e4  # a larger weight sends 16-bit logits beyond their range


@dataclass(frozen=True)
class BlockRequest:
    """Hold the settings that cut a canvas into blocks and share out steps; see `engine.blocks`.

    Fields:
        length: columns per block, or None for one block.
        steps: planned steps over all blocks of a row; None is one per editable position.
        steps_per_block: steps of every block, of any size; replaces `steps`.
        align: put block boundaries at multiples of `length` from the row's first token.
        causal: hide everything right of the current block from the denoiser.
    """

    length: int | None = None
    steps: int | None = None
    steps_per_block: int | None = None
    align: bool = False
    causal: bool = False

    def __post_init__(self) -> None:
        check_flag("align_blocks", self.align)
        check_flag("causal_blocks", self.causal)
        check_whole("block_length", self.length, optional=True)
        check_whole("steps", self.steps, optional=True)
        check_whole("steps_per_block", self.steps_per_block, optional=True)
        for name, steps in (("steps", self.steps), ("steps_per_block", self.steps_per_block)):
            if steps is not None and steps > MOST_STEPS:
                raise ValueError(
                    f"{name}={steps}: must be at most {MOST_STEPS}; more steps than positions only "
                    "bring a solver nearer to its limit, try 1000."
                )
        if self.length is not None and self.length > MOST_COLUMNS:
            raise ValueError(
                f"block_length={self.length}: must be at most {MOST_COLUMNS}, or None for a single "
                "block."
            )


@dataclass(frozen=True)
class Request:
    """Hold the settings of a run apart from its canvases.

    Fields:
        sampler: decides where and when to write.
        law: temperature and filters of the draws; None takes the sampler's own.
        blocks: length of the blocks, and the steps in them.
        guidance_scale: w of classifier-free guidance, u + (w + 1) (c - u); 0 is none.
        stop_token_ids: ids that end a row, where the row may be ended at all.
        every_step: run the model in every planned step, and no early exit.
        suppress_mask: ban the mask id from every law.
        return_trajectory: keep all events.
        cuda_graph: record one step as a CUDA graph and replay it.
        cache: "auto", "none", the name of a cache policy, or a policy; see `engine.caching`.
        cache_audit: "refresh", a share of the passes, or None; see `generate`.
        start: editable positions hold a draft that is refined; None overwrites them with noise.
        times: the times of every block, falling, or None for the sampler's own.
        constraint: the automaton that the tokens satisfy, or None.
        guidance: a guidance as an object, in place of guidance_scale.
        max_nfe: most forward passes of a row, or None; see `engine.budget`.
        speculate: canvases of a row in one pass; 1 is none beforehand; see `engine.speculation`.
        watermark: the secret whose noise tokens are drawn with, or None.
        reads_ahead: name of a guidance or target that reads predictions outside of the current
            block, or None; with it the denoiser is asked for every column.
        fills_behind: write what is behind a stop token at once; see `engine.early_end`.
        told_time: whether the network is told the time, so that no stored key is that of another
            step; the run sets it.
    """

    sampler: Sampler[Any]
    law: TokenLaw | None = None
    blocks: BlockRequest = field(default_factory=BlockRequest)
    guidance_scale: float = 0.0
    stop_token_ids: tuple[int, ...] = ()
    every_step: bool = False
    suppress_mask: bool = True
    return_trajectory: bool = False
    cuda_graph: bool = False
    cache: str | AnyPolicy = "auto"
    cache_audit: float | str | None = None
    start: Start | None = None
    times: tuple[float, ...] | None = None
    constraint: TokenAutomaton | None = None
    guidance: Guidance | None = None
    max_nfe: int | None = None
    watermark: Watermark | None = None
    reads_ahead: str | None = None
    fills_behind: bool = False
    speculate: int = 1
    told_time: bool = False

    def __post_init__(self) -> None:
        planned = self.blocks.steps if self.blocks.steps_per_block is None else None
        planned = planned or self.blocks.steps_per_block
        check_times(self.times, planned, self.begin)
        check_cache_name(self.cache)
        check_audit(self.cache_audit)
        check_flag("every_step", self.every_step)
        check_flag("return_trajectory", self.return_trajectory)
        check_flag("cuda_graph", self.cuda_graph)
        check_real("guidance_scale", self.guidance_scale)
        if self.guidance is not None and self.guidance_scale != 0.0:
            raise ValueError(
                f"guidance_scale={self.guidance_scale}: is short for "
                "guidance=ClassifierFree(scale=...), and a guidance is given too; leave one out."
            )
        if not isinstance(self.guidance, Guidance | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"guidance is {named(self.guidance)}: must be an object of dlm_sampling.guidance, "
                "such as ClassifierFree(scale=1.5), whose `unconditional` takes a NegativePrompt, "
                "MaskedPrompt or NullLabel, or None."
            )
        number = None if self.guidance is None else self.guidance.shorthand
        if number is not None:  # two tensors of logits in one pass, with caches and graphs
            object.__setattr__(self, "guidance_scale", number)
            object.__setattr__(self, "guidance", None)
        if self.guidance is not None and self.guidance.chooses and self.constraint is not None:
            raise ValueError(
                f"guidance={type(self.guidance).__name__}: its candidates are several draws, of "
                "which a constraint follows one; use another guidance, or leave one of the two out."
            )
        if not abs(self.guidance_scale) <= MOST_GUIDANCE:
            raise ValueError(
                f"guidance_scale={self.guidance_scale}: must be between -{MOST_GUIDANCE:.0f} and "
                f"{MOST_GUIDANCE:.0f}; 0 is no guidance."
            )
        if self.constraint is not None and self.cuda_graph:
            raise ValueError(
                "cuda_graph=True: a constrained step cannot be recorded; leave out one of the two."
            )
        if self.constraint is not None and self.start is not None:
            raise ValueError(
                "start: a draft may not satisfy the constraint, and a step never mends it; leave "
                "out one of the two, or give the words to keep as fixed words of a prompt."
            )

        self._check_budget()
        self._check_speculation()
        self._check_watermark()
        check_flag("fill_behind_stop", self.fills_behind)
        others = {"cuda_graph=True": self.cuda_graph, "constraint=": self.constraint is not None}
        for name, given in others.items():
            if given and self.fills_behind:
                raise ValueError(f'eos="fill": goes without {name}; use eos="stop".')

    def _check_budget(self) -> None:
        """Refuse a budget of passes that cannot be kept.

        Raises:
            ValueError: it is below 1, or goes with what makes steps of other costs.
        """
        check_whole("max_nfe", self.max_nfe, optional=True)
        if self.max_nfe is None:
            return
        if self.max_nfe < 1:
            raise ValueError(f"max_nfe={self.max_nfe}: must be at least 1, or None for no bound.")
        others = {
            "cuda_graph=True": self.cuda_graph,
            "guidance=": self.guidance is not None,
            "constraint=": self.constraint is not None,
        }
        for name, given in others.items():
            if given:
                raise ValueError(
                    f"max_nfe={self.max_nfe}: goes without {name}; leave out one of the two, or "
                    "bound the run with steps=."
                )

    def _check_speculation(self) -> None:
        """Refuse drafts where steps do not follow from a canvas and its logits alone.

        Raises:
            ValueError: the number is out of range, or goes with what reads more.
        """
        check_whole("speculate", self.speculate)
        if not 1 <= self.speculate <= MOST_DRAFTS:
            raise ValueError(
                f"speculate={self.speculate}: must be from 1, no drafts, to {MOST_DRAFTS}; try 4."
            )
        others = {
            "cuda_graph=True": self.cuda_graph,
            "guidance=": self.guidance is not None,
            "constraint=": self.constraint is not None,
        }
        for name, given in others.items():
            if given and self.speculate > 1:
                raise ValueError(
                    f"speculate={self.speculate}: goes without {name}; leave out one of the two."
                )

    def _check_watermark(self) -> None:
        """Refuse a watermark with what would use its noise twice.

        Raises:
            ValueError: candidates of one step are compared, or a step is recorded.
        """
        if self.watermark is None:
            return
        if self.guidance is not None and self.guidance.chooses:
            raise ValueError(
                f"watermark: all candidates of {type(self.guidance).__name__} would be drawn with "
                "its one noise; leave out one of the two."
            )
        if self.cuda_graph:
            raise ValueError("watermark: its steps are not recorded; leave out cuda_graph=True.")

    @cached_property
    def begin(self) -> float:
        """Return the time at which every block begins, 1 without a draft."""
        return 1.0 if self.start is None or self.start.t is None else self.start.t


IsComplete = Callable[[Tensor, int], bool]
"""Tells whether a row's text is complete, of its canvas int64 [L], known left of a column."""


@dataclass(frozen=True)
class Canvases:
    """Hold the canvases of a run before its first step, one per batch row.

    Fields:
        tokens: int64 [B, L]; fixed tokens where `editable` is False.
        editable: bool [B, L], the positions to write.
        attention: bool [B, L], False at padding.
        seeds: one 64-bit seed per row.
        may_stop: bool [B], whether a stop token ends the row.
        complete: one function per row, asked after each block whether the row ends with it, or None
            for never; () if no row has one.
        begin: int64 [B], first column of the text that a constraint is about; None: of the row.
    """

    tokens: Tensor
    editable: Tensor
    attention: Tensor
    seeds: tuple[int, ...]
    may_stop: Tensor
    complete: tuple[IsComplete | None, ...] = ()
    begin: Tensor | None = None

    def to(self, device: torch.device) -> Canvases:
        """Return the canvases on a device."""
        moved = {
            name: part.to(device) for name, part in vars(self).items() if isinstance(part, Tensor)
        }
        return replace(self, **moved)

    def part(self, first: int, last: int) -> Canvases:
        """Return the rows `first` to `last` - 1."""
        given = {name: part for name, part in vars(self).items() if part is not None}
        return Canvases(**{name: part[first:last] for name, part in given.items()})
