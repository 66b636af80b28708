"""Quality scores: comparisons of synthetic and real ECGs, each with its real-vs-real baseline."""
