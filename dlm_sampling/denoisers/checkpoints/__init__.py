"""Read, convert and save checkpoints: weights, configs and tokenizers."""
