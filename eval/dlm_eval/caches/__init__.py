"""Measure cache policies: seconds and work on random networks of published layouts."""
