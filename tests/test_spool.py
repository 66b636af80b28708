"""Predictions on disk are those of one table in memory, and need no more memory for more cells."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgforge.study import predictions
from ecgforge.study.experiment import KEYS, POOLED_KEYS, Experiment
from ecgforge.study.spool import spool


def write_cell(folder: Path, rhythms: list[str], records: int = 6, **experiment: str) -> Path:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": [f"r{number:05d}" for number in range(records)]})
    table = table.assign(patient=table["id"], truth=rng.choice(rhythms, records))
    for rhythm in rhythms:
        table[f"p_{rhythm}"] = rng.random(records).round(6)
    tested = [
        predictions.Tested(Experiment(setting, backbone="b", seed=seed, **experiment), "", table)
        for seed in range(2)
        for setting in ("TrRTeR", "TrSTeR")
    ]
    tested[0].predictions["tuned"] = table["truth"]
    predictions.write(tested, folder)
    return folder


@pytest.mark.parametrize("keys", [KEYS, POOLED_KEYS, ["dataset"], ["setting", "seed"]])
def test_groups_are_those_of_one_table(tmp_path, keys):
    cells = [
        write_cell(tmp_path / "1", ["SR", "ST"], dataset="one"),
        write_cell(tmp_path / "2", ["SR", "AFIB", "ST"], dataset="two@1"),
        write_cell(tmp_path / "3", ["SR", "ST"], dataset="one", sweep="size", point="NA"),
    ]
    predictions.write([], tmp_path / "empty")
    (tmp_path / "spool").mkdir()
    found = spool([tmp_path / "empty", *cells], tmp_path / "spool").by(keys)
    expected = dict(iter(predictions.read(cells).groupby(keys, sort=False)))
    assert list(found) == list(expected)
    for key, table in expected.items():
        pd.testing.assert_frame_equal(found[key], table.reset_index(drop=True))


def test_other_keys_of_selected_experiments_are_those_of_their_rows(tmp_path):
    cell = write_cell(tmp_path / "1", ["SR", "ST"], dataset="one")
    (tmp_path / "spool").mkdir()
    every = spool([cell], tmp_path / "spool")
    real = every.experiments[every.experiments["setting"] == "TrRTeR"].assign(setting="renamed")
    (table,) = every.select(real).by(["setting"]).values()
    assert set(table["setting"]) == {"renamed"}
    assert table["seed"].tolist() == [0] * 6 + [1] * 6


@pytest.mark.slow
def test_memory_does_not_grow_with_the_cells(tmp_path):
    cells = [
        write_cell(tmp_path / str(number), ["SR", "ST", "AFIB"], 300, dataset=f"d{number}")
        for number in range(12)
    ]
    peaks = []
    for count in (4, 4, 12):  # the first fills caches
        (folder := tmp_path / f"spool{len(peaks)}").mkdir()
        tracemalloc.start()
        every = spool(cells[:count], folder).by(KEYS).values()
        assert sum(len(table) for table in every) == count * 4 * 300
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]
