"""The folder that every evaluation writes: results.json, samples.jsonl and report.html."""

from dlm_eval.report.results import Metric, Results, fingerprint

__all__ = ["Metric", "Results", "fingerprint"]
