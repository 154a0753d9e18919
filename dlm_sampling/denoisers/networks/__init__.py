"""Hold networks that several families share: transformers, DiTs, mixtures of experts."""
