"""Turn prompts into canvases, and finished canvases into texts."""
