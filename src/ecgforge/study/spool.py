"""Predictions of all cells, kept on disk and read one group at a time.

A study has too many predictions for the memory: `paper` with all sweeps has 7 GB.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecgforge.study import predictions
from ecgforge.study.experiment import KEYS

GROUPS = 16  # in memory: claims compare the same conditions repeatedly


@dataclass(frozen=True)
class Spool:
    """Predictions of experiments.

    Attributes:
        folder: a file for each experiment.
        experiments: a row of `KEYS` for each; the index is the number of its file.
        columns: of all predictions together.
    """

    folder: Path
    experiments: pd.DataFrame
    columns: list[str]

    def select(self, experiments: pd.DataFrame) -> Spool:
        """Return the predictions of some of the experiments, which may have other keys."""
        return replace(self, experiments=experiments)

    def by(self, keys: Sequence[str]) -> Mapping[Any, pd.DataFrame]:
        """Return the groups of `groupby(keys, sort=False)`, in its order, each read when needed."""
        return _Groups(self, keys)

    def read(self, experiments: pd.DataFrame) -> pd.DataFrame:
        """Return the predictions of some experiments as one table, see `predictions.read`."""
        parts = [
            pickle.loads((self.folder / str(number)).read_bytes()) for number in experiments.index
        ]
        lengths = [len(part["id"]) for part in parts]
        absent = [np.full(length, np.nan) for length in lengths]
        table = {}
        for name in self.columns:
            if name in KEYS:
                table[name] = np.repeat(experiments[name].to_numpy(), lengths)
            else:
                values = [part.get(name, nan) for part, nan in zip(parts, absent, strict=True)]
                table[name] = np.concatenate(values)
        return pd.DataFrame(table)


class _Groups(Mapping[Any, pd.DataFrame]):
    def __init__(self, spool: Spool, keys: Sequence[str]) -> None:
        known = spool.experiments
        rows = {key: one.index for key, one in known.groupby(list(keys), sort=False)}
        self._rows = rows
        self._read = lru_cache(GROUPS)(lambda key: spool.read(known.loc[rows[key]]))

    def __getitem__(self, key: Any) -> pd.DataFrame:
        return self._read(key)

    def __contains__(self, key: object) -> bool:  # without reading the group
        return key in self._rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def spool(cells: Iterable[Path], folder: Path) -> Spool:
    """Copy the predictions of cells to an empty folder, one cell after the other.

    Args:
        cells: their folders, see `predictions.write`.
        folder: for the copies. They are pickled, so nobody else may write there.

    Raises:
        EcgforgeError: see `files.stored_csv`.
    """
    experiments: list[dict[str, Any]] = []
    columns: dict[str, None] = {}
    for cell in cells:
        found = predictions.read([cell])
        if len(found):
            columns |= dict.fromkeys(found.columns)
        for _, table in found.groupby(KEYS, sort=False):
            arrays = {name: values.to_numpy() for name, values in table.items() if name not in KEYS}
            (folder / str(len(experiments))).write_bytes(pickle.dumps(arrays))
            experiments.append(table[KEYS].iloc[0].to_dict())
    return Spool(folder, pd.DataFrame(experiments, columns=KEYS), [*columns])
