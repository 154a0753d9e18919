"""Draw tokens from hidden states without logits: the fused output head."""
