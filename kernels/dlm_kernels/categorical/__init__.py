"""The fused categorical draw: twin of dlm_sampling.ops.categorical."""
