"""Lists the mutants that survive because they change nothing that a caller could see, with why.

An entry is the path of a file with the names of its mutants, as the result file has them.
"""

EQUIVALENT: dict[str, dict[str, str]] = {}
