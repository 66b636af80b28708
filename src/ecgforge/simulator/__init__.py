"""Simulated ECG: rhythms, beats, noise and populations. It imports nothing else of the project."""
