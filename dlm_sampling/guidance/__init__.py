"""Steer a run: guidance by other passes, other models, classifiers and rewards."""

from dlm_sampling.guidance.anchored import AnchoredPosterior
from dlm_sampling.guidance.base import Guidance, Moment
from dlm_sampling.guidance.best_of import BestOf
from dlm_sampling.guidance.blends import Contrast, Product, Stitch
from dlm_sampling.guidance.classifier import Classifier
from dlm_sampling.guidance.classifier_free import (
    ClassifierFree,
    MaskedPrompt,
    NegativePrompt,
    NullLabel,
)
from dlm_sampling.guidance.projection import Projection
from dlm_sampling.guidance.reward_gradient import RewardGradient
from dlm_sampling.guidance.scales import Annealed, RatioAware
from dlm_sampling.guidance.sequence_classifier import SequenceClassifier

__all__ = [
    "AnchoredPosterior",
    "Annealed",
    "BestOf",
    "Classifier",
    "ClassifierFree",
    "Contrast",
    "Guidance",
    "MaskedPrompt",
    "Moment",
    "NegativePrompt",
    "NullLabel",
    "Product",
    "Projection",
    "RatioAware",
    "RewardGradient",
    "SequenceClassifier",
    "Stitch",
]
