"""Names of samplers, for the command line and `generate(sampler="...")` alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dlm_sampling.errors import check_arguments, unknown_sampler
from dlm_sampling.samplers.ancestral import Ancestral
from dlm_sampling.samplers.base import SamplerBase
from dlm_sampling.samplers.bd3lm import BD3LM
from dlm_sampling.samplers.block_refinement import BlockRefinement, llada2, llada21
from dlm_sampling.samplers.ccd import CCD
from dlm_sampling.samplers.ccd_average import CCDAverage
from dlm_sampling.samplers.dfm_corrector import DFMCorrector
from dlm_sampling.samplers.diffusion_gemma import DiffusionGemma
from dlm_sampling.samplers.dinfer import DInferHierarchy, DInferThreshold
from dlm_sampling.samplers.dinfer_credit import DInferCredit
from dlm_sampling.samplers.dream import (
    DreamOrigin,
    dream_entropy,
    dream_maskgit_plus,
    dream_topk_margin,
)
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
from dlm_sampling.samplers.fs_dfm import FSDFM
from dlm_sampling.samplers.gillespie import Gillespie
from dlm_sampling.samplers.glauber import Glauber
from dlm_sampling.samplers.klass import KLASS, klass_dream
from dlm_sampling.samplers.llada import LLaDA, llada_entropy, llada_margin, llada_random
from dlm_sampling.samplers.lsd.saved import SUFFIX, load_learned
from dlm_sampling.samplers.lsd.solvers import lsd
from dlm_sampling.samplers.maskgit import MaskGIT
from dlm_sampling.samplers.p2 import P2, p2_ancestral, p2_random
from dlm_sampling.samplers.pc_linear import pc_linear
from dlm_sampling.samplers.pc_sampler import pc_sampler
from dlm_sampling.samplers.picard import Picard
from dlm_sampling.samplers.planned import Planned
from dlm_sampling.samplers.planned_adaptive import PlannedAdaptive
from dlm_sampling.samplers.planned_gillespie import PlannedGillespie
from dlm_sampling.samplers.planned_greedy import PlannedGreedy
from dlm_sampling.samplers.planned_self import PlannedSelf
from dlm_sampling.samplers.predictor_corrector import PredictorCorrector
from dlm_sampling.samplers.psi import Psi, psi_cap, psi_constant, psi_loop, psi_rescale
from dlm_sampling.samplers.rdm import RDM, rdm_conditional
from dlm_sampling.samplers.reddit import ReDDiT
from dlm_sampling.samplers.remdm import (
    forward_backward,
    remdm_cap,
    remdm_conf,
    remdm_loop,
    remdm_rescale,
)
from dlm_sampling.samplers.remdm_llada import ReMDMLLaDA
from dlm_sampling.samplers.sdar import SDAR, sdar_sequential, sdar_static
from dlm_sampling.samplers.tau_leaping import TauLeaping
from dlm_sampling.samplers.theta_rk2 import ThetaRK2
from dlm_sampling.samplers.theta_trapezoidal import ThetaTrapezoidal
from dlm_sampling.samplers.tweedie import Tweedie
from dlm_sampling.samplers.uniformization import Uniformization
from dlm_sampling.types import NoiseKind, Schedule


@dataclass(frozen=True)
class Entry:
    """A sampler under its public name.

    Fields:
        name: what `generate(sampler=name)` and `--sampler name` take.
        build: class or function whose keyword arguments are the sampler's parameters.
    """

    name: str
    build: Callable[..., SamplerBase[Any]]

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        return (inspect.getdoc(self.build) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameter names and defaults."""
        return {name: p.default for name, p in inspect.signature(self.build).parameters.items()}

    @property
    def paper(self) -> str:
        """Where the rule comes from."""
        return self.build().paper

    @property
    def runs_on(self) -> tuple[NoiseKind, ...]:
        """The kinds of noise whose models it samples from."""
        return self.build().runs_on

    @property
    def recorded_on(self) -> tuple[NoiseKind, ...]:
        """The kinds of noise on which `generate(..., cuda_graph=True)` takes it."""
        built = self.build()
        return tuple(kind for kind in built.recorded_on if kind in built.runs_on)

    @property
    def nfe(self) -> str:
        """Forward passes, in words."""
        return self.build().nfe


_ENTRIES = (
    Entry("ancestral", Ancestral),
    Entry("duo", Duo),
    Entry("euler", Euler),
    Entry("tweedie", Tweedie),
    Entry("tau-leaping", TauLeaping),
    Entry("theta-trapezoidal", ThetaTrapezoidal),
    Entry("theta-rk2", ThetaRK2),
    Entry("lsd", lsd),
    Entry("uniformization", Uniformization),
    Entry("gillespie", Gillespie),
    Entry("picard", Picard),
    Entry("predictor-corrector", PredictorCorrector),
    Entry("flow-matching", FlowMatching),
    Entry("fs-dfm", FSDFM),
    Entry("glauber", Glauber),
    Entry("reddit", ReDDiT),
    Entry("psi", Psi),
    Entry("psi-constant", psi_constant),
    Entry("psi-cap", psi_cap),
    Entry("psi-rescale", psi_rescale),
    Entry("psi-loop", psi_loop),
    Entry("first-hitting", FirstHitting),
    Entry("first-hitting-extrapolation", FirstHittingExtrapolation),
    Entry("first-hitting-correction", FirstHittingCorrection),
    Entry("remdm-cap", remdm_cap),
    Entry("remdm-rescale", remdm_rescale),
    Entry("remdm-conf", remdm_conf),
    Entry("remdm-loop", remdm_loop),
    Entry("forward-backward", forward_backward),
    Entry("dfm-corrector", DFMCorrector),
    Entry("remdm-llada", ReMDMLLaDA),
    Entry("llada", LLaDA),
    Entry("llada-random", llada_random),
    Entry("llada-margin", llada_margin),
    Entry("llada-entropy", llada_entropy),
    Entry("maskgit", MaskGIT),
    Entry("pc-sampler", pc_sampler),
    Entry("pc-linear", pc_linear),
    Entry("dream-origin", DreamOrigin),
    Entry("dream-maskgit-plus", dream_maskgit_plus),
    Entry("dream-topk-margin", dream_topk_margin),
    Entry("dream-entropy", dream_entropy),
    Entry("klass", KLASS),
    Entry("klass-dream", klass_dream),
    Entry("ccd", CCD),
    Entry("ccd-average", CCDAverage),
    Entry("eb-sampler", EBSampler),
    Entry("fast-dllm", FastDLLM),
    Entry("fast-dllm-factor", FastDLLMFactor),
    Entry("fast-dllm-dream", FastDLLMDream),
    Entry("dinfer-threshold", DInferThreshold),
    Entry("dinfer-hierarchy", DInferHierarchy),
    Entry("dinfer-credit", DInferCredit),
    Entry("p2", P2),
    Entry("p2-ancestral", p2_ancestral),
    Entry("p2-random", p2_random),
    Entry("planned", Planned),
    Entry("planned-gillespie", PlannedGillespie),
    Entry("planned-adaptive", PlannedAdaptive),
    Entry("planned-greedy", PlannedGreedy),
    Entry("planned-self", PlannedSelf),
    Entry("rdm", RDM),
    Entry("rdm-conditional", rdm_conditional),
    Entry("sdar", SDAR),
    Entry("sdar-static", sdar_static),
    Entry("sdar-sequential", sdar_sequential),
    Entry("bd3lm", BD3LM),
    Entry("diffusion-gemma", DiffusionGemma),
    Entry("block-refinement", BlockRefinement),
    Entry("llada2", llada2),
    Entry("llada2.1", llada21),
)


def available() -> dict[str, Entry]:
    """All samplers by name, in the order of the documentation."""
    return {entry.name: entry for entry in _ENTRIES}


def create(name: str, **parameters: Any) -> SamplerBase[Any]:
    """Build a sampler by its public name, or from a file that `dlm-sampling learn` wrote.

    Args:
        name: one of `available()`, or the path of a file that ends in ".json".
        parameters: of a sampler given by name; a file has its own.

    Raises:
        ValueError: unknown name (the closest one is suggested), or a parameter out of its range.
        TypeError: unknown parameter (the closest one is suggested), or no schedule where one goes.
        FileNotFoundError: there is no such file.
    """
    if name.endswith(SUFFIX):
        if parameters:
            raise ValueError(
                f"sampler_options: {name} has its own parameters; they go with a sampler given by "
                "name."
            )
        return load_learned(name).build()
    entries = available()
    if name not in entries:
        raise unknown_sampler(name, entries)
    defaults = entries[name].parameters
    check_arguments(parameters, defaults)
    for field, value in parameters.items():
        if isinstance(defaults[field], Schedule) and not isinstance(value, Schedule):
            raise TypeError(
                f"{field}={value!r}: must be a schedule, an object with alpha(t), rate(t) and "
                "time_of(alpha), such as schedules.LogLinear() or schedules.Cosine()."
            )
    return entries[name].build(**parameters)
