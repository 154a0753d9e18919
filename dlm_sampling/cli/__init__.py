"""Run the command `dlm-sampling`: generate, samplers, doctor, bench, learn, eval."""

from dlm_sampling.cli.exits import end
from dlm_sampling.cli.io import check_model, parse_cache, parse_settings
from dlm_sampling.cli.own_sampler import find_sampler

__all__ = ["check_model", "end", "find_sampler", "parse_cache", "parse_settings"]
