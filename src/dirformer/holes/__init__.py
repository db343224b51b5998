"""Holes of photos: filled smoothly or from exemplars, as inpainting networks are shown them."""
