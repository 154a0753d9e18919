"""Judges of samples and models: n-gram perplexity, diversity, likelihood bounds."""
