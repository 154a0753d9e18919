"""Measure what steering reaches, and what it costs: guidance, particles, candidates, best of n."""
