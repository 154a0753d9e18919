"""Hold the metric `gen_perplexity` for `evaluate.load`."""
