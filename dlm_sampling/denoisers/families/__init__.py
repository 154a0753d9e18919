"""Checkpoint families, one file each: a file turns a published checkpoint into a denoiser."""
