"""The benchmark of all stages at full size: its parameters and tables, and a stage at toy size."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import yaml

from benchmark_module import load
from ecgforge.stages import parameters

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def full_size() -> ModuleType:
    return load("full_size")


def test_its_parameters_are_valid_and_grow_with_the_records(
    full_size: ModuleType, tmp_path: Path
) -> None:
    drawn = {}
    for thousands in (1, full_size.FULL):
        file = tmp_path / f"{thousands}.yaml"
        file.write_text(json.dumps(full_size.parameters(thousands, 1000)))
        drawn[thousands] = parameters.read(file)
    small, full = (params.active for params in drawn.values())
    assert {name: source.records for name, source in full.sources.items()} == full_size.RECORDS
    assert sum(source.records for source in small.sources.values()) == 1000
    assert (small.synthesis.train, full.synthesis.train) == (149, 10_000)
    assert drawn[1].record_sets == ["merged"]


def test_its_stages_are_those_of_a_study_without_tuning_and_sweeps(full_size: ModuleType) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    names = "acquire prepare merge train_generator synthesize classify_real classify quality report"
    merge = yaml.safe_load((ROOT / "matrix.yaml").read_text())["merges"]["merged"]["options"]
    values = {"dataset": "merged", "generator": full_size.GENERATOR, "key": "merged"}
    values |= {"item.options": merge}
    expected = set()
    for name in names.split():
        command = (stages[name].get("do") or stages[name])["cmd"].removeprefix("ecgforge ")
        for source in full_size.RECORDS:
            known = values | {"source": source}

            def value(found: re.Match[str], known: dict[str, str] = known) -> str:
                return known.get(found[1]) or known[found[1].removeprefix("item.")]

            expected.add(re.sub(r"\$\{([\w.]+)\}", value, command))
    assert set(full_size.STAGES.values()) == expected


def test_its_tables_show_the_growth() -> None:
    """In a process of its own: the peak memory of a child counts that of its parent at the fork."""
    code = (
        "import full_size; full_size.STAGES = {'nothing': '--version'}\n"
        "print(*full_size.tables([1, 2]), sep='\\n')"
    )
    command = [sys.executable, "-c", code]
    lines = subprocess.run(
        command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    (*_, first), (*_, second) = rows[2], rows[5]
    assert [rows[2][0], first] == ["nothing", ""]
    assert float(second) > 0
    assert all(float(cell) >= 0 for cell in rows[5][1:])
    assert 10 < float(rows[5][3]) < 1000


@pytest.mark.slow
def test_a_stage_has_the_published_rhythms(full_size: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(json.dumps(full_size.parameters(0.2, 1000)))
    cost = full_size.measured("acquire ptbxl", tmp_path)
    table = pd.read_csv(tmp_path / "data/raw/ptbxl/ptbxl_database.csv")  # noqa: TID251
    assert len(table) == 65
    assert table["filename_lr"].str.startswith("records100/").all()
    assert table["scp_codes"].str.contains("'SR'").mean() > 0.7
    assert cost.memory > 100
    with pytest.raises(SystemExit, match="acquire nowhere failed"):
        full_size.measured("acquire nowhere", tmp_path)
