"""Likelihood bounds of texts: documents, windows, published protocols, and a run that resumes."""
