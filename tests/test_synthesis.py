"""Synthesis of record sets: each record from its own seed, complete or not at all, in any number of
processes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ecgforge.errors import EcgforgeError
from ecgforge.generators import synthesis
from ecgforge.generators.common import base, registry
from ecgforge.generators.diffusion.diffusion import Diffusion
from ecgforge.params import Compute, Synthesis
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.study import mixtures
from ecgforge.training import devices

SAMPLING = {"steps": 2, "guidance": 1.5}
RHYTHMS = ("SR", "SB", "AFIB")


@pytest.fixture
def real(tmp_path: Path) -> RecordSet:
    rng = np.random.default_rng(0)
    with write_record_set(tmp_path / "real", About(50, 200, "mV", RHYTHMS, "real", {})) as writer:
        ids = [str(number) for number in range(14)]
        rhythms = [RHYTHMS[number % 3] for number in range(14)]
        rows = pd.DataFrame(
            {"id": ids, "patient": ids, "dataset": "ptbxl", "rhythm": rhythms, "split": "train"}
        )
        writer.append(
            rng.standard_normal((14, 8, 200)).astype(np.float32),
            rows.assign(age=np.nan, sex="", origin="real"),
        )
    return RecordSet.open(tmp_path / "real")


def generator() -> base.Generator:
    network = {
        "channels": [16, 24],
        "attention_levels": 1,
        "heads": 2,
        "patch": 8,
        "label_dropout": 0.1,
        "timestep_shift": 3.0,
    }
    return registry.create(
        "time_diffusion", base.Shape(8, 200, 3, 50), network, torch.linspace(0.1, 0.8, 8), seed=0
    ).eval()


def generated(real: RecordSet, out: Path, devices: int = 1, **changed: object) -> RecordSet:
    settings = Synthesis(
        **{"train": "match_real", "validation": 2, "test": 3, "chunk": 4, "seed": 7, **changed}
    )
    compute = Compute(accelerator="cpu", devices=devices, precision="auto", threads=1)
    wanted = mixtures.requested(RHYTHMS, settings, len(real.split("train")))
    synthesis.synthesize(
        generator(),
        "time_diffusion",
        SAMPLING,
        wanted,
        settings,
        compute,
        real,
        {"who": "test"},
        out,
    )
    return RecordSet.open(out)


def test_every_rhythm_has_as_many_records_in_each_split(real: RecordSet, tmp_path: Path) -> None:
    made = generated(real, tmp_path / "made")
    assert made.split("train").counts() == dict.fromkeys(RHYTHMS, 5), (
        "14 real ones, spread evenly and rounded up"
    )
    assert made.split("validation").counts() == dict.fromkeys(RHYTHMS, 2)
    assert made.split("test").counts() == dict.fromkeys(RHYTHMS, 3)
    assert (made.about.origin, made.about.units, made.about.made) == (
        "synthetic",
        "mV",
        {"who": "test"},
    )
    assert len(np.unique(made.signals().round(6), axis=0)) == len(made), "no record twice"


def test_a_larger_set_holds_the_smaller_one(real: RecordSet, tmp_path: Path) -> None:
    small, large = (
        generated(real, tmp_path / "small", train=2),
        generated(real, tmp_path / "large", train=6, chunk=5),
    )
    places = [large.records["id"].tolist().index(one) for one in small.records["id"]]
    np.testing.assert_allclose(small.signals(), large.signals(np.array(places)), atol=1e-5)


@pytest.mark.slow
def test_a_gpu_samples_with_the_precision_of_its_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = synthesis.plan(RHYTHMS, {"test": dict.fromkeys(RHYTHMS, 2)}, seed=0)
    settings = Diffusion.Sampling(**SAMPLING)

    def sampled(precision: str) -> np.ndarray:
        compute = Compute(accelerator="auto", precision=precision, threads=1)
        return synthesis.Sampler(generator(), settings, compute, 0).sample(rows)

    exact = sampled("bf16-mixed")
    np.testing.assert_array_equal(sampled("auto"), exact)
    monkeypatch.setattr(devices, "on_gpu", lambda _: True)
    monkeypatch.setattr(devices, "device", lambda *_: torch.device("cpu"))
    np.testing.assert_array_equal(sampled("32-true"), exact)
    rounded = sampled("auto")
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, exact)
    assert (rounded - exact).std() < 0.02 * exact.std()


@pytest.mark.slow
def test_several_processes_draw_the_same_bytes(real: RecordSet, tmp_path: Path) -> None:
    generated(real, tmp_path / "one")
    generated(real, tmp_path / "two", devices=2)
    for file in ("signals.npy", "records.csv", "about.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), (
            file
        )


def test_a_signal_that_is_not_finite_is_an_error_and_leaves_nothing(
    real: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        synthesis.Sampler,
        "sample",
        lambda _, chunk: np.full((len(chunk), 8, 200), np.nan, np.float32),
    )
    with pytest.raises(EcgforgeError, match="time_diffusion generated signals that are not finite"):
        generated(real, tmp_path / "made")
    assert not (tmp_path / "made").exists()
