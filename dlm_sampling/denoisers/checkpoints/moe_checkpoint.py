"""Load mixture-of-experts checkpoints: weights, and the keys of the authors' configs."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.placement import plan_placement
from dlm_sampling.denoisers.checkpoints.value_kinds import FLAG, LAYERS, POSITIVE, SHARE, SIZE, Kind
from dlm_sampling.denoisers.checkpoints.weights import NameOf, load_weights, tie
from dlm_sampling.denoisers.networks.moe import TIED, MoeConfig, MoeNetwork, Router
from dlm_sampling.denoisers.networks.transformers_blocks import is_rotary
from dlm_sampling.denoisers.registry import LoadOptions

SIZE_KEYS: Mapping[str, Kind] = {
    "hidden_size": SIZE,
    "max_position_embeddings": SIZE,
    "num_attention_heads": SIZE,
    "num_experts": SIZE,
    "num_experts_per_tok": SIZE,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": SIZE,
    "partial_rotary_factor": SHARE,
    "rms_norm_eps": POSITIVE,
    "rope_theta": POSITIVE,
    "tie_word_embeddings": FLAG,
    "vocab_size": SIZE,
}
REQUIRED = (
    *("hidden_size", "num_attention_heads", "num_experts", "num_hidden_layers", "rope_theta"),
    "vocab_size",
)


def load_moe(
    sizes: MoeConfig, router: Router, checkpoint: Checkpoint, options: LoadOptions, name_of: NameOf
) -> MoeNetwork:
    """Build a network with a checkpoint's weights, without initialising any."""
    with torch.device("meta"):
        network = MoeNetwork(sizes, router)
    tied = TIED if checkpoint.config.get("tie_word_embeddings") else {}
    for key, source in tied.items():
        tie(network, key, source)
    dtype = options.dtype_for(checkpoint)
    place, finish = plan_placement(network, options.device_map, dtype, ("MoeLayer",))
    load_weights(
        network, checkpoint, name_of, dtype=dtype, place=place, tied=tied, ignored=is_rotary
    )
    finish()
    return network
