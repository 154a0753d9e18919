"""Planner networks as the loop runs them: one output column, the logit that a token is noise.

    planner(input_ids [B, L], attention_mask?, t?) -> log P(token is noise) / P(it is clean), [B, L]

Liu et al. 2024, Think while You Generate: Discrete Diffusion with Planned Denoising,
arXiv:2410.06264.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from dlm_sampling.denoisers.base import Denoiser, refuse_cache
from dlm_sampling.denoisers.families.ddpd import DDPDPlanner
from dlm_sampling.denoisers.wrap import accepted_arguments
from dlm_sampling.types import DenoiserOutput, Pass, Planner


class PlannerNetwork(Denoiser):
    """A planner behind the call of a denoiser, so that padding and NFE are treated alike.

    Args:
        planner: function or module; `attention_mask` (bool [B, L]) and `t` (float64 [B]) are passed
            where its signature names them.  A planner without `attention_mask` runs rows of
            different padding separately.  Attributes `device`, `schedule` (of its times) and
            `vocab_size` (ids that it takes) are read if there are any.
    """

    family = "planner"

    def __init__(self, planner: Planner) -> None:
        """See the class."""
        accepts = accepted_arguments(planner.forward if isinstance(planner, nn.Module) else planner)
        super().__init__(
            vocab_size=1,
            mask_token_id=None,
            honours_padding="attention_mask" in accepts,
            time_conditioned="t" in accepts,
            schedule=getattr(planner, "schedule", None),
            module=planner if isinstance(planner, nn.Module) else None,
            device=getattr(planner, "device", None),
        )
        self.planner, self.accepts = planner, accepts
        self.takes: int | None = getattr(planner, "vocab_size", None)

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return the logits as a table of one token, [B, L, 1]."""
        refuse_cache(inputs)
        input_ids = inputs.tokens
        offered = {"attention_mask": inputs.attention, "t": inputs.t}
        logits = self.planner(input_ids, **{k: v for k, v in offered.items() if k in self.accepts})
        if logits.shape != input_ids.shape:
            raise ValueError(
                f"planner returned shape {tuple(logits.shape)} for input_ids "
                f"{tuple(input_ids.shape)}: must be one logit per position. Networks of tokens are "
                "denoisers; a planner says which positions are noise."
            )
        return DenoiserOutput(logits.unsqueeze(-1))


def planner_network(planner: Planner | str | Path, denoiser: Denoiser) -> PlannerNetwork:
    """Turn a planner, or the folder or hub name of one, into a network that runs beside a denoiser.

    Args:
        planner: what to run; a checkpoint is loaded onto the denoiser's device, an object stays
            where it is.
        denoiser: writes the tokens that the planner scores.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or no planner.
        ValueError: the planner takes fewer ids than the denoiser writes.
    """
    if isinstance(planner, str | Path):
        planner = loaded_planner(str(planner), denoiser.device)
    network = PlannerNetwork(planner)
    needed = denoiser.vocab_size - (denoiser.mask_token_id == denoiser.vocab_size - 1)
    if network.takes is not None and network.takes < needed:
        raise ValueError(
            f"planner takes {network.takes} ids, and the denoiser writes {needed}: they were "
            "not trained together. Pass the planner of this denoiser."
        )
    return network


@lru_cache(maxsize=1)  # every step of every batch asks for the same one
def loaded_planner(name: str, device: torch.device) -> DDPDPlanner:
    """Load a planner checkpoint, or return it if it was the last one loaded."""
    return DDPDPlanner.from_pretrained(name, device_map=device)
