"""Draw tokens from logits: the twin of dlm_sampling.ops.categorical."""
