"""Compute log-probabilities under a model: of a recorded run, and likelihood bounds."""
