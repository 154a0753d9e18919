"""The folder that every evaluation writes: results.json, samples.jsonl and report.html."""

from dlm_eval.report.folder import Stored, read_folder, write_folder
from dlm_eval.report.plots import Plot, draw
from dlm_eval.report.results import Metric, Results, fingerprint
from dlm_eval.report.side_by_side import compare_folders, differences, samples_of_folders

__all__ = [
    "Metric",
    "Plot",
    "Results",
    "Stored",
    "compare_folders",
    "differences",
    "draw",
    "fingerprint",
    "read_folder",
    "samples_of_folders",
    "write_folder",
]
