"""Optuna, and all that is known of it: search spaces, studies of trials, and what they found."""
