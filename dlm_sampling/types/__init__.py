"""Define the types that all packages share: denoiser output, canvas, prediction, step."""

from dlm_sampling.types.cache import ColumnCache, LayerKeys, Partial
from dlm_sampling.types.canvas import Canvas, Choice, Clock, ClockUse, Step
from dlm_sampling.types.law import (
    Crossing,
    Draw,
    Drawn,
    DrawRecord,
    HeardDraw,
    LogitsProcessor,
    Statistics,
    TokenLaw,
)
from dlm_sampling.types.pipeline import Pipeline, UnderWay
from dlm_sampling.types.prediction import (
    DenoiserOutput,
    Forwarding,
    Pass,
    Planner,
    Predict,
    Prediction,
    Site,
    TwoLogits,
)
from dlm_sampling.types.process import NoiseKind, PredictionKind, Process, RandomSource
from dlm_sampling.types.sampler import S, Sampler
from dlm_sampling.types.schedule import Schedule

__all__ = [
    "Canvas",
    "Choice",
    "Clock",
    "ClockUse",
    "ColumnCache",
    "Crossing",
    "DenoiserOutput",
    "Draw",
    "DrawRecord",
    "Drawn",
    "Forwarding",
    "HeardDraw",
    "LayerKeys",
    "LogitsProcessor",
    "NoiseKind",
    "Partial",
    "Pass",
    "Pipeline",
    "Planner",
    "Predict",
    "Prediction",
    "PredictionKind",
    "Process",
    "RandomSource",
    "S",
    "Sampler",
    "Schedule",
    "Site",
    "Statistics",
    "Step",
    "TokenLaw",
    "TwoLogits",
    "UnderWay",
]
