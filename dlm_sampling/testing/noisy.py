"""Compute the exact predictions of a joint law whose positions are noised without a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.processes import Uniform
from dlm_sampling.schedules import LOG_LINEAR, Schedule
from dlm_sampling.testing.laws import all_states, joint_table
from dlm_sampling.types import DenoiserOutput, Pass, PredictionKind, Process

MAX_PAIRS = 4_000_000


class NoisyEnumerableDenoiser(Denoiser):
    """Predict like a perfect network, by enumeration of x0, for a law given as a table.

        posterior      P(x0_i = y | x_t) ~ sum over x0 with x0_i = y of p(x0) prod_j q_t(x_j | x0_j)
        leave_one_out  the same without the factor j = i
        log_score      log sum_y P(y | x_t without i) q_t(v | y), 0 at v = x_i

    q_t is the kernel of the process at alpha(t).  Times are its own schedule's; a sampler of
    another schedule is translated by the loop.

    Args:
        joint: nested sequences or a tensor, shape [S] * L; normalised here.
        kind: which of the three to return.
        schedule: alpha(t).
        process: noise over S symbols without a mask.
        device: device of the tables and the arithmetic.

    Raises:
        ValueError: the axes differ in size, an entry is negative, all are zero, or on a call the
            canvas does not have L positions.

    Cost: rows * S^L * L, in chunks of rows.
    """

    family = "exact"

    def __init__(
        self,
        joint: Tensor | Sequence[Any],
        *,
        kind: PredictionKind = "leave_one_out",
        schedule: Schedule = LOG_LINEAR,
        process: Process | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """See the class."""
        table = joint_table(joint)
        if not bool((table >= 0).all()) or not bool(table.sum() > 0):
            raise ValueError("joint: must be >= 0, and not all zero.")
        super().__init__(
            vocab_size=table.shape[0],
            mask_token_id=None,
            max_length=table.ndim,
            honours_padding=False,
            time_conditioned=True,
            kind=kind,
            process=Uniform() if process is None else process,
            schedule=schedule,
            device=device,
        )
        self.joint = (table / table.sum()).to(self.device)
        self.points = all_states(table.ndim, table.shape[0]).to(self.device)
        self.times: Schedule = schedule

    def forward(self, inputs: Pass) -> DenoiserOutput:
        """Return the logarithms of the prediction, [B, L, S]."""
        input_ids, t, length = inputs.tokens, inputs.t, self.points.shape[1]
        if input_ids.shape[1] != length or t is None:
            raise ValueError(
                f"input_ids has {input_ids.shape[1]} positions: this law has exactly {length}."
            )
        size = max(1, MAX_PAIRS // (len(self.points) * length))
        alpha = self.times.alpha(t.double())
        parts = zip(torch.split(input_ids, size), torch.split(alpha, size), strict=True)
        return DenoiserOutput(torch.cat([self._predict(x, a) for x, a in parts]))

    def kernel(self, alpha: Tensor) -> Tensor:
        """Compute q_t(x | x0), rows x0, [B, S, S], at levels [B]."""
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=self.device)
        rows = eye.expand(len(alpha), -1, -1)
        return self.process.forward(rows, alpha.unsqueeze(1))

    def _predict(self, x: Tensor, alpha: Tensor) -> Tensor:
        kernel = self.kernel(alpha)
        # seen[b, n, j] = q(x_bj | points_nj)
        across = kernel.transpose(1, 2).gather(1, x.unsqueeze(2).expand(-1, -1, self.vocab_size))
        column = torch.arange(x.shape[1], device=x.device)
        seen = across[:, column, self.points]
        weight = self.joint.flatten() * seen.prod(2)
        one_hot = torch.nn.functional.one_hot(self.points, self.vocab_size).double()
        if self.kind == "posterior":
            law = torch.einsum("bn,nlv->blv", weight, one_hot)
            return (law / law.sum(-1, keepdim=True)).log()
        others = torch.stack(
            [torch.cat((seen[..., :i], seen[..., i + 1 :]), 2).prod(2) for i in column], 1
        )
        loo = torch.einsum("bln,nlv->blv", self.joint.flatten() * others, one_hot)
        loo = loo / loo.sum(-1, keepdim=True)
        if self.kind == "leave_one_out":
            return loo.log()
        reached = torch.einsum("blk,bkv->blv", loo, kernel)
        return (reached / reached.gather(-1, x.unsqueeze(-1))).log()
