"""Networks that several families share: transformer blocks, diffusion transformers, experts."""
