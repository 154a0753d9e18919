"""KL between two tensors of logits: twin of dlm_sampling.ops.divergence."""
