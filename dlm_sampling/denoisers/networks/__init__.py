"""The networks that families share: transformer blocks, diffusion transformers, experts."""
