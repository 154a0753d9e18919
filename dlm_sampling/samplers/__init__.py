"""Hold the samplers: one algorithm, one file, one paper."""

# isort: off
# A new sampler adds one line here; the order is that of the documentation.

# Solvers: they follow the reverse process in time.
from dlm_sampling.samplers.ancestral import Ancestral as Ancestral
from dlm_sampling.samplers.duo import Duo as Duo
from dlm_sampling.samplers.euler import Euler as Euler
from dlm_sampling.samplers.tweedie import Tweedie as Tweedie
from dlm_sampling.samplers.tau_leaping import TauLeaping as TauLeaping
from dlm_sampling.samplers.theta_trapezoidal import ThetaTrapezoidal as ThetaTrapezoidal
from dlm_sampling.samplers.theta_rk2 import ThetaRK2 as ThetaRK2
from dlm_sampling.samplers.lsd.solvers import (
    LearnedEuler as LearnedEuler,
    LearnedTauLeaping as LearnedTauLeaping,
    LearnedTrapezoidal as LearnedTrapezoidal,
    LearnedTweedie as LearnedTweedie,
)
from dlm_sampling.samplers.uniformization import Uniformization as Uniformization
from dlm_sampling.samplers.gillespie import Gillespie as Gillespie
from dlm_sampling.samplers.picard import Picard as Picard
from dlm_sampling.samplers.predictor_corrector import PredictorCorrector as PredictorCorrector
from dlm_sampling.samplers.flow_matching import FlowMatching as FlowMatching
from dlm_sampling.samplers.fs_dfm import FSDFM as FSDFM

# Correctors, and steps that mask or renew written tokens again.
from dlm_sampling.samplers.glauber import Glauber as Glauber
from dlm_sampling.samplers.reddit import ReDDiT as ReDDiT
from dlm_sampling.samplers.psi import Psi as Psi
from dlm_sampling.samplers.first_hitting import FirstHitting as FirstHitting
from dlm_sampling.samplers.first_hitting_high_order import (
    FirstHittingCorrection as FirstHittingCorrection,
    FirstHittingExtrapolation as FirstHittingExtrapolation,
)
from dlm_sampling.samplers.remdm import (
    Cap as Cap,
    Confidence as Confidence,
    ForwardBackward as ForwardBackward,
    Loop as Loop,
    ReMDM as ReMDM,
    Rescale as Rescale,
    Switch as Switch,
)
from dlm_sampling.samplers.dfm_corrector import DFMCorrector as DFMCorrector
from dlm_sampling.samplers.remdm_llada import ReMDMLLaDA as ReMDMLLaDA

# Decoders: a fixed number of positions per step.
from dlm_sampling.samplers.llada import LLaDA as LLaDA
from dlm_sampling.samplers.maskgit import MaskGIT as MaskGIT
from dlm_sampling.samplers.pc_sampler import (
    PC_PRESETS as PC_PRESETS,
    PCSampler as PCSampler,
    pc_preset as pc_preset,
)
from dlm_sampling.samplers.pc_linear import (
    PCLinear as PCLinear,
    pc_linear_preset as pc_linear_preset,
)
from dlm_sampling.samplers.dream import Dream as Dream, DreamOrigin as DreamOrigin

# Adaptive decoders: as many positions as the confidence allows.
from dlm_sampling.samplers.klass import KLASS as KLASS, klass_preset as klass_preset
from dlm_sampling.samplers.ccd import CCD as CCD
from dlm_sampling.samplers.ccd_average import CCDAverage as CCDAverage
from dlm_sampling.samplers.eb_sampler import EBSampler as EBSampler
from dlm_sampling.samplers.fast_dllm import (
    FastDLLM as FastDLLM,
    FastDLLMDream as FastDLLMDream,
    FastDLLMFactor as FastDLLMFactor,
)
from dlm_sampling.samplers.fast_dllm_v2 import FastDLLMv2 as FastDLLMv2
from dlm_sampling.samplers.dinfer import (
    DInferHierarchy as DInferHierarchy,
    DInferThreshold as DInferThreshold,
)
from dlm_sampling.samplers.dinfer_credit import DInferCredit as DInferCredit
from dlm_sampling.samplers.d2f import D2F as D2F
from dlm_sampling.samplers.d3llm import D3LLM as D3LLM

# Planners: written tokens are scored, and the worst are written again.
from dlm_sampling.samplers.p2 import P2 as P2
from dlm_sampling.samplers.planned import Planned as Planned
from dlm_sampling.samplers.planned_gillespie import PlannedGillespie as PlannedGillespie
from dlm_sampling.samplers.planned_adaptive import PlannedAdaptive as PlannedAdaptive
from dlm_sampling.samplers.planned_greedy import PlannedGreedy as PlannedGreedy
from dlm_sampling.samplers.planned_self import PlannedSelf as PlannedSelf
from dlm_sampling.samplers.rdm import RDM as RDM, RDM_PRESETS as RDM_PRESETS

# The samplers of block models.
from dlm_sampling.samplers.sdar import SDAR as SDAR
from dlm_sampling.samplers.bd3lm import BD3LM as BD3LM, BlockStop as BlockStop
from dlm_sampling.samplers.diffusion_gemma import DiffusionGemma as DiffusionGemma
from dlm_sampling.samplers.block_refinement import BlockRefinement as BlockRefinement

# To write, find, save and tune samplers.
from dlm_sampling.samplers.base import (
    AdaptiveSampler as AdaptiveSampler,
    BlockTotal as BlockTotal,
    ConfidenceSampler as ConfidenceSampler,
    SamplerBase as SamplerBase,
    Solver as Solver,
    block_total as block_total,
    even_quota as even_quota,
    reveal as reveal,
    unmask_probs as unmask_probs,
)
from dlm_sampling.samplers.by_name import create as create, find as find
from dlm_sampling.samplers.config import (
    SamplerConfig as SamplerConfig,
    from_config as from_config,
    load_config as load_config,
    save_config as save_config,
)
from dlm_sampling.samplers.frequencies.count_frequencies import count_tokens as count_tokens
from dlm_sampling.samplers.frequencies.token_frequencies import TokenFrequencies as TokenFrequencies
from dlm_sampling.samplers.lsd.learned_steps import LearnedSteps as LearnedSteps
from dlm_sampling.samplers.lsd.saved import (
    LearnedFile as LearnedFile,
    load_learned as load_learned,
    save_learned as save_learned,
)
from dlm_sampling.samplers.registry import (
    Entry as Entry,
    available as available,
    close_built_in,
    register as register,
)

close_built_in()
