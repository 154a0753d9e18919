"""Run forward passes for samplers: lazy predictions, padding, guidance, carried state, NFE."""
