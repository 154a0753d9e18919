"""Draws random calls of `generate`: right ones, and ones with a single wrong argument.

The network is a module with dropout, left in training mode as a trainer leaves it.  Its logits
depend on every real token of a row, and it counts the rows that it is run on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from dlm_sampling import samplers, wrap
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.processes import Absorbing, RateMatrix, Uniform
from dlm_sampling.types import Process

VOCAB, MASK, EOS = 11, 10, 9
LONGEST = 24  # positions of a row
EXACT = torch.float64
PROCESSES: dict[str, Process] = {
    "absorbing": Absorbing(MASK),
    "uniform": Uniform(),
    "matrix": RateMatrix(
        torch.full((VOCAB, VOCAB), 1.0 / VOCAB, dtype=EXACT) - torch.eye(VOCAB, dtype=EXACT)
    ),
}
PAIRS = [
    (name, kind) for name, entry in sorted(samplers.available().items()) for kind in entry.runs_on
]


class Toy(nn.Module):
    """Logits [B, L, V] from a table of positions and the mean of the row's real tokens."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.tokens = nn.Parameter(torch.randn(VOCAB, VOCAB, generator=generator))
        self.places = nn.Parameter(torch.randn(4 * LONGEST, VOCAB, generator=generator))
        self.dropout = nn.Dropout(0.5)
        self.rows = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Count the rows, and return their logits."""
        self.rows += len(input_ids)
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        place = (real.cumsum(1) - 1).clamp_min(0)
        seen = self.tokens[input_ids] * real.unsqueeze(2)
        mean = seen.sum(1, keepdim=True) / real.sum(1)[:, None, None]
        return self.dropout(self.places[place] + mean)


@dataclass(frozen=True)
class Call:
    """Hold one call of `generate`.

    Fields:
        sampler: registered name.
        kind: noise of the network.
        prompts: token ids of each prompt.
        options: the other arguments.
        wrong: name of the argument that was replaced by a bad value, or None.
    """

    sampler: str
    kind: str
    prompts: list[list[int]]
    options: dict[str, Any] = field(default_factory=dict)
    wrong: str | None = None

    def network(self) -> tuple[Toy, Denoiser]:
        """Return the network, in training mode, and the denoiser around it."""
        process, toy = PROCESSES[self.kind], Toy()
        denoiser = wrap(
            toy,
            vocab_size=VOCAB,
            mask_token_id=process.mask_token_id,
            eos_token_id=EOS,
            max_length=4 * LONGEST,
            process=process,
            honours_padding=True,
        )
        toy.train()
        return toy, denoiser


_OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "steps": st.integers(1, 12),
    "block_length": st.integers(1, 9),
    "temperature": st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    "top_k": st.integers(1, VOCAB),
    "top_p": st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    "min_p": st.sampled_from([0.0, 0.1, 0.5]),
    "crossing": st.sampled_from(["include", "exclude"]),
    "typical_p": st.sampled_from([0.2, 0.9]),
    "eta_cutoff": st.sampled_from([0.001, 0.1]),
    "top_n_sigma": st.sampled_from([0.5, 2.0]),
    "repetition_penalty": st.sampled_from([0.8, 1.0, 1.3]),
    "presence_penalty": st.sampled_from([-0.5, 0.0, 1.0]),
    "suppress_tokens": st.lists(st.integers(0, VOCAB - 4), max_size=3, unique=True),
    "guidance_scale": st.sampled_from([0.0, 0.5, 2.0]),
    "num_return_sequences": st.integers(1, 3),
    "eos": st.sampled_from(["auto", "keep", "cut", "stop", "fill"]),
    "eos_token_id": st.integers(0, VOCAB - 2),
    "batch_size": st.integers(1, 4),
    "every_step": st.booleans(),
    "align_blocks": st.booleans(),
    "causal_blocks": st.booleans(),
    "return_trajectory": st.booleans(),
    "return_rollout": st.booleans(),
    "max_nfe": st.integers(1, 12),
    "start": st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9),
    "t_start": st.sampled_from([0.3, 0.9]),
    "renoise": st.booleans(),
}

BAD_VALUES: list[Any] = [
    None, -1, 0, 2**62, 2**70, 1e300, 2.5, math.nan, math.inf, -math.inf, "", "4", "inclde", b"x",
    [], [1, "a"], {}, {"a": 1}, object(), torch.tensor(2.5), torch.tensor([1, 2]), np.int64(3),
    np.float32(0.5), True, torch.zeros(0), [[1]], lambda: 1, float, 1 + 2j,
]  # fmt: skip
_REPLACED = [*_OPTIONAL, "seed", "max_new_tokens", "prompts", "sampler", "infill", "attention_mask"]


@st.composite
def calls(draw: st.DrawFn, name: str, kind: str, *, wrong: bool) -> Call:
    """Draw a call of a sampler under a kind of noise.

    With `wrong` one argument is replaced by a value that is rarely allowed.
    """
    ids = st.integers(0, VOCAB - 1)  # the mask id of a prompt is a token like any other
    prompts = draw(st.lists(st.lists(ids, min_size=1, max_size=9), min_size=1, max_size=4))
    options: dict[str, Any] = {
        "seed": draw(st.integers(0, 2**63 - 1)),
        "max_new_tokens": draw(st.integers(0, LONGEST - 9)),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(_OPTIONAL)), max_size=6))
    for option in sorted(chosen):
        options[option] = draw(_OPTIONAL[option])
    if not wrong:
        return Call(name, kind, prompts, options)
    replaced = draw(st.sampled_from(_REPLACED))
    value = draw(st.sampled_from(BAD_VALUES))
    return Call(name, kind, prompts, options | {replaced: value}, replaced)
