"""Rhythm classifiers: a backbone with a rhythm head, and baselines that need no network."""
