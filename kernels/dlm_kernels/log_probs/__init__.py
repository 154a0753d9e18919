"""Compute log-probabilities under the sampled law: the twin of dlm_sampling.ops.log_probs."""
