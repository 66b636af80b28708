"""Registered models in MLflow: the files of a version, signatures, and the history of champions."""
