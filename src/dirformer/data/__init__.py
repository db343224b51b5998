"""Photos on disk → samples for training."""
