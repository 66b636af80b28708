"""The benchmark of known answers: a tiny run, and its bounds."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmark_module import load
from ecgforge.files import read_csv


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("known_answers")


def rows(**findings: list[str]) -> pd.DataFrame:
    """Rows of studies with these findings; copies are flagged, and simulated records are not."""
    flagged: dict[str, Any] = {"copies": True, "simulated": False}
    return pd.DataFrame(
        [
            {"condition": name, "finding": finding, "memorised": flagged.get(name)}
            for name, found in findings.items()
            for finding in found
        ]
    )


def tables(output: str) -> list[str]:
    """Return the lines of the two tables."""
    lines = output.splitlines()
    (start,) = [number for number, line in enumerate(lines) if "true_gain" in line]
    return lines[start:-1]


def missed(found: pd.DataFrame) -> list[str]:
    return found.loc[~found["met"], "condition"].tolist()


def test_known_answers_meet_their_bounds_and_wrong_ones_miss_them(benchmark: ModuleType) -> None:
    right = {
        "simulated": ["helps", "helps enough"] * 4 + ["undecided"] * 2,
        "permuted": ["hurts"] * 8 + ["undecided"] * 2,
        "unchanged": ["undecided"] * 19 + ["helps"],
        "copies": ["does not help enough"] * 4 + ["undecided"],
    }
    wrong = {
        "simulated": ["helps"] * 7 + ["undecided"] * 3,
        "permuted": ["hurts"] * 7 + ["helps"] * 3,
        "unchanged": ["undecided"] * 18 + ["helps", "helps enough"],
        "copies": ["does not help enough"] * 3 + ["undecided"] * 2,
    }
    assert missed(benchmark.bounds(rows(**right))) == []
    for name, findings in wrong.items():
        assert missed(benchmark.bounds(rows(**{**right, name: findings}))) == [name]


def test_copies_must_be_flagged_and_new_records_must_not(benchmark: ModuleType) -> None:
    table = rows(simulated=["helps"], copies=["hurts"]).assign(memorised=[True, False])
    assert missed(benchmark.bounds(table)) == ["copies", "simulated"]


def test_synthetic_records_are_what_their_names_say(benchmark: ModuleType, tmp_path: Path) -> None:
    params = benchmark.Params.read(benchmark.PROFILE)
    study = benchmark.Study(0, benchmark.Plan(1, 80, 3, 1, 3, params), tmp_path)
    real = {chosen.number: records for chosen, records in study.each_round()}
    copies = study.synthetic("copies", real[1], 1)
    np.testing.assert_array_equal(copies.signals(), real[1].split("train").signals())
    made, mixed = study.synthetic("simulated", real[1], 1), study.synthetic("permuted", real[1], 1)
    np.testing.assert_array_equal(made.signals(), mixed.signals())
    assert made.counts() == mixed.counts()
    assert 0 < (made.labels == mixed.labels).mean() < 0.6
    assert not set(made.rows) & set(study.synthetic("simulated", real[2], 2).rows)
    known = {one.tobytes() for one in real[1].signals()}
    assert not known & {one.tobytes() for one in made.signals()}
    tested = [set(records.split("test").records["patient"]) for records in real.values()]
    assert sum(map(len, tested)) == len(set.union(*tested))
    data = study.data("simulated", real[1], 1, 0)
    assert [len(one) for one in data.train] == [len(copies), 2 * len(copies)]
    assert [len(one) for one in study.data("unchanged", real[1], 1, 0).train] == [len(copies)]


@pytest.mark.slow
def test_a_tiny_run_prints_its_table_and_continues_after_a_kill(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--studies", "1", "--unchanged", "1", "--large", "1", "--records", "80"]
    sizes += ["--large-records", "100", "--folds", "3", "--seeds", "1"]
    sizes += ["--steps", "3", "--large-steps", "3", "--fresh", "60"]
    run = [str(tmp_path / "work"), *sizes]
    status = benchmark.main(run)
    first = capsys.readouterr().out
    assert status == 1  # classifiers of three steps find nothing
    table = read_csv(tmp_path / "work/studies.csv")
    assert list(table["condition"]) == ["simulated", "permuted", "unchanged", "copies"]
    assert dict(zip(table["condition"], table["memorised"], strict=True))["copies"] is True
    for name in table["condition"]:
        assert name in first
    kept = tmp_path / "work/study-0/simulated.csv"
    before = kept.stat().st_mtime_ns
    (tmp_path / "work/study-0/permuted.csv").unlink()
    assert benchmark.main(run) == 1
    again = capsys.readouterr().out
    assert kept.stat().st_mtime_ns == before
    assert tables(again) == tables(first)
