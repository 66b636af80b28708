"""The comparison of a repeated training with the registered one: to the byte, or on a GPU within a
tolerance.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from ecgforge.commands import reproduce
from ecgforge.errors import EcgforgeError
from ecgforge.provenance.lineage import Rerun
from ecgforge.tracking import store

F1, LOSS = "validation/f1_macro_best", "loss/prior/validation"


def compare(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, float],
    now: dict[str, float],
    gpu: str | None = "NVIDIA H100",
) -> None:
    """Compare a version with a repeated training that has other weights."""
    for name, value in (("before", 1.0), ("now", 1.1)):
        (folder / name).mkdir()
        save_file({"a": np.full(2, value)}, folder / name / "weights.safetensors")
    tags = {"system.gpu": gpu} if gpu else {}
    data = SimpleNamespace(tags=tags, metrics=before)
    monkeypatch.setattr(store, "run", lambda _: SimpleNamespace(data=data))
    monkeypatch.setattr(reproduce.versions, "files", lambda _: nullcontext(folder / "before"))
    version = SimpleNamespace(label="model/1", run_id="run", tags={})
    rerun = Rerun(folder / "now" / "weights.safetensors", now)
    reproduce._compare(version, rerun)  # type: ignore[arg-type]


def test_other_weights_of_a_cpu_are_an_error_whatever_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EcgforgeError, match=r"differ by up to 0\.1; the largest weight is 1"):
        compare(tmp_path, monkeypatch, {F1: 0.8}, {F1: 0.8}, gpu=None)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({F1: 0.8, "loss/validation": 1.0}, {F1: 0.76, "loss/validation": 2.0}),
        (
            {LOSS: 2.0, "loss/autoencoder/validation": 1.0, "loss/prior/train": 1.0},
            {LOSS: 2.09, "loss/autoencoder/validation": 0.96, "loss/prior/train": 2.0},
        ),
    ],
)
def test_close_figures_of_a_gpu_are_enough(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    before: dict[str, float],
    now: dict[str, float],
) -> None:
    compare(tmp_path, monkeypatch, before, now)
    shown = " ".join(capsys.readouterr().out.split())
    assert "model/1: trained on NVIDIA H100" in shown
    assert "within the tolerance" in shown


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({F1: 0.8}, {F1: 0.74}),
        ({F1: 0.8}, {F1: 0.86}),
        ({F1: 0.8}, {}),
        ({F1: 0.8}, {F1: float("nan")}),
        ({LOSS: 2.0}, {LOSS: 2.11}),
        ({LOSS: -2.0}, {LOSS: -2.11}),
        (
            {LOSS: 2.0, "loss/autoencoder/validation": 1.0},
            {LOSS: 2.0, "loss/autoencoder/validation": 1.06},
        ),
        ({"steps": 3.0}, {"steps": 3.0}),
    ],
)
def test_other_figures_of_a_gpu_are_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, float],
    now: dict[str, float],
) -> None:
    with pytest.raises(EcgforgeError, match="NVIDIA H100.*differ by more than the tolerance"):
        compare(tmp_path, monkeypatch, before, now)
