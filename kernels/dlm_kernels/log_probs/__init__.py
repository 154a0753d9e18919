"""Log-probabilities under the sampled law: twin of dlm_sampling.ops.log_probs."""
