"""The choice of positions to write: twin of dlm_sampling.ops.positions."""
