"""Hold the token frequencies of a corpus, for PC-Sampler."""
