"""Token frequencies of a corpus, for PC-Sampler."""
