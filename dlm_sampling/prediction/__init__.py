"""Between a sampler and a network: lazy predictions, padding, guidance, carried state, NFE."""
