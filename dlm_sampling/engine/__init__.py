"""Runs a sampler over a batch of canvases: blocks, clocks, stopping, recorded steps."""
