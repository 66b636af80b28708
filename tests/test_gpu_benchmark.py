"""The benchmark for a GPU, at toy size on a CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from benchmark_module import load
from ecgforge.params import Params


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return load("gpu")


@pytest.mark.slow
def test_it_measures_trainings_and_sampling_which_repeat_on_a_cpu(gpu: ModuleType) -> None:
    lines = list(gpu.tables(gpu.TOY, ["time_vqvae", "resnet1d"]))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    trainings, sampling = rows[2:5], rows[7:]
    assert [row[0] for row in trainings] == [
        "time_vqvae, autoencoder",
        "time_vqvae, prior",
        "resnet1d",
    ]
    assert [row[0] for row in sampling] == ["time_vqvae"]
    assert all(row[-1] == "yes" for row in (*trainings, *sampling))
    assert all(float(row[2]) > 0 for row in (*trainings, *sampling))
    assert all(0 <= float(row[3].removesuffix(" %")) < 100 for row in trainings)


def test_it_covers_every_network_of_the_profile(gpu: ModuleType) -> None:
    params = Params.read(gpu.PARAMS).with_profile(gpu.GPU.profile)
    found = {work.name.partition(",")[0] for work in gpu.works(params, [])}
    assert found == {*params.active.generators, *params.active.classifiers} - {"simulator"}


def test_weights_that_differ_are_not_equal_bytes(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [nn.Linear(2, 2) for _ in range(3)]
    made[1].load_state_dict({**made[0].state_dict(), "bias": torch.ones(2)})
    left = iter(made)
    monkeypatch.setattr(gpu, "trained", lambda *_: next(left))
    monkeypatch.setattr(gpu, "flops", lambda *_: 1)
    params = Params.read(gpu.PARAMS).with_profile("demo")
    (work,) = gpu.works(params, ["resnet1d"])
    assert gpu.measured(work, gpu.TOY, None, tmp_path, 1.0).endswith("| no |")


def test_without_a_gpu_it_names_the_toy_size(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "there is no GPU: use --toy" in capsys.readouterr().err
