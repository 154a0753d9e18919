"""From prompts to canvases, and from finished canvases to texts."""
