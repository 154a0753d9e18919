"""Comparisons under a name, with the page that is written from each."""

from dlm_eval.comparison.presets.asked import Asked as Asked
from dlm_eval.comparison.presets.registry import PRESETS as PRESETS
from dlm_eval.comparison.presets.registry import Preset as Preset
from dlm_eval.comparison.presets.registry import PresetOfLaws as PresetOfLaws
from dlm_eval.comparison.presets.registry import PresetOfModel as PresetOfModel
