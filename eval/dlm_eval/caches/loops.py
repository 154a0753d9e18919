"""Run the released loop's arithmetic for the prefix and the dual cache, as a yardstick.

Keys and values are joined in every layer of every pass, logits are computed for every column of a
pass, and confidences are a float64 softmax over all of them: what a pass of Fast-dLLM costs (Wu et
al. 2025, arXiv:2505.22618), written anew.  Positions are chosen by quota, at temperature 0.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor


class Joined:
    """Join stored keys and values with those of a pass over the columns [start, stop)."""

    def __init__(self, start: int, stop: int) -> None:
        """Begin without stored columns."""
        self.start, self.stop = start, stop
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.kept = False

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return all keys and values; the first pass stores its own."""
        if not self.kept:
            self.layers.append((key, value))
            return key, value
        start, stop = self.start, self.stop
        joined = [
            torch.cat([old[:, :, :start], new, old[:, :, stop:]], 2)
            for old, new in zip(self.layers[layer], (key, value), strict=True)
        ]
        return joined[0], joined[1]


@torch.no_grad()
def released_loop(
    model: Any, tokens: Tensor, prompt: int, block: int, steps: int, mask: int,
    cache: Literal["prefix", "dual"],
) -> Tensor:  # fmt: skip
    """Fill the masks right of the prompt, and return the canvas int64 [B, L].

    Args:
        model: a stock module of transformers whose layers are run with full attention.
        tokens: int64 [B, L].
        prompt: columns of the prompt.
        block: columns of a block.
        steps: passes of a block.
        mask: the mask id.
        cache: which columns later passes of a block compute.
    """
    x, length = tokens.clone(), tokens.shape[1]
    for start in range(prompt, length, block):
        stop = start + block
        last = length if cache == "prefix" else stop
        store = Joined(start, last)
        for step in range(steps):
            low, high = (0, length) if step == 0 else (start, last)
            logits = _logits(model, x[:, low:high], low, store)
            store.kept = True
            p = logits.double().softmax(-1)
            best = logits.argmax(-1)
            confidence = p.gather(-1, best.unsqueeze(-1)).squeeze(-1)
            masked = x[:, low:high] == mask
            masked[:, stop - low :] = False
            confidence = confidence.masked_fill(~masked, -torch.inf)
            chosen = confidence.topk(block // steps, dim=1).indices
            x[:, low:high] = x[:, low:high].scatter(1, chosen, best.gather(1, chosen))
    return x


def _logits(model: Any, ids: Tensor, first: int, store: Joined) -> Tensor:
    """Return the logits of all columns of a pass that begins at column `first`."""
    stack = model.model
    hidden = stack.embed_tokens(ids)
    place = torch.arange(first, first + ids.shape[1], device=ids.device).unsqueeze(0)
    rotary = stack.rotary_emb(hidden, place)
    for layer in stack.layers:
        hidden = layer(
            hidden, position_ids=place, past_key_values=store, position_embeddings=rotary,
            is_causal=False,
        )  # fmt: skip
        hidden = hidden if isinstance(hidden, Tensor) else hidden[0]
    return model.lm_head(stack.norm(hidden))
