"""Graphs of networks: traced once for each architecture, and the same answers as the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow.pytorch
import numpy as np
import pytest
import torch
import yaml
from mlflow.models import Model, infer_signature
from torch import Tensor, nn

from ecgforge.model_versions import exported, models
from ecgforge.model_versions.pyfunc_signature import describe_graph
from ecgforge.pipeline import warm

EXAMPLE = torch.zeros(2, 3)
BATCH = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """A layer, a stored and an unstored buffer, and a number that is no weight."""

    def __init__(self, seed: int, slope: float = 0.1, constant: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.slope = nn.Linear(3, 3), slope
        self.register_buffer("shift", torch.randn(3))
        self.register_buffer("constant", torch.tensor(constant), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.layer(inputs) + self.shift
        return nn.functional.leaky_relu(found, self.slope) + self.constant


class Tied(Network):
    """Its buffer is a part of its weights' memory."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.shift = self.layer.weight.detach()[1]


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[nn.Module]]:
    """The networks that were traced; no graph is known at the start."""
    monkeypatch.setattr(exported, "_graphs", {})
    monkeypatch.delenv(exported.SERVER, raising=False)
    found, export = [], torch.export.export

    def noted(network: nn.Module, *arguments: object, **others: object) -> object:
        found.append(network)
        return export(network, *arguments, **others)

    monkeypatch.setattr(torch.export, "export", noted)
    return found


def assert_answers_alike(network: nn.Module, folder: Path) -> None:
    exported.write(network.eval(), [EXAMPLE], folder / "model.pt2")
    loaded = torch.export.load(folder / "model.pt2").module()
    torch.testing.assert_close(loaded(BATCH), network(BATCH))


def test_networks_of_one_architecture_are_traced_once(
    tmp_path: Path, traced: list[nn.Module]
) -> None:
    for seed in range(3):
        assert_answers_alike(Network(seed), tmp_path)
    assert len(traced) == 1


def test_the_file_depends_on_the_network_alone(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.pt2" for name in ("traced", "filled")]
    for file in files:
        exported.write(Network(0).eval(), [EXAMPLE], file)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    "other", [{"slope": 0.5}, {"constant": 2.0}], ids=["a number", "a tensor that is not stored"]
)
def test_what_is_part_of_the_graph_is_traced_again(
    tmp_path: Path, traced: list[nn.Module], other: dict[str, float]
) -> None:
    for network in (Network(0), Network(0, **other), Network(0).double().float()):
        assert_answers_alike(network, tmp_path)
    assert len(traced) == 2


def test_weights_in_shared_memory_are_those_of_each_network(tmp_path: Path) -> None:
    for network in (Network(0), Tied(1), Tied(2), Network(3)):
        assert_answers_alike(network, tmp_path)


def test_a_network_that_cannot_be_pickled_is_exported(
    tmp_path: Path, traced: list[nn.Module]
) -> None:
    class Local(Network):
        pass

    for seed in range(2):
        assert_answers_alike(Local(seed), tmp_path)
    assert len(traced) == 2


def test_processes_of_a_server_share_their_graphs(
    tmp_path: Path, traced: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exported.SERVER == warm.ADDRESS
    monkeypatch.setenv(exported.SERVER, str(tmp_path / "socket"))
    for seed in range(2):
        exported._graphs.clear()  # as in another process
        assert_answers_alike(Network(seed), tmp_path)
    assert len(traced) == 1
    (kept,) = (tmp_path / exported.GRAPHS).iterdir()
    assert kept.stat().st_size < (tmp_path / "model.pt2").stat().st_size


def test_a_version_has_the_files_that_mlflow_saves(tmp_path: Path) -> None:
    network, example = Network(0).eval(), EXAMPLE.numpy()
    signature = infer_signature(example, example)
    theirs, ours, weights = tmp_path / "theirs", tmp_path / "ours", tmp_path / "weights"
    weights.write_text("weights")
    description = Model()
    described = {"preprocessing.json": {"duration": 10}}

    def serve(model: Model, folder: Path) -> None:
        describe_graph(example, model, folder)

    models._save(network, [EXAMPLE], signature, [weights], described, serve, description, ours)
    description.save(str(ours / "MLmodel"))
    mlflow.pytorch.save_model(
        network,
        str(theirs),
        signature=signature,
        input_example=example,
        pip_requirements=(ours / "requirements.txt").read_text().split(),
        extra_files=[str(weights), str(ours / "extra_files/preprocessing.json")],
    )
    files = [
        {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
        for folder in (ours, theirs)
    ]
    assert files[0] == files[1]
    for name in files[0] - {Path("MLmodel"), Path("data/model.pt2")}:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    trees = [yaml.safe_load((folder / "MLmodel").read_text()) for folder in (ours, theirs)]
    for tree in trees:
        for key in ("utc_time_created", "model_uuid", "model_size_bytes"):
            assert tree.pop(key)
    assert trees[0] == trees[1]
    loaded = mlflow.pyfunc.load_model(str(ours)).predict(BATCH.numpy())
    np.testing.assert_allclose(loaded, network(BATCH).detach().numpy(), rtol=1e-5)
