"""The sweeps: who is compared with whom, on few records and few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import registry_project as project
from ecgforge.files import read_csv
from ecgforge.params import Params
from ecgforge.stages import sweeps
from ecgforge.stages.trials import Bench, Trial
from ecgforge.study import predictions
from ecgforge.study.settings import diet

ROOT = Path(__file__).parents[1]


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sweeps.Arm:
    monkeypatch.chdir(tmp_path)
    project.make(tmp_path)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    demo = tree["profiles"]["demo"]
    short = {"steps": 2, "evaluate_every": 1, "warmup_steps": 1, "batch_size": 4}
    demo["generators"]["diffwave"]["network"] |= {"layers": 1, "channels": 8}
    demo["generators"]["diffwave"]["training"]["denoiser"] |= short
    demo["generators"]["diffwave"]["sampling"]["steps"] = 1
    demo["synthesis"] |= {"train": 12, "validation": 2, "test": 2}
    demo["classifiers"]["resnet1d"]["network"] |= {"widths": [4]}
    demo["classifiers"]["resnet1d"]["training"] |= short
    demo["study"]["synthetic_share"] = 0.5
    demo["sweeps"] |= {"seeds": [1], "size": [50]}
    tree["backbones"] = ["resnet1d"]
    params = Params.model_validate(tree)
    assert params.generator("diffwave").seed not in params.active.sweeps.seeds
    return sweeps.Arm.open(params, "ptbxl", "diffwave", Path("data"), Path("models"))


def test_a_classifier_of_few_real_records_has_those_that_the_generator_has(arm: sweeps.Arm, tmp_path: Path) -> None:
    sweeps.run("size", arm, tmp_path / "size")
    found = predictions.read([tmp_path / "size"])
    plain, changed = ["TrRTeR", "TrSTeR", "TrRSTeR"], ["TrRTeR", "TrRSTeR"]
    assert {name: list(rows["setting"].unique()) for name, rows in found.groupby("sweep")} == {"size": plain, "size, augmented": changed}
    found = found[found["sweep"] == "size"]
    bench, few = Bench(arm.params, "ptbxl", None, True), sweeps._shared(arm.real, 50, arm.params.generator("diffwave").seed)
    bench.train(Trial("TrRTeR", diet("real", few, None, 0, 0), arm.real.split("test")), 1)
    columns = [column for column in found.columns if column.startswith(predictions.PROBABILITY)]
    own = found.loc[found["setting"] == "TrRTeR", columns].to_numpy()
    np.testing.assert_array_equal(own, bench.done[0].predictions[columns].to_numpy())


def test_a_sweep_without_points_has_empty_tables(arm: sweeps.Arm, tmp_path: Path) -> None:
    sweeps.run("backbones", arm, tmp_path / "none")
    sweeps.on_real(arm.params, "ptbxl", arm.real.folder, tmp_path / "real")
    assert list(read_csv(tmp_path / "none/cells.csv").columns) == [*predictions.KEYS, "cell"]
    both = predictions.read([tmp_path / "none", tmp_path / "real"])
    pd.testing.assert_frame_equal(both, predictions.read([tmp_path / "real"]))
    assert predictions.read([tmp_path / "none"]).empty
