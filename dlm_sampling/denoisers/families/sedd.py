"""Load and run SEDD: the diffusion transformer that learns ratios of marginals.

Lou, Meng & Ermon 2024, Discrete Diffusion Modeling by Estimating the Ratios of the Data
Distribution, arXiv:2310.16834, released code
github.com/louaaron/Score-Entropy-Discrete-Diffusion.  The denoiser of DDPD (Liu et al. 2024,
arXiv:2410.06264) is the same network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint, CheckpointError
from dlm_sampling.denoisers.checkpoints.config_keys import reading_config
from dlm_sampling.denoisers.checkpoints.dit_checkpoint import (
    HEAD,
    dit_keys,
    gpt2_tokenizer,
    load_dit,
    read_sizes,
    rows_of,
    training_config,
)
from dlm_sampling.denoisers.checkpoints.settings import is_mapping
from dlm_sampling.denoisers.checkpoints.tokenizers import TextFacts
from dlm_sampling.denoisers.checkpoints.value_kinds import FLAG, POSITIVE, SIZE, TEXT
from dlm_sampling.denoisers.columns import at_columns
from dlm_sampling.denoisers.networks.dit import Dit
from dlm_sampling.denoisers.networks.dit_denoiser import DitDenoiser
from dlm_sampling.denoisers.networks.total_noise import geometric_noise, total_noise
from dlm_sampling.denoisers.registry import Family, LoadOptions, register
from dlm_sampling.schedules import LOG_LINEAR, Geometric, Schedule
from dlm_sampling.types import DenoiserOutput, Pass

EARLIEST = 1e-5
"""Smallest time the network is given; the score of absorbing noise is infinite at 0."""
GEOMETRIC = (1e-4, 20.0)


class SEDDDenoiser(DitDenoiser):
    """Run a SEDD network: entry y at position i is log p_t(x with y at i) / p_t(x), own token 0.

    With absorbing noise and `scale_by_sigma` the network's output is divided by
    (exp(sigma) - 1) (V - 1).  At a masked position the softmax over the other columns is the
    posterior of the clean token.

    Args:
        network: the diffusion transformer.
        mask_token_id: the mask id, the last column; None for uniform noise.
        scale_by_sigma: whether the output is scaled as above; absorbing noise only.
        noise: total noise sigma [B] of the times t [B]; default: the log-linear schedule.
        max_length: length it was trained at.
        text: tokenizer, eos_token_id, pad_token_id; see `DitDenoiser`.

    Raises:
        ValueError: `scale_by_sigma` without a mask.
    """

    family = "sedd"
    lazy_head = False

    def __init__(
        self,
        network: Dit,
        *,
        mask_token_id: int | None = None,
        scale_by_sigma: bool = False,
        noise: Callable[[Tensor], Tensor] = total_noise,
        max_length: int | None = None,
        **text: Unpack[TextFacts],
    ) -> None:
        """Wrap the network; see the class."""
        if scale_by_sigma and mask_token_id is None:
            raise ValueError(
                "scale_by_sigma=True: the scale belongs to absorbing noise; give mask_token_id, or "
                "pass scale_by_sigma=False."
            )
        super().__init__(
            network,
            noise=noise,
            mask_token_id=mask_token_id,
            max_length=max_length,
            time_conditioned=True,
            kind="log_score",
            schedule=_schedule(noise),
            **text,
        )
        self.scale_by_sigma = scale_by_sigma

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return log-scores of the columns asked for."""
        values, head, *_ = super().forward(inputs)
        values = values if head is None else head(values)
        if self.scale_by_sigma:
            sigma = self.sigma(inputs.tokens, inputs.t).double()
            scale = torch.expm1(sigma).log() + math.log(self.vocab_size - 1)
            values = values - scale.to(values.dtype)[:, None, None]
        own = at_columns(inputs.tokens.unsqueeze(-1), inputs.columns)
        return DenoiserOutput(values.scatter(-1, own, 0.0), columns=inputs.columns)

    def sigma(self, input_ids: Tensor, t: Tensor | None) -> Tensor:
        """Return the total noise [B] of times t [B], raised to `EARLIEST` at least."""
        assert t is not None  # the caller has checked: the network is time-conditioned
        return self.noise(t.clamp_min(EARLIEST))

    def authors_config(self) -> dict[str, Any]:
        """Write the training config, under the authors' keys."""
        absorbing = self.mask_token_id is not None
        model = training_config(self.network, self.max_length)
        return {
            "graph": {"type": "absorb" if absorbing else "uniform"},
            "model": {**model, "scale_by_sigma": self.scale_by_sigma},
            "noise": noise_config(self.noise),
            "tokens": self.vocab_size - absorbing,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }


class GeometricNoise:
    """Compute the geometric schedule of t with its own bounds; see `geometric_noise`."""

    def __init__(self, low: float, high: float) -> None:
        """Keep the noise at t = 0 and t = 1."""
        self.low, self.high = low, high

    def __call__(self, t: Tensor) -> Tensor:
        """Return the total noise [B] of t [B]."""
        return geometric_noise(t, self.low, self.high)


def _schedule(noise: Callable[[Tensor], Tensor]) -> Schedule | None:
    """Return the schedule alpha(t) = exp(-sigma(t)) of a known noise; None for other functions."""
    if isinstance(noise, GeometricNoise):
        return Geometric(noise.low, noise.high)
    return LOG_LINEAR if noise is total_noise else None


def noise_config(noise: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Write the `noise` section of the config for a schedule."""
    if isinstance(noise, GeometricNoise):
        return {"type": "geometric", "sigma_min": noise.low, "sigma_max": noise.high}
    return {"type": "loglinear"}


def read_noise(checkpoint: Checkpoint) -> Callable[[Tensor], Tensor]:
    """Read the schedule that the config names.

    Raises:
        CheckpointError: an unknown one.
    """
    given: Mapping[str, Any] = checkpoint.config.get("noise") or {}
    low, high = GEOMETRIC
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "loglinear": total_noise,
        "geometric": GeometricNoise(given.get("sigma_min", low), given.get("sigma_max", high)),
    }
    name = given.get("type", "loglinear")
    if name not in known:
        raise CheckpointError(
            f"{checkpoint.name!r}: config.json has noise type {name!r}; allowed: "
            f"{', '.join(known)}."
        )
    return known[name]


def load(checkpoint: Checkpoint, options: LoadOptions) -> SEDDDenoiser:
    """Build the denoiser of a SEDD checkpoint.

    Raises:
        CheckpointError: it is a planner, or its config contradicts itself.
    """
    with reading_config(checkpoint):
        absorbing, columns = is_absorbing(checkpoint.config), columns_of(checkpoint.config)
        given = checkpoint.config.get("vocab_size")
        if given not in (None, columns, columns - absorbing):
            raise ValueError(f"vocab_size={given} beside tokens={checkpoint.config['tokens']}")
    if columns > 1 and rows_of(checkpoint, HEAD) == 1:
        raise CheckpointError(
            f"{checkpoint.name!r} is a DDPD planner, no denoiser: its head has one column. "
            "Load it with DDPDPlanner.from_pretrained."
        )
    sizes, length = read_sizes(checkpoint, columns)
    scaled = bool(checkpoint.config["model"].get("scale_by_sigma", False))
    if scaled and not absorbing:
        raise CheckpointError(
            f"{checkpoint.name!r}: config.json has scale_by_sigma with uniform noise; it must be "
            "false there."
        )
    mask_token_id = options.mask_id(checkpoint, columns - 1, columns) if absorbing else None
    return SEDDDenoiser(
        load_dit(sizes, checkpoint, options),
        mask_token_id=mask_token_id,
        scale_by_sigma=scaled,
        noise=read_noise(checkpoint),
        max_length=length,
        **options.text(checkpoint, gpt2_tokenizer(columns, mask_token_id)),
    )


def matches(config: Mapping[str, Any]) -> bool:
    """Match the nested training config, which names a graph and counts tokens."""
    graph = config.get("graph")
    kind = graph.get("type") if is_mapping(graph) else None
    return kind in ("absorb", "uniform") and "model" in config


def is_absorbing(config: Mapping[str, Any]) -> bool:
    """Return whether the noise masks tokens."""
    return config["graph"]["type"] == "absorb"


def columns_of(config: Mapping[str, Any]) -> int:
    """Return the number of tokens, with the mask that absorbing noise adds."""
    return int(config["tokens"]) + is_absorbing(config)


def known_columns(config: Mapping[str, Any]) -> object:
    """Return the number of columns; None if the config, perhaps of a planner, does not say."""
    told = "tokens" in config and "type" in config.get("graph", {})
    return columns_of(config) if told else None


KEYS = dit_keys(
    read={
        "graph.type": TEXT,
        "model.scale_by_sigma": FLAG,
        "noise.sigma_max": POSITIVE,
        "noise.sigma_min": POSITIVE,
        "noise.type": TEXT,
        "tokens": SIZE,
    },
    fixed={},
    harmless={"graph.file", "graph.report_all"},
    columns=known_columns,
)

register(Family("sedd", matches, load, keys=KEYS))
