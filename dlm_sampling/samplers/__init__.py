"""Samplers: one algorithm, one file, one paper; `available()` lists, `create(name)` builds."""

from dlm_sampling.samplers.ancestral import Ancestral
from dlm_sampling.samplers.base import (
    AdaptiveSampler,
    BlockTotal,
    ConfidenceSampler,
    SamplerBase,
    block_total,
    even_quota,
    reveal,
    unmask_probs,
)
from dlm_sampling.samplers.bd3lm import BD3LM, BlockStop
from dlm_sampling.samplers.block_refinement import BlockRefinement
from dlm_sampling.samplers.ccd import CCD
from dlm_sampling.samplers.ccd_average import CCDAverage
from dlm_sampling.samplers.config import SamplerConfig, from_config, load_config, save_config
from dlm_sampling.samplers.dfm_corrector import DFMCorrector
from dlm_sampling.samplers.diffusion_gemma import DiffusionGemma
from dlm_sampling.samplers.dinfer import DInferHierarchy, DInferThreshold
from dlm_sampling.samplers.dinfer_credit import DInferCredit
from dlm_sampling.samplers.dream import Dream, DreamOrigin
from dlm_sampling.samplers.duo import Duo
from dlm_sampling.samplers.eb_sampler import EBSampler
from dlm_sampling.samplers.euler import Euler
from dlm_sampling.samplers.fast_dllm import FastDLLM, FastDLLMDream, FastDLLMFactor
from dlm_sampling.samplers.first_hitting import FirstHitting
from dlm_sampling.samplers.first_hitting_high_order import (
    FirstHittingCorrection,
    FirstHittingExtrapolation,
)
from dlm_sampling.samplers.flow_matching import FlowMatching
from dlm_sampling.samplers.frequencies.count_frequencies import count_tokens
from dlm_sampling.samplers.frequencies.token_frequencies import TokenFrequencies
from dlm_sampling.samplers.fs_dfm import FSDFM
from dlm_sampling.samplers.gillespie import Gillespie
from dlm_sampling.samplers.glauber import Glauber
from dlm_sampling.samplers.klass import KLASS, klass_preset
from dlm_sampling.samplers.llada import LLaDA
from dlm_sampling.samplers.lsd.pace import Pace
from dlm_sampling.samplers.lsd.saved import LearnedFile, load_learned, save_learned
from dlm_sampling.samplers.lsd.solvers import (
    LearnedEuler,
    LearnedTauLeaping,
    LearnedTrapezoidal,
    LearnedTweedie,
)
from dlm_sampling.samplers.maskgit import MaskGIT
from dlm_sampling.samplers.p2 import P2
from dlm_sampling.samplers.pc_linear import PCLinear, pc_linear_preset
from dlm_sampling.samplers.pc_sampler import PC_PRESETS, PCSampler, pc_preset
from dlm_sampling.samplers.picard import Picard
from dlm_sampling.samplers.planned import Planned
from dlm_sampling.samplers.planned_adaptive import PlannedAdaptive
from dlm_sampling.samplers.planned_gillespie import PlannedGillespie
from dlm_sampling.samplers.planned_greedy import PlannedGreedy
from dlm_sampling.samplers.planned_self import PlannedSelf
from dlm_sampling.samplers.predictor_corrector import PredictorCorrector
from dlm_sampling.samplers.psi import Psi
from dlm_sampling.samplers.rdm import RDM
from dlm_sampling.samplers.reddit import ReDDiT
from dlm_sampling.samplers.registry import Entry, available, create
from dlm_sampling.samplers.remdm import (
    Cap,
    Confidence,
    ForwardBackward,
    Loop,
    ReMDM,
    Rescale,
    Switch,
)
from dlm_sampling.samplers.remdm_llada import ReMDMLLaDA
from dlm_sampling.samplers.sdar import SDAR
from dlm_sampling.samplers.tau_leaping import TauLeaping
from dlm_sampling.samplers.theta_rk2 import ThetaRK2
from dlm_sampling.samplers.theta_trapezoidal import ThetaTrapezoidal
from dlm_sampling.samplers.tweedie import Tweedie
from dlm_sampling.samplers.uniformization import Uniformization

__all__ = [
    "BD3LM",
    "CCD",
    "FSDFM",
    "KLASS",
    "P2",
    "PC_PRESETS",
    "RDM",
    "SDAR",
    "AdaptiveSampler",
    "Ancestral",
    "BlockRefinement",
    "BlockStop",
    "BlockTotal",
    "CCDAverage",
    "Cap",
    "Confidence",
    "ConfidenceSampler",
    "DFMCorrector",
    "DInferCredit",
    "DInferHierarchy",
    "DInferThreshold",
    "DiffusionGemma",
    "Dream",
    "DreamOrigin",
    "Duo",
    "EBSampler",
    "Entry",
    "Euler",
    "FastDLLM",
    "FastDLLMDream",
    "FastDLLMFactor",
    "FirstHitting",
    "FirstHittingCorrection",
    "FirstHittingExtrapolation",
    "FlowMatching",
    "ForwardBackward",
    "Gillespie",
    "Glauber",
    "LLaDA",
    "LearnedEuler",
    "LearnedFile",
    "LearnedTauLeaping",
    "LearnedTrapezoidal",
    "LearnedTweedie",
    "Loop",
    "MaskGIT",
    "PCLinear",
    "PCSampler",
    "Pace",
    "Picard",
    "Planned",
    "PlannedAdaptive",
    "PlannedGillespie",
    "PlannedGreedy",
    "PlannedSelf",
    "PredictorCorrector",
    "Psi",
    "ReDDiT",
    "ReMDM",
    "ReMDMLLaDA",
    "Rescale",
    "SamplerBase",
    "SamplerConfig",
    "Switch",
    "TauLeaping",
    "ThetaRK2",
    "ThetaTrapezoidal",
    "TokenFrequencies",
    "Tweedie",
    "Uniformization",
    "available",
    "block_total",
    "count_tokens",
    "create",
    "even_quota",
    "from_config",
    "klass_preset",
    "load_config",
    "load_learned",
    "pc_linear_preset",
    "pc_preset",
    "reveal",
    "save_config",
    "save_learned",
    "unmask_probs",
]
