"""Generate or read texts, and score them: perplexity, entropy, MAUVE, repetition, length, NFE."""
