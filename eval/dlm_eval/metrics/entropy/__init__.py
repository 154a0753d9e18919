"""Hold the metric `entropy` for `evaluate.load`."""
