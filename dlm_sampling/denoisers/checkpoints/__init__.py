"""Checkpoint files: reading, placing, converting and saving weights, configs and tokenizers."""
