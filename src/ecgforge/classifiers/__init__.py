"""Rhythm classifiers: backbones with a rhythm head, and baselines without a network."""
