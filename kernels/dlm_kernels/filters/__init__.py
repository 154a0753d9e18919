"""Find top-k, top-p and min-p boundaries without a sort: the twin of dlm_sampling.ops.filters."""
