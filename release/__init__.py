"""What makes a release: test sets, training legs, scores, cards and pictures of the shipped models."""
