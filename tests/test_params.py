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
        ("profile", "dmo", "profile: 'dmo' is not one of demo, paper, sample"),
        ("preprocessing.band", [0.5, 60], "band must rise and end below half the sampling rate, 50 Hz"),
        ("profiles.demo.sources.ptbxl.kind", "internet", "profiles.demo.sources.ptbxl.*'simulated', 'physionet', 'folder'"),
        ("profiles.demo.study.seeds", [1, 1], "profiles.demo.study = .*seeds must differ"),
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
