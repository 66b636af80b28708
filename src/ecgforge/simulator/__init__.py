"""Simulated ECGs: population, beats, heart and noise. It imports no other part of the project."""
