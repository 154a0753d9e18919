"""Check whether a model behaves as a denoiser, and measure the speed of sampling."""
