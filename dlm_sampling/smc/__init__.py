"""Sample targets with particles: rewards, products of models and powers, by resampling rows."""

from dlm_sampling.smc.arithmetic import sample_arithmetic
from dlm_sampling.smc.choices import best_of, least_risk, pass_at, soft_best_of
from dlm_sampling.smc.driver import Particles
from dlm_sampling.smc.gibbs import GibbsOutput, sample_gibbs
from dlm_sampling.smc.particles import sample_particles
from dlm_sampling.smc.power import PowerOutput, sample_power
from dlm_sampling.smc.products import ProductDenoiser
from dlm_sampling.smc.resampling import effective_size, systematic
from dlm_sampling.smc.split_gibbs import SplitOutput, sample_split_gibbs
from dlm_sampling.smc.svdd import sample_candidates
from dlm_sampling.smc.targets import RewardTarget, Target, TiltedTarget, Weighing
from dlm_sampling.smc.twisted import TwistedTarget

__all__ = [
    "GibbsOutput",
    "Particles",
    "PowerOutput",
    "ProductDenoiser",
    "RewardTarget",
    "SplitOutput",
    "Target",
    "TiltedTarget",
    "TwistedTarget",
    "Weighing",
    "best_of",
    "effective_size",
    "least_risk",
    "pass_at",
    "sample_arithmetic",
    "sample_candidates",
    "sample_gibbs",
    "sample_particles",
    "sample_power",
    "sample_split_gibbs",
    "soft_best_of",
    "systematic",
]
