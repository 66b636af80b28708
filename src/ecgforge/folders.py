"""Where the study keeps its data, models and results, relative to the project's folder."""

from __future__ import annotations

from pathlib import Path

DATA, MODELS, RESULTS = Path("data"), Path("models"), Path("results")
RAW, PREPARED, SYNTHETIC = DATA / "raw", DATA / "prepared", DATA / "synthetic"
GENERATORS, CLASSIFIERS = MODELS / "generators", MODELS / "classifiers"
TUNED = MODELS / "tuning"
RESOLVED, REPORTS = Path("resolved"), Path("reports")
REAL = "real"  # the classifiers and results of a dataset that need no generator
