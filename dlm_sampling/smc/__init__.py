"""Sample targets with particles: rewards, products of models and powers, by resampling rows."""

from dlm_sampling.smc.particles import Particles, sample_particles
from dlm_sampling.smc.products import ProductDenoiser
from dlm_sampling.smc.resampling import effective_size, systematic
from dlm_sampling.smc.targets import RewardTarget, Target, TiltedTarget, Weighing

__all__ = [
    "Particles",
    "ProductDenoiser",
    "RewardTarget",
    "Target",
    "TiltedTarget",
    "Weighing",
    "effective_size",
    "sample_particles",
    "systematic",
]
