"""Runs DVC's stages in parallel, in processes that have loaded their libraries."""
