"""Photos from anywhere to anywhere, by as many workers as there are."""
