"""Jump from one unmasking event to the next: first-hitting sampling.

    1 - alpha(tau_i) = u_i,  u_i ~ U(0, 1) independent:  position i is unmasked at time tau_i.

Zheng et al. 2024, "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit
Inaccurate Categorical Sampling", arXiv:2409.02908, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlm_sampling.samplers.parts.hitting_groups import HittingSampler
from dlm_sampling.samplers.parts.hitting_times import Hits
from dlm_sampling.samplers.registry import register
from dlm_sampling.schedules import LINEAR, Schedule


@dataclass(frozen=True)
class FirstHitting(HittingSampler):
    """Unmask positions in the order of their hitting times, each forward pass at the next hit.

    With one token per forward the result is an exact sample of the model's any-order law, whatever
    the schedule.  With more, the tokens of a group are drawn independently at the time of its first
    hit.

    Fields:
        tokens_per_step: tokens per forward pass; None spreads the block over the planned steps.
        grid: group the hits by the intervals of the ancestral grid instead; this is exactly
            ancestral sampling with `steps` steps, without the steps in which nothing happens.
        schedule: alpha(t), which matters to time-conditioned denoisers and to `grid`.
        t_end: the end of the grid; later hits are written in one last step.

    NFE: ceil(tokens / tokens_per_step); with `grid` the number of intervals that hold a hit.
    """

    tokens_per_step: int | None = None
    grid: bool = False
    schedule: Schedule = LINEAR
    t_end: float = 1e-5

    paper = "Zheng et al. 2024, arXiv:2409.02908"
    nfe = "ceil(tokens / tokens_per_step); with grid: intervals with a hit"
    clock_use = "begin"

    @property
    def hits(self) -> Hits:
        """Return the rule that draws this sampler's hitting times and groups them."""
        return Hits(self.tokens_per_step, self.grid, self.schedule, self.t_end)


register("first-hitting", FirstHitting)
