"""Predict clean tokens from a noised canvas, with one interface for every model family."""

from dlm_sampling.denoisers.auto import AutoDenoiser
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import CheckpointError
from dlm_sampling.denoisers.checkpoints.placement import single_device
from dlm_sampling.denoisers.checkpoints.reach import hub_in_reach, is_hub_name
from dlm_sampling.denoisers.families.bd3lm import BD3LMDenoiser
from dlm_sampling.denoisers.families.ddpd import DDPDPlanner
from dlm_sampling.denoisers.families.diffusion_gemma import DiffusionGemmaDenoiser
from dlm_sampling.denoisers.families.dream import DreamDenoiser
from dlm_sampling.denoisers.families.duo import DuoDenoiser
from dlm_sampling.denoisers.families.fast_dllm_v2 import FastDLLMv2Denoiser
from dlm_sampling.denoisers.families.llada import LLaDADenoiser
from dlm_sampling.denoisers.families.llada2 import LLaDA2Denoiser
from dlm_sampling.denoisers.families.llada_moe import LLaDAMoEDenoiser
from dlm_sampling.denoisers.families.loopholing import LoopholingDenoiser
from dlm_sampling.denoisers.families.masked_lm import MaskedLMDenoiser
from dlm_sampling.denoisers.families.mdlm import MDLMDenoiser
from dlm_sampling.denoisers.families.sdar import SDARDenoiser
from dlm_sampling.denoisers.families.sedd import SEDDDenoiser
from dlm_sampling.denoisers.planner import PlannerNetwork
from dlm_sampling.denoisers.wrap import wrap

__all__ = [
    "AutoDenoiser",
    "BD3LMDenoiser",
    "CheckpointError",
    "DDPDPlanner",
    "Denoiser",
    "DiffusionGemmaDenoiser",
    "DreamDenoiser",
    "DuoDenoiser",
    "FastDLLMv2Denoiser",
    "LLaDA2Denoiser",
    "LLaDADenoiser",
    "LLaDAMoEDenoiser",
    "LoopholingDenoiser",
    "MDLMDenoiser",
    "MaskedLMDenoiser",
    "PlannerNetwork",
    "SDARDenoiser",
    "SEDDDenoiser",
    "hub_in_reach",
    "is_hub_name",
    "single_device",
    "wrap",
]
