"""Top-k, top-p and min-p cuts without a sort: twin of dlm_sampling.ops.filters."""
