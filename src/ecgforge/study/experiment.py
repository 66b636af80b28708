"""One classifier of the study: a row of the grid, see `ecgforge.grid`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ecgforge import rounds
from ecgforge.study.fine_tuning import Method


@dataclass(frozen=True)
class Experiment:
    """A classifier to train and test, or one to test only.

    Attributes:
        setting: its training and test records, such as TrRTeR; see `study.settings`.
        dataset: where the test records are from; may be a round of cross-fitting.
        backbone: the classifier.
        seed: of the training.
        generator: of the synthetic records; empty where none is used.
        sweep, point: the comparison that it belongs to, and where in it; empty for the settings.
        augmented: whether training records are classically augmented.
        start: the trained classifier that it starts from, a folder under models/classifiers.
        method: the weights that are fine-tuned; None with a `start` means that nothing is trained.
        trained_on: the dataset of the training records, if other than `dataset`.
        draw: the training of the generator that the synthetic records are from.
    """

    setting: str
    dataset: str
    backbone: str
    seed: int
    generator: str = ""
    sweep: str = ""
    point: str = ""
    augmented: bool = False
    start: str = ""
    method: Method | None = None
    trained_on: str = ""
    draw: int = 0

    @property
    def fold(self) -> int:
        """The round of cross-fitting; 0 for the dataset's own split."""
        found = rounds.parse(self.dataset)
        return found.number if found else 0

    @property
    def trains(self) -> bool:
        """Whether weights are trained."""
        return not self.start or self.method is not None

    @property
    def home(self) -> str:
        """The dataset of the training records."""
        return self.trained_on or self.dataset

    @property
    def keys(self) -> dict[str, Any]:
        """A value for each of `KEYS`; the dataset of a round is that of its records."""
        values = {key: getattr(self, key) for key in KEYS}
        return values | {"dataset": rounds.base(self.dataset)}


# The columns by which predictions and metrics are kept. The seed comes last: results are averaged
# over it.
KEYS = [
    *("dataset", "generator", "backbone", "sweep", "point"),
    *("setting", "augmented", "fold", "draw", "seed"),
]
# A condition of the study: its predictions are pooled over rounds, and averaged over seeds.
POOLED_KEYS = [key for key in KEYS if key not in ("fold", "seed")]


def plain_and_augmented(experiment: Experiment) -> Iterator[Experiment]:
    """Yield an experiment, and the same with classically augmented training records."""
    yield experiment
    yield replace(experiment, augmented=True)
