"""The fused output head: tokens and statistics from hidden states, without logits."""
