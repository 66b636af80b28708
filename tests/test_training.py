"""The training loop: it learns, it resumes to the byte, it stops early, and it says when it
diverged.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save
from torch import nn
from torch.nn.functional import cross_entropy

from ecgforge.errors import EcgforgeError
from ecgforge.params import Compute, Training
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.training import devices
from ecgforge.training.batches import Draws, Records
from ecgforge.training.fit import Outcome, fit
from ecgforge.training.objective import Objective, mean_losses

pytestmark = pytest.mark.slow

COMPUTE = Compute(accelerator="cpu", devices=1, precision="auto", threads=1)
SAMPLES = 40


def training(**changes: object) -> Training:
    settings = {
        "steps": 40,
        "batch_size": 8,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "warmup_steps": 4,
        "gradient_clip": 1.0,
        "ema_decay": 0.0,
        "class_balance_power": 0.0,
        "evaluate_every": 10,
        "patience": None,
    }
    return Training.model_validate(settings | changes)


@pytest.fixture
def records(tmp_path: Path) -> RecordSet:
    """Records of two rhythms, of which the second has an offset in every lead."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 4 == 0
    signals = rng.normal(size=(64, 8, SAMPLES)) + labels[:, None, None]
    table = pd.DataFrame(
        {"id": [f"r{i}" for i in range(64)], "rhythm": np.where(labels, "AFIB", "SR")}
    )
    table = table.assign(
        patient=table["id"], dataset="ptbxl", split="train", age=50, sex="", origin="simulated"
    )
    with write_record_set(
        tmp_path / "set", About(100, SAMPLES, "mV", ("SR", "AFIB"), "simulated", {})
    ) as writer:
        writer.append(signals, table)
    return RecordSet.open(tmp_path / "set")


class Network(nn.Module):
    """A linear map with noise and dropout at its input in training, so that a resumed training must
    find the same of both.
    """

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * SAMPLES, 2))

    def objective(self) -> Objective:
        def loss(
            signals: torch.Tensor, labels: torch.Tensor, noise: torch.Generator
        ) -> dict[str, torch.Tensor]:
            return {
                "loss": cross_entropy(
                    self.layers(signals + torch.randn(signals.shape, generator=noise)), labels
                )
            }

        return Objective(
            self, list(self.parameters()), loss, loss, mean_losses, "loss", higher_is_better=False
        )


def scripted(network: Network, losses: Iterable[float]) -> Objective:
    """The network's objective with `losses` for the validation losses, in order."""
    left = iter(losses)
    return replace(network.objective(), summarise=lambda _: {"loss": next(left)})


def run(
    records: RecordSet,
    folder: Path,
    settings: Training,
    stop_at: int | None = None,
    losses: Iterable[float] | None = None,
    compute: Compute = COMPUTE,
) -> tuple[Outcome, bytes, list[int]]:
    network, steps = Network(), []

    def log(metrics: dict[str, float], step: int) -> None:
        if "loss/validation" not in metrics:
            return
        steps.append(step)
        if step == stop_at:
            raise RuntimeError("cut off")

    objective = scripted(network, losses) if losses else network.objective()
    outcome = fit(
        objective, [records], [records], settings, compute, seed=3, folder=folder, log=log
    )
    return outcome, save(network.state_dict()), steps


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_training_that_was_cut_off_ends_with_the_same_bytes(
    records: RecordSet, tmp_path: Path, ema_decay: float
) -> None:
    settings = training(ema_decay=ema_decay)
    outcome, weights, steps = run(records, tmp_path / "whole", settings)
    with pytest.raises(RuntimeError, match="cut off"):
        run(records, tmp_path / "cut", settings, stop_at=30)
    again, same, rest = run(records, tmp_path / "cut", settings)
    assert again == outcome
    assert same == weights
    assert steps == [10, 20, 30, 40]
    assert rest == [30, 40], "went on from the checkpoint at 20, and not from the start"


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
@pytest.mark.parametrize("left", [0, 100, 0.5, -1, None])
def test_a_torn_checkpoint_is_trained_over(
    records: RecordSet, tmp_path: Path, name: str, left: float | None
) -> None:
    outcome, weights, _ = run(records, tmp_path / "whole", training())
    with pytest.raises(RuntimeError, match="cut off"):
        run(records, tmp_path / "cut", training(), stop_at=30)
    file = tmp_path / "cut" / name
    content = file.read_bytes()
    if left is None:
        file.unlink()
    else:
        file.write_bytes(content[: int(left * len(content)) if isinstance(left, float) else left])
    assert run(records, tmp_path / "cut", training()) == (outcome, weights, [10, 20, 30, 40])


def test_a_checkpoint_is_written_in_its_own_folder_and_on_disk_before_it_takes_its_name(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = [], os.fsync

    def watched(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setenv("TMPDIR", "/nonexistent")  # another file system would make each move a copy
    monkeypatch.setattr(tempfile, "tempdir", None)
    run(records, tmp_path / "c", training(steps=20))
    assert (
        synced == [str(tmp_path / "c" / f".{name}.ckpt.partial") for name in ("best", "last")] * 2
    )


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize(("patience", "steps"), [(2, 40), (None, 60)])
def test_a_training_that_has_ended_is_not_trained_on(
    records: RecordSet, tmp_path: Path, ema_decay: float, patience: int | None, steps: int
) -> None:
    settings = training(steps=60, patience=patience, ema_decay=ema_decay)
    ended = run(records, tmp_path / "c", settings, losses=[0.5, 0.3, 0.4, 0.45, 0.5, 0.5])
    assert ended[0] == Outcome(steps, pytest.approx(0.3), stopped_early=steps < 60)
    for _ in range(2):
        assert run(records, tmp_path / "c", settings, losses=[0.2] * 6) == (*ended[:2], [])


@pytest.mark.parametrize(("patience", "stop_at"), [(2, None), (None, None), (None, 40)])
def test_a_folder_of_checkpoints_can_be_moved(
    records: RecordSet, tmp_path: Path, patience: int | None, stop_at: int | None
) -> None:
    settings, losses = training(steps=60, patience=patience), [0.5, 0.3, 0.4, 0.45, 0.5, 0.35]
    outcome, weights, _ = run(records, tmp_path / "there", settings, losses=losses)
    if stop_at:
        shutil.rmtree(tmp_path / "there")
        with pytest.raises(RuntimeError, match="cut off"):
            run(records, tmp_path / "there", settings, stop_at, losses)
    shutil.move(tmp_path / "there", tmp_path / "here")
    assert run(records, tmp_path / "here", settings, losses=losses[3:])[:2] == (outcome, weights)


def test_one_training_uses_one_device_however_many_there_are(
    records: RecordSet, tmp_path: Path
) -> None:
    two = COMPUTE.model_copy(update={"devices": 2})
    assert run(records, tmp_path / "a", training(), compute=two) == run(
        records, tmp_path / "b", training()
    )


def test_the_variables_of_a_slurm_job_change_nothing(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would refuse a job with four tasks."""
    expected = run(records, tmp_path / "a", training())
    job = {"JOB_ID": "1", "JOB_NAME": "study", "NTASKS": "4", "PROCID": "0", "LOCALID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert run(records, tmp_path / "b", training()) == expected


def test_a_training_on_the_cpu_asks_no_gpu_for_its_random_state(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would load CUDA, and the run would name the wrong device."""
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device))
    run(records, tmp_path, training())
    assert not asked


def test_seeds_decide_the_weights(records: RecordSet, tmp_path: Path) -> None:
    assert (
        run(records, tmp_path / "a", training())[1] == run(records, tmp_path / "b", training())[1]
    )
    network = Network()
    fit(
        network.objective(),
        [records],
        [records],
        training(),
        COMPUTE,
        seed=4,
        folder=tmp_path / "c",
        log=lambda *_: None,
    )
    assert save(network.state_dict()) != run(records, tmp_path / "d", training())[1]


class Slope(nn.Module):
    """A number whose loss is itself: AdamW lowers it by the learning rate of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def objective(self, seen: list[float]) -> Objective:
        def loss(*_: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append(self.number.item())
            return {"loss": self.number.sum()}

        return Objective(
            self,
            [self.number],
            loss,
            lambda *_: {"loss": torch.zeros(())},
            mean_losses,
            "loss",
            higher_is_better=False,
        )


@pytest.mark.parametrize("warmup", [0, 5])
def test_the_learning_rate_rises_in_the_warm_up_and_falls_as_a_cosine(
    records: RecordSet, tmp_path: Path, warmup: int
) -> None:
    settings, seen = (
        training(steps=20, warmup_steps=warmup, weight_decay=0.0, learning_rate=0.01),
        [],
    )
    fit(
        Slope().objective(seen),
        [records],
        [records],
        settings,
        COMPUTE,
        seed=0,
        folder=tmp_path / "c",
        log=lambda *_: None,
    )
    steps = np.arange(19)
    falling = 0.5 * (1 + np.cos(np.pi * (steps - warmup) / (20 - warmup)))
    expected = 0.01 * np.where(steps < warmup, (steps + 1) / (warmup + 1), falling)
    np.testing.assert_allclose(-np.diff(seen), expected, rtol=1e-4)


def test_averaged_weights_forget_the_first_ones_faster_than_the_decay(
    records: RecordSet, tmp_path: Path
) -> None:
    settings, seen = (
        training(steps=20, warmup_steps=0, evaluate_every=20, learning_rate=0.01, ema_decay=0.6),
        [],
    )
    module = Slope()
    fit(
        module.objective(seen),
        [records],
        [records],
        settings,
        COMPUTE,
        seed=0,
        folder=tmp_path,
        log=lambda *_: None,
    )
    last = seen[-1] - 0.01 * 0.5 * (1 + np.cos(np.pi * 19 / 20))
    average, *later = [*seen[1:], last]
    for step, value in enumerate(later, 2):
        decay = min(0.6, step / (9 + step))
        average = decay * average + (1 - decay) * value
    assert module.number.item() == pytest.approx(average, rel=1e-6)


def test_records_in_the_memory_of_a_device_give_the_same_training(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, from_disk = [], Records.__getitem__

    def watched(self: Records, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        read.append(len(index))
        return from_disk(self, index)

    monkeypatch.setattr(Records, "__getitem__", watched)
    expected = run(records, tmp_path / "disk", training(class_balance_power=0.5))
    assert set(read) == {8}
    read.clear()
    monkeypatch.setattr(devices, "has_room", lambda *_: True)
    assert run(records, tmp_path / "memory", training(class_balance_power=0.5)) == expected
    assert read == [64, 64], "the training records once, and the validation records once"


def test_the_records_of_an_ended_training_leave_the_memory_of_a_gpu(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[weakref.ref[torch.Tensor]] = []
    copy = torch.empty

    def watched(*shape: Any, **settings: Any) -> torch.Tensor:
        made = copy(*shape, **settings)
        if shape == ((64, 8, SAMPLES),):
            copied.append(weakref.ref(made))
        return made

    monkeypatch.setattr(torch, "empty", watched)
    monkeypatch.setattr(devices, "has_room", lambda *_: True)
    run(records, tmp_path / "ended", training())
    with pytest.raises(RuntimeError, match="cut off"):
        run(records, tmp_path / "cut", training(), stop_at=30)
    assert [one() for one in copied] == [None] * 4


def test_records_go_to_a_gpu_if_they_fit_in_half_of_its_free_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (900, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 200)
    assert devices.has_room(torch.device("cuda:0"), 500)
    assert not devices.has_room(torch.device("cuda:0"), 501)
    assert not devices.has_room(torch.device("cpu"), 1)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_results_of_a_gpu_are_read_at_evaluations_only(
    records: RecordSet, tmp_path: Path, ema_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With twice as many steps between evaluations, a training reads no more."""
    reads: list[str] = []
    for name in ("item", "__bool__", "__float__", "__int__", "tolist", "numpy"):

        def read(self: torch.Tensor, *args: object, name: str = name, **more: object) -> object:
            reads.append(name)
            return getattr(torch._C.TensorBase, name)(self, *args, **more)

        monkeypatch.setattr(torch.Tensor, name, read)

    def count(steps: int, folder: str) -> int:
        reads.clear()
        settings = training(steps=steps, evaluate_every=steps // 2, ema_decay=ema_decay)
        run(records, tmp_path / folder, settings)
        return len(reads)

    assert count(40, "cpu") > count(20, "cpu, half") + 19
    monkeypatch.setattr(devices, "is_asynchronous", lambda _: True)
    assert count(40, "gpu") == count(20, "gpu, half") > 0


def test_a_gpu_finds_a_divergence_at_the_next_evaluation(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "is_asynchronous", lambda _: True)
    plain, calls = Network().objective(), []

    def loss(*batch: torch.Tensor) -> dict[str, torch.Tensor]:
        calls.append(0)
        factor = float("inf") if len(calls) == 26 else 1
        return {"loss": plain.loss(*batch)["loss"] * factor}

    objective = replace(plain, loss=loss, validate=lambda *_: {"loss": torch.zeros(())})
    with pytest.raises(EcgforgeError, match="diverged at step 30: the sum of the last losses is"):
        fit(
            objective,
            [records],
            [records],
            training(),
            COMPUTE,
            seed=0,
            folder=tmp_path / "c",
            log=lambda *_: None,
        )
    state = torch.load(tmp_path / "c" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 20


def test_it_learns(records: RecordSet, tmp_path: Path) -> None:
    network = Network()
    objective = network.objective()
    before = objective.loss(*Records([records])[np.arange(64)], torch.Generator())["loss"].item()
    outcome = fit(
        objective,
        [records],
        [records],
        training(steps=100),
        COMPUTE,
        seed=0,
        folder=tmp_path / "c",
        log=lambda *_: None,
    )
    assert outcome.best < before / 3


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_it_trains_in_mixed_precision_as_on_a_gpu(
    records: RecordSet, tmp_path: Path, ema_decay: float
) -> None:
    settings = training(steps=100, ema_decay=ema_decay)
    outcome, weights, _ = run(records, tmp_path / "full", settings)
    mixed = COMPUTE.model_copy(update={"precision": "bf16-mixed"})
    rounded, others, _ = run(records, tmp_path / "mixed", settings, compute=mixed)
    assert others != weights
    assert rounded.best == pytest.approx(outcome.best, rel=0.1)


def test_it_stops_early_and_keeps_the_best_weights(records: RecordSet, tmp_path: Path) -> None:
    network = Network()
    losses = iter([0.5, 0.3, 0.4, 0.45, 0.2])
    kept = []

    def summarise(_: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        kept.append(save(network.state_dict()))
        return {"loss": next(losses)}

    plain = network.objective()
    objective = Objective(
        network,
        plain.parameters,
        plain.loss,
        plain.validate,
        summarise,
        "loss",
        higher_is_better=False,
    )
    settings = training(steps=200, patience=2)
    outcome = fit(
        objective,
        [records],
        [records],
        settings,
        COMPUTE,
        seed=0,
        folder=tmp_path / "c",
        log=lambda *_: None,
    )
    assert outcome == Outcome(40, pytest.approx(0.3), stopped_early=True)
    assert save(network.state_dict()) == kept[1]


def test_the_global_generator_decides_nothing_and_is_left_alone(
    records: RecordSet, tmp_path: Path
) -> None:
    weights = []
    for number in range(2):
        torch.manual_seed(number)
        weights.append(run(records, tmp_path / str(number), training())[1])
        after = torch.rand(1)
        torch.manual_seed(number)
        assert torch.equal(after, torch.rand(1))
    assert weights[0] == weights[1]


def test_divergence_is_an_error_that_keeps_the_last_good_checkpoint(
    records: RecordSet, tmp_path: Path
) -> None:
    network = Network()
    plain, calls = network.objective(), []

    def loss(
        signals: torch.Tensor, labels: torch.Tensor, noise: torch.Generator
    ) -> dict[str, torch.Tensor]:
        calls.append(0)
        return {
            "loss": plain.loss(signals, labels, noise)["loss"]
            * (float("nan") if len(calls) > 25 else 1)
        }

    objective = Objective(
        network, plain.parameters, loss, plain.validate, mean_losses, "loss", higher_is_better=False
    )
    with pytest.raises(EcgforgeError, match="diverged at step 25.*nan"):
        fit(
            objective,
            [records],
            [records],
            training(),
            COMPUTE,
            seed=0,
            folder=tmp_path / "c",
            log=lambda *_: None,
        )
    state = torch.load(tmp_path / "c" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 20
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["loss", "other"])
def test_a_validation_that_is_not_finite_is_divergence(
    records: RecordSet, tmp_path: Path, name: str, value: float
) -> None:
    network, logged = Network(), []
    losses = iter([{"loss": 0.5, "other": 0.5}, {"loss": 0.4, "other": 0.5, name: value}])
    objective = replace(network.objective(), summarise=lambda _: next(losses))
    with pytest.raises(EcgforgeError, match=f"diverged at step 20: validation {name} is {value};"):
        fit(
            objective,
            [records],
            [records],
            training(),
            COMPUTE,
            seed=0,
            folder=tmp_path / "c",
            log=lambda found, at: logged.append(at) if "loss/validation" in found else None,
        )
    assert logged == [10]
    assert torch.load(tmp_path / "c" / "last.ckpt", weights_only=True)["global_step"] == 10


@pytest.mark.parametrize(("steps", "every", "points"), [(200, 50, 40), (120, 60, 40), (30, 10, 30)])
def test_training_losses_are_curves_also_of_short_trainings(
    records: RecordSet, tmp_path: Path, steps: int, every: int, points: int
) -> None:
    network = Network()
    seen: list[float] = []
    logged: list[tuple[int, float]] = []

    def loss(*batch: Any) -> dict[str, torch.Tensor]:
        found = network.objective().loss(*batch)
        if torch.is_grad_enabled():
            seen.append(found["loss"].item())
        return found

    def log(metrics: dict[str, float], step: int) -> None:
        if "loss/train" in metrics:
            logged.append((step, metrics["loss/train"]))

    fit(
        replace(network.objective(), loss=loss),
        [records],
        [records],
        training(steps=steps, evaluate_every=every),
        COMPUTE,
        seed=0,
        folder=tmp_path / "c",
        log=log,
    )
    assert len(logged) == points
    assert (logged[0][0], logged[-1][0]) == (steps // points, steps)
    before = 0
    for step, value in logged:
        assert value == pytest.approx(np.mean(seen[before:step])), f"the mean up to step {step}"
        before = step


def test_batches_balance_rhythms_and_depend_on_seed_and_step_alone(records: RecordSet) -> None:
    labels = records.labels

    def share(balance: float) -> float:
        batches = iter(Draws(labels, 32, balance, seed=5))
        return float(np.mean([labels[next(batches)].mean() for _ in range(200)]))

    assert share(0.0) == pytest.approx(0.25, abs=0.02)
    assert share(1.0) == pytest.approx(0.5, abs=0.02)
    assert 0.3 < share(0.5) < 0.42
    later = Draws(labels, 32, 0.5, seed=5)
    later.step = 7
    first = iter(Draws(labels, 32, 0.5, seed=5))
    drawn = [next(first) for _ in range(8)]
    np.testing.assert_array_equal(next(iter(later)), drawn[7])


def test_several_sets_are_read_as_one(records: RecordSet) -> None:
    both = Records([records.select(np.arange(10)), records.select(np.arange(40, 64))])
    signals, labels = both[np.array([12, 3, 33])]
    np.testing.assert_array_equal(signals.numpy(), records.signals(np.array([42, 3, 63])))
    np.testing.assert_array_equal(labels.numpy(), records.labels[[42, 3, 63]])
    np.testing.assert_allclose(
        Records([records]).scale(7).numpy(), records.signals().std(axis=(0, 2)), rtol=1e-5
    )
