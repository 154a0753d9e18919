"""Show a canvas while it is being denoised: in the terminal, or through a streamer."""
