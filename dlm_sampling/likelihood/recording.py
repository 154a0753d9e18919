"""Build the rollout of a run while it runs, from its events."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.fit import check_fit
from dlm_sampling.engine.request import Canvases, Request
from dlm_sampling.engine.sample import plan_request
from dlm_sampling.engine.trajectory import Trajectory
from dlm_sampling.likelihood.rollout import Rollout
from dlm_sampling.likelihood.tables import Recorder


@dataclass(frozen=True)
class Recording:
    """Build the rollout of a run while it runs.

    Fields:
        recorder: the callback that hears every step.
        run: rows and settings of the run.
    """

    recorder: Recorder
    run: Trajectory

    @classmethod
    def of(cls, denoiser: Denoiser, request: Request, canvases: Canvases) -> Recording:
        """Begin the recording of a run of `canvases`."""
        planned, _ = plan_request(denoiser, request, canvases)
        process = check_fit(denoiser, request.sampler, request.guidance_scale)
        mask = process.mask_token_id
        run = Trajectory(
            initial=canvases.tokens,
            editable=canvases.editable,
            attention_mask=canvases.attention,
            sampler=type(request.sampler).__name__,
            masked=mask is not None,
            request=planned,
            seeds=canvases.seeds,
        )
        recorder = Recorder(canvases.editable, masked=mask is not None, mask_token_id=mask)
        return cls(recorder, run)

    def rollout(self, tokens: Tensor, nfe: Tensor, model: str) -> Rollout:
        """Return the rollout; arguments as in `Rollout.of_recorder`."""
        return Rollout.of_recorder(self.recorder, self.run, tokens, nfe, model)
