"""Choose positions to write: the twin of dlm_sampling.ops.positions."""
