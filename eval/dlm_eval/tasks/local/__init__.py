"""Tasks for lm-evaluation-harness that read their data from this package: nothing is downloaded."""
