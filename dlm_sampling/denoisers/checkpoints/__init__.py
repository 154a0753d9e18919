"""Reads, converts and saves checkpoints: weights, configs and tokenizers."""
