"""Tuning with Optuna: search spaces, studies of trials, and their results."""
