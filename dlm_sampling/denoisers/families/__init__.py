"""Checkpoint families, one file each: how a published checkpoint becomes a denoiser."""
