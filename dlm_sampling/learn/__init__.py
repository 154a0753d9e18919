"""Learn the coefficients and times of a solver's steps: LSD and LSD+, arXiv:2509.19962."""

from dlm_sampling.learn.learner import learn_sampler
from dlm_sampling.learn.settings import Learning

__all__ = ["Learning", "learn_sampler"]
