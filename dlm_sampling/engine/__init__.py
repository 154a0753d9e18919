"""Run a sampler over a batch of canvases: blocks, step counters, stopping, CUDA graphs."""
