"""Denoisers: the networks that predict clean tokens, whatever their checkpoint family."""

from dlm_sampling.denoisers.auto import AutoDenoiser
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.denoisers.bd3lm import BD3LMDenoiser
from dlm_sampling.denoisers.checkpoint import CheckpointError
from dlm_sampling.denoisers.ddpd import DDPDPlanner
from dlm_sampling.denoisers.diffusion_gemma import DiffusionGemmaDenoiser
from dlm_sampling.denoisers.dream import DreamDenoiser
from dlm_sampling.denoisers.duo import DuoDenoiser
from dlm_sampling.denoisers.llada import LLaDADenoiser
from dlm_sampling.denoisers.llada2 import LLaDA2Denoiser
from dlm_sampling.denoisers.llada_moe import LLaDAMoEDenoiser
from dlm_sampling.denoisers.loopholing import LoopholingDenoiser
from dlm_sampling.denoisers.masked_lm import MaskedLMDenoiser
from dlm_sampling.denoisers.mdlm import MDLMDenoiser
from dlm_sampling.denoisers.sdar import SDARDenoiser
from dlm_sampling.denoisers.sedd import SEDDDenoiser
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
    "LLaDA2Denoiser",
    "LLaDADenoiser",
    "LLaDAMoEDenoiser",
    "LoopholingDenoiser",
    "MDLMDenoiser",
    "MaskedLMDenoiser",
    "SDARDenoiser",
    "SEDDDenoiser",
    "wrap",
]
