"""Where the study keeps its data, models and results, relative to the project's folder."""

from __future__ import annotations

import os
from pathlib import Path

DATA, MODELS, RESULTS = Path("data"), Path("models"), Path("results")
RAW, PREPARED, SYNTHETIC = DATA / "raw", DATA / "prepared", DATA / "synthetic"
GENERATORS, CLASSIFIERS = MODELS / "generators", MODELS / "classifiers"
VARIATIONS = MODELS / "variations"  # generators that sweeps train
TUNED = MODELS / "tuning"
RESOLVED, REPORTS = Path("resolved"), Path("reports")
PUBLISHED = Path("published")  # synthetic sets for readers without the project
REAL = "real"  # the classifiers and results of a dataset that need no generator
STATE = "ECGFORGE_STATE"  # folder of what cells need to resume; several machines can share it
# the URL of a database for trials of tuning, as SQLAlchemy writes it; several machines can reach it
TUNING_STORAGE = "ECGFORGE_TUNING_STORAGE"
# the number of this process among those that run the trials of a cell on a cluster
WORKER = "ECGFORGE_WORKER"


def unfinished() -> Path:
    """Return the folder of the checkpoints of unfinished trainings.

    It is outside of the stages' outputs, which DVC clears before it starts them.
    """
    return Path(os.environ.get(STATE) or ".ecgforge") / "unfinished"
