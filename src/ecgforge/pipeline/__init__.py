"""Runs DVC's stages side by side, in processes that have their libraries loaded."""
