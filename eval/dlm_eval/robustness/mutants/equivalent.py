"""Lists the mutants that survive because they change nothing that a caller could see, with why.

An entry is the path of a file with the names of its mutants, as the result file has them.
"""

EQUIVALENT: dict[str, dict[str, str]] = {
    "dlm_sampling/ops/combined.py": {
        "Guided.combined: 0 -> 1": "`mix` returns the factor w + 1 twice",
    },
    "dlm_sampling/ops/philox.py": {
        "_halves: 1 -> 2": "one pair of words more for an even number of lanes, which is cut off",
    },
}
