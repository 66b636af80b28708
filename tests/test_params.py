"""The parameters: params.yaml is valid, and every mistake in it is one line that names the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ecgforge.errors import EcgforgeError
from ecgforge.params import Params, checked
from ecgforge.stages import parameters

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tree() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def write(tree: dict[str, Any], folder: Path) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_every_profile_is_valid_whole() -> None:
    params = parameters.read(ROOT / "params.yaml")
    assert params.profile == "demo"
    assert set(params.profiles) == {"demo", "sample", "paper"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "profiles.demo.classifier.training.learning_rate",
            5,
            "profiles.demo.classifier.training.learning_rate = 5: .*less than or equal to 1",
        ),
        ("profiles.demo.classifier.training.learning_rat", 0.1, "profiles.demo.classifier.training.learning_rat: unknown key"),
        ("profiles.paper.generators.diffwave.network.chanels", 8, "profiles.paper.generators.diffwave.network: chanels: unknown key"),
        ("profiles.demo.generators.time_vqvae.sampling.guidance", -1, "profiles.demo.generators.time_vqvae.sampling: guidance = -1"),
        ("profiles.sample.classifier.backbone", "resnet2d", "profiles.sample.classifier: 'resnet2d' is no backbone: known are resnet1d"),
        ("generators", ["diffwave", "gan"], "profiles.demo.generators: 'gan' is listed in generators but not described here"),
        ("datasets", ["ptbxl", "mitbih"], "datasets: 'mitbih' is not one of ptbxl, chapman, merged"),
        ("merged", [], "datasets: 'merged' is not one of ptbxl, chapman"),
        ("merged", [{"first": "ptbxl", "second": "mitbih"}], "merged: 'mitbih' is not one of ptbxl, chapman"),
        ("profile", "dmo", "profile: 'dmo' is not one of demo, paper, sample"),
        ("preprocessing.band", [0.5, 60], "band must rise and end below half the sampling rate, 50 Hz"),
        ("profiles.demo.sources.ptbxl.kind", "internet", "profiles.demo.sources.ptbxl.*'simulated', 'physionet', 'folder'"),
        ("profiles.demo.study.seeds", [1, 1], r"profiles.demo.study.seeds = \[1, 1\]: 1 is there twice"),
        ("profiles.demo.sweeps.seeds", [0, 0], "profiles.demo.sweeps.seeds = .*: 0 is there twice"),
        ("profiles.paper.sweeps.mixture", [10, 50, 10.0], "profiles.paper.sweeps.mixture = .*: 10 is there twice"),
        ("profiles.demo.sweeps.transfer", [1, 1], "profiles.demo.sweeps.transfer = .*: 1 is there twice"),
        ("profiles.demo.sweeps.size", [25, 25], "profiles.demo.sweeps.size = .*: 25 is there twice"),
        ("profiles.demo.sweeps.methods", ["all", "all"], "profiles.demo.sweeps.methods = .*: all is there twice"),
        ("sources", ["ptbxl", "chapman", "ptbxl"], "sources = .*: ptbxl is there twice"),
        ("datasets", ["ptbxl", "ptbxl"], "datasets = .*: ptbxl is there twice"),
        ("generators", ["diffwave", "diffwave"], "generators = .*: diffwave is there twice"),
        ("profiles.demo.sweeps.fine_tuning.steps", 120, r"profiles\.demo\.sweeps.* = .*gradual unfreezing.* a multiple of 90"),
        ("swept.datasets", ["ptbxl", "ptbxl"], "swept.datasets = .*: ptbxl is there twice"),
        ("swept.generators", ["diffwave", "diffwave"], "swept.generators = .*: diffwave is there twice"),
        ("swept.hospitals", [{"train": "ptbxl", "test": "chapman"}] * 2, "swept.hospitals = .*: ptbxl to chapman is there twice"),
        ("merged", [{"first": "ptbxl", "second": "ptbxl"}], "merged.0 = .*: first and second must differ"),
        ("profiles.sample.study.synthetic_share", 0.6, "profiles.sample.study.synthetic_share = 0.6: at most 0.5 with synthesis.train"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(tree: dict[str, Any], tmp_path: Path, key: str, value: Any, message: str) -> None:
    *path, last = key.split(".")
    branch = tree
    for part in path:
        branch = branch[part]
    branch[last] = value
    with pytest.raises(EcgforgeError, match=message) as caught:
        parameters.read(write(tree, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_classifier_is_in_the_sweep_once(tree: dict[str, Any], tmp_path: Path) -> None:
    sweeps = tree["profiles"]["demo"]["sweeps"]
    first = sweeps["backbones"][0]
    sweeps["backbones"].append(first)
    with pytest.raises(EcgforgeError, match=f"profiles.demo.sweeps.backbones = .*: {first['backbone']} is there twice"):
        parameters.read(write(tree, tmp_path))
    sweeps["backbones"] = [{key: tree["profiles"]["demo"]["classifier"][key] for key in ("backbone", "network", "training")}]
    with pytest.raises(EcgforgeError, match=r"profiles.demo.sweeps.backbones: resnet1d is the profile's classifier already"):
        parameters.read(write(tree, tmp_path))


def test_sweeps_may_be_nowhere_and_without_points(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["swept"] = {"datasets": [], "generators": [], "retrained": [], "hospitals": []}
    tree["profiles"]["demo"]["sweeps"]["backbones"] = []
    tree["profiles"]["demo"]["study"]["synthetic_share"] = 0.6
    assert parameters.read(write(tree, tmp_path)).swept.datasets == []


def test_an_unknown_generator_in_a_profile_is_named_with_those_there_are(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["profiles"]["demo"]["generators"]["gan"] = tree["profiles"]["demo"]["generators"]["diffwave"]
    with pytest.raises(EcgforgeError, match="'gan' is no generator: known are diffwave, time_diffusion, time_vqvae"):
        parameters.read(write(tree, tmp_path))


def test_an_experiment_of_dvc_can_change_the_profile(tmp_path: Path) -> None:
    """`dvc exp run -S` writes the file anew, in a style of its own, and reads it with another parser."""
    from dvc.utils.hydra import apply_overrides
    from dvc.utils.serialize import load_yaml

    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    apply_overrides(str(path), ["profile=sample", "profiles.sample.sources.ptbxl.mirror=s3://bucket/ptb-xl"])
    assert load_yaml(str(path))["profile"] == "sample"
    changed, before = Params.read(path), Params.read(ROOT / "params.yaml")
    assert changed.active.sources["ptbxl"].mirror == "s3://bucket/ptb-xl"
    assert changed.profiles["paper"] == before.profiles["paper"]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text() + "\nprofiles:\n  sample: {}\n")
    with pytest.raises(EcgforgeError, match='found duplicate key "profiles".*line'):
        Params.read(path)


def test_a_missing_key_is_named(tree: dict[str, Any], tmp_path: Path) -> None:
    del tree["profiles"]["demo"]["synthesis"]["chunk"]
    with pytest.raises(EcgforgeError, match="profiles.demo.synthesis.chunk: missing"):
        Params.read(write(tree, tmp_path))


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_whatever_the_file_holds_the_error_is_one_of_ours(tree: Any) -> None:
    with pytest.raises(EcgforgeError):
        checked(Params, tree, "params.yaml")
