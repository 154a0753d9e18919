"""Hold the metric `mauve` for `evaluate.load`."""
