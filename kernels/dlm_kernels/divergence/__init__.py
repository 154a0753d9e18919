"""Compute KL between two tensors of logits: the twin of dlm_sampling.ops.divergence."""
