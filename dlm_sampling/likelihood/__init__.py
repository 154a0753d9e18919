"""Log-probabilities under a model: of a recorded run, and bounds of the likelihood."""
