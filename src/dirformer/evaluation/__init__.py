"""Scores: metrics, the protocols of the field, and runs of them over folders."""
