"""Compute, in every layer, the answer's columns whose values have turned most: dLLM-Cache.

    every Kp-th pass   Q = Wr = the prompt too, in all layers
    every Kr-th pass   Q = Wr = the answer, in all layers
    else               Q = Wr = the answer;  the first layer computes it,  each layer behind it
                       v, v' = fresh and stored values of all G columns,  which all become v
                       S = the floor(rho G) columns of the lowest cos(v, v')
                       h_i <- h_i + attention and MLP, computed for i in S, stored for all others

K = all columns.  What a layer added stands in the store beside keys and values.  Approximate.

Liu et al. 2025, dLLM-Cache, arXiv:2506.06295, section 3.  In the released code one state serves the
whole process, and the attention mask is dropped; here a row has its own, and padding is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlm_sampling.caches.policy import Plan, PolicyBase, View, at_least


class DLLMState(NamedTuple):
    """Hold what the policy remembers of each row."""

    answer: Tensor  # bool [n, L], positions that the run writes
    passes: Tensor  # int64 [n], passes so far


@dataclass(frozen=True)
class DLLMCache(PolicyBase):
    """Compute the answer's first layer, and behind it a share of its columns.

    `work` counts the columns of a pass, as if all layers computed them.

    Fields:
        prompt_every: passes from one over the prompt to the next, Kp.
        every: passes from one over all of the answer to the next, Kr.
        share: share of the answer that layers compute in between, rho.
    """

    prompt_every: int = 50
    every: int = 7
    share: float = 0.25

    name = "dllm"
    updates_layers = True

    def __post_init__(self) -> None:
        super().__post_init__()  # types before ranges
        at_least("prompt_every", self.prompt_every, 1)
        at_least("every", self.every, 1)
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share={self.share}: must be in [0, 1]; try 0.25.")

    def init(self, view: View) -> DLLMState:
        """Return the state of rows without a pass."""
        answer = view.unknown if view.editable is None else view.editable
        return DLLMState(answer, torch.zeros_like(view.opened, dtype=torch.int64))

    def plan(self, state: DLLMState, view: View) -> tuple[DLLMState, Plan]:
        """Return the columns of the next pass, and the state after it."""
        answer = state.answer & view.real
        prompt, due = state.passes % self.prompt_every == 0, state.passes % self.every == 0
        query = view.real & (answer | prompt.unsqueeze(1))
        partial = answer & view.held & ~due.unsqueeze(1)
        fresh = (partial.sum(1) * self.share).floor().long()
        after = state._replace(passes=state.passes + 1)
        return after, Plan(query, view.real, query, due, partial, fresh)
