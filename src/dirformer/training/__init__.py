"""Training: recipes, losses, schedules, the two stages, and one loop that knows none of them by name."""
