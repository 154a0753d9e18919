"""Run planners as denoisers with one output column: the logit that a token is noise.

    planner(input_ids [B, L], attention_mask?, t?) -> log P(token is noise) / P(it is clean), [B, L]

Liu et al. 2024, Think while You Generate: Discrete Diffusion with Planned Denoising,
arXiv:2410.06264.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.columns import refuse_cache
from dlm_sampling.denoisers.families.ddpd import DDPDPlanner
from dlm_sampling.denoisers.wrappers import arguments_of
from dlm_sampling.schedules import Schedule
from dlm_sampling.types import DenoiserOutput, Pass, Planner


class PlannerNetwork(Denoiser):
    """Run a planner behind the call of a denoiser, so that padding and NFE are treated alike.

    Samplers take the planner itself, or this where its facts matter.

    Args:
        planner: function or module; `attention_mask` (bool [B, L]) and `t` (float64 [B]) are passed
            where its signature names them.  A planner without `attention_mask` runs rows of
            different padding separately.
        takes: number of token ids that the planner knows, or None: it is not checked.
        schedule: alpha(t) of the times that it takes; default: the sampler's own time.
        device: device of the inputs; default: that of the module's first parameter, else CPU.
    """

    family = "planner"

    def __init__(
        self,
        planner: Planner,
        *,
        takes: int | None = None,
        schedule: Schedule | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """See the class."""
        accepts, _ = arguments_of(planner)
        super().__init__(
            vocab_size=1,
            mask_token_id=None,
            honours_padding="attention_mask" in accepts,
            time_conditioned="t" in accepts,
            schedule=schedule,
            module=planner if isinstance(planner, nn.Module) else None,
            device=device,
        )
        self.planner, self.accepts, self.takes = planner, accepts, takes

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return the logits as a table of one token, [B, L, 1]."""
        refuse_cache(inputs)
        input_ids = inputs.tokens
        offered = {"attention_mask": inputs.attention, "t": inputs.t}
        logits = self.planner(input_ids, **{k: v for k, v in offered.items() if k in self.accepts})
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"planner returned {type(logits).__name__}: must be logits [B, L], one per "
                "position."
            )
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
        planner: a planner, which stays where it is, or the name of a checkpoint, which is loaded
            onto the denoiser's device.
        denoiser: writes the tokens that the planner scores.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or no planner.
        ValueError: the planner takes fewer ids than the denoiser writes.
    """
    if isinstance(planner, str | Path):
        planner = loaded_planner(str(planner), denoiser.device)
    if isinstance(planner, PlannerNetwork):
        network = planner
    elif isinstance(planner, DDPDPlanner):
        network = PlannerNetwork(planner, takes=planner.vocab_size, device=planner.device)
    else:
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
