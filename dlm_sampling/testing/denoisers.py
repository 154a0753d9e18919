"""Compute exact posteriors of small laws, and the toy networks of the test fixtures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.columns import shift_right
from dlm_sampling.testing.laws import all_states, joint_table
from dlm_sampling.types import DenoiserOutput, Pass

MAX_PAIRS = 1 << 22  # (row, support point) pairs held at once: 32 MiB in float64


class SupportDenoiser(Denoiser):
    """Predict the exact posterior of a law with finitely many support points.

        P(x0_i = v | x_t) = sum_n w_n a_n 1[z_ni = v] / sum_n w_n a_n,  a_n = 1[z_n agrees with x_t]

    where z_n agrees with x_t if it equals every token of x_t that is not the mask.  A canvas that
    no support point agrees with has probability zero; there the sums run over those that agree
    with as many of its tokens as any point does, so that rules that revise tokens are led back to
    the support.  Positions that hold a token get the law given all tokens: the token itself.

    The logits are the logarithms, -inf where the probability is zero and in the mask column.

    Args:
        points: int [N, L], the support; every row a sequence of ids, none of them the mask.
        weights: [N], probabilities up to a factor, >= 0; default: all equal.
        vocab_size: number of columns V; default: largest id + 2.
        mask_token_id: default: the last column.
        dtype: type of the logits; the arithmetic is float64.
        device: device of the tables and the arithmetic.

    Raises:
        ValueError: a shape is wrong, a weight is negative or all are zero, or a point contains the
            mask; on a call, the canvas does not have L positions or has padding.

    Cost: B * N * L * V multiplications a call; memory B * N, in chunks of rows.
    """

    family = "exact"

    def __init__(
        self,
        points: Tensor,
        weights: Tensor | None = None,
        *,
        vocab_size: int | None = None,
        mask_token_id: int | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        """See the class."""
        if points.ndim != 2 or points.numel() == 0:
            raise ValueError(
                f"points has shape {tuple(points.shape)}: must be [support points, positions]."
            )
        size = int(points.max()) + 2 if vocab_size is None else vocab_size
        mask = size - 1 if mask_token_id is None else mask_token_id
        if int(points.min()) < 0 or int(points.max()) >= size or bool((points == mask).any()):
            raise ValueError(f"points: ids must be in [0, {size}) and not the mask id {mask}.")
        super().__init__(
            vocab_size=size,
            mask_token_id=mask,
            max_length=points.shape[1],
            honours_padding=False,
            device=device,
        )
        weights = _checked_weights(weights, points)
        self.points = points[weights > 0].to(self.device)
        self.weights = (weights[weights > 0] / weights.sum()).to(self.device)
        self.logits_dtype = dtype
        self._onehot = F.one_hot(self.points, size).double().flatten(1)  # [N, L * V]

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return the logarithm of the posterior, [B, L, V]."""
        input_ids, attention_mask, length = inputs.tokens, inputs.attention, self.points.shape[1]
        if input_ids.shape[1] != length:
            raise ValueError(
                f"input_ids has {input_ids.shape[1]} positions: this law has exactly {length}."
            )
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError(
                "attention_mask has zeros: an exact law has no padding; pass whole canvases."
            )
        chunks = torch.split(input_ids, max(1, MAX_PAIRS // len(self.points)))
        return DenoiserOutput(
            torch.cat([self._posterior(chunk) for chunk in chunks]).log().to(self.logits_dtype)
        )

    def probs(self, canvas: Tensor) -> Tensor:
        """Compute the posterior itself, float64 [B, L, V]; 0 in the mask column."""
        return self.logits(canvas).double().exp()

    def _posterior(self, canvas: Tensor) -> Tensor:
        agree = (
            F.one_hot(canvas, self.vocab_size).double().flatten(1) @ self._onehot.T
        )  # [B, N] tokens
        close = (agree == agree.amax(dim=1, keepdim=True)) * self.weights
        mass = close @ self._onehot / close.sum(dim=1, keepdim=True)
        return mass.view(*canvas.shape, self.vocab_size)


def _checked_weights(weights: Tensor | None, points: Tensor) -> Tensor:
    if weights is None:
        return torch.ones(len(points), dtype=torch.float64, device=points.device)
    if weights.shape != points.shape[:1]:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}: must be [{len(points)}], one per point."
        )
    if (
        not bool((weights >= 0).all())
        or not bool(weights.sum() > 0)
        or not bool(weights.isfinite().all())
    ):
        raise ValueError("weights: must be finite and >= 0, and not all zero.")
    return weights.double()


class EnumerableDenoiser(SupportDenoiser):
    """Predict the exact posterior of a joint law given as a table.

    P(x0_i | the tokens of x_t) for a law P(x) over S symbols at L positions; the mask id is S.
    Zero entries are left out; see `SupportDenoiser` for canvases of probability zero.

    Args:
        joint: nested sequences or a tensor, shape [S] * L, axis i for position i; normalised here.
        dtype: type of the logits; the arithmetic is float64.
        device: device of the tables and the arithmetic.

    Raises:
        ValueError: the axes differ in size, an entry is negative, or all are zero.
    """

    def __init__(
        self,
        joint: Tensor | Sequence[Any],
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        """See the class."""
        table = joint_table(joint)
        size = table.shape[0]
        points = all_states(table.ndim, size)
        super().__init__(points, table.flatten(), vocab_size=size + 1, dtype=dtype, device=device)
        self.joint = table / table.sum()


class FixtureToy(Denoiser):
    """Predict from a small formula that depends on every token of the canvas.

        logits[b, i, v] = P[i, v] + mean[b, v] + 0.5 E[x[b, i-1 mod L], v]
        mean[b, v] = sum_j w[b, j] E[x[b, j], v] / sum_j w[b, j]
        logits[b, i, mask] = mask_logit        unless that is None

    with w the attention mask.  All in float64.

    Args:
        embedding: E, float64 [V, V].
        positions: P, float64 [longest canvas, V].
        mask_token_id: the mask.
        mask_logit: value of the mask column, or None to leave it as computed.
        shifted: treat the logits as those of a model that predicts the next token, as Dream does:
            row i is computed at position i - 1 (row 0 at position 0).
        honours_padding: value that the toy declares.  It is only half true, the second and third
            term see padding, but True makes a padded batch reach the toy as it is.
        dtype: type of the logits; the arithmetic is float64.

    Raises:
        ValueError: on a call, the canvas is longer than P.
    """

    family = "toy"

    def __init__(
        self,
        embedding: Tensor,
        positions: Tensor,
        mask_token_id: int,
        mask_logit: float | None = -1e9,
        *,
        shifted: bool = False,
        honours_padding: bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """See the class."""
        super().__init__(
            vocab_size=embedding.shape[1],
            mask_token_id=mask_token_id,
            max_length=len(positions),
            honours_padding=honours_padding,
        )
        self.embedding = embedding.double()
        self.positions = positions.double()
        self.mask_column = mask_token_id
        self.mask_logit = mask_logit
        self.shifted = shifted
        self.logits_dtype = dtype

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Compute the formula of the class, [B, L, V]."""
        input_ids, attention_mask = inputs.tokens, inputs.attention
        length = input_ids.shape[1]
        if length > len(self.positions):
            raise ValueError(
                f"input_ids has {length} positions: this toy has at most {len(self.positions)}."
            )
        w = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        w = w.double().unsqueeze(2)
        e = self.embedding[input_ids]
        mean = (e * w).sum(dim=1, keepdim=True) / w.sum(dim=1, keepdim=True)
        logits = self.positions[:length] + mean + 0.5 * e.roll(1, dims=1)
        if self.mask_logit is not None:
            logits[..., self.mask_column] = self.mask_logit
        return DenoiserOutput(
            (shift_right(logits, None) if self.shifted else logits).to(self.logits_dtype)
        )

    def variant(
        self,
        *,
        mask_logit: float | None = -1e9,
        shifted: bool = False,
        honours_padding: bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> FixtureToy:
        """Make a toy of the same tables with other options; omitted ones take their defaults."""
        return FixtureToy(
            self.embedding,
            self.positions,
            self.mask_column,
            mask_logit,
            shifted=shifted,
            honours_padding=honours_padding,
            dtype=dtype,
        )


def load_toys(path: Path | str) -> dict[str, FixtureToy]:
    """Read the toys of a safetensors file, by name.

    The file holds `<name>.E` and `<name>.P`; its metadata maps each name to JSON with `mask_id`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    from safetensors import safe_open

    source: Any = safe_open(path, framework="pt")
    with source as file:
        facts: dict[str, Any] = {name: json.loads(text) for name, text in file.metadata().items()}
        return {
            name: FixtureToy(
                file.get_tensor(f"{name}.E"), file.get_tensor(f"{name}.P"), fact["mask_id"]
            )
            for name, fact in facts.items()
        }
