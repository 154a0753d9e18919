"""Make the classifier of a guidance of a sequence classifier of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SequenceClassifier:
    """Return log p(label | canvas) of a sequence classifier, for ids and for one-hot canvases.

    It sees the canvas as it is, masks included, so train it on noisy canvases; its tokenizer must
    be the denoiser's.

    Fields:
        model: `AutoModelForSequenceClassification`, or any module that takes `input_ids` or
            `inputs_embeds` and returns `.logits` [n, labels], with `get_input_embeddings`.
        label: number of the class.
        chunk: canvases at a time.
    """

    model: Any
    label: int
    chunk: int = 256

    def __call__(self, canvas: Tensor) -> Tensor:
        """Return log p(label | canvas), [n], of ids int64 [n, L] or one-hot float [n, L, V]."""
        parts = [self._some(part) for part in torch.split(canvas, self.chunk)]
        return torch.cat(parts)

    def _some(self, canvas: Tensor) -> Tensor:
        """Return the log-probabilities of a few canvases."""
        if canvas.is_floating_point():
            weight: Tensor = self.model.get_input_embeddings().weight
            size = weight.shape[0]
            shown = canvas[..., :size].to(weight.dtype) @ weight[: canvas.shape[-1]]
            found: Any = self.model(inputs_embeds=shown)
        else:
            found = self.model(input_ids=canvas)
        return found.logits.float().log_softmax(-1)[:, self.label]
