"""Checks whether a model is a denoiser, and measures how fast a draw is."""
