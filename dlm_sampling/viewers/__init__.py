"""Shows a canvas while it is being denoised."""
