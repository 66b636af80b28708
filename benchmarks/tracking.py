"""Measure the cost of tracking on a SQLite file in a temporary folder.

    python benchmarks/tracking.py

The limit is 2 % of a run's time. Curves are logged for half a minute while a loop computes in place
of a training. Events that happen once per run, such as registration, are reported in seconds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

TRAINING = 30.0  # s
STEP = 0.1  # s; a real training logs at evaluations, which are seconds apart
CURVES = 5
MODELS = 5
SAMPLES = 1000


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = [
            [nn.Conv1d(8 if n == 0 else 64, 64, 7, padding=3), nn.BatchNorm1d(64), nn.ReLU()]
            for n in range(10)
        ]
        self.body = nn.Sequential(*[layer for block in blocks for layer in block])
        self.head = nn.Linear(64, 7)

    def forward(self, signals: Tensor) -> Tensor:
        return self.head(self.body(signals).mean(-1))


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"{what:<58} {time.perf_counter() - started:8.2f} s")


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    with timed("import ecgforge.tracking"):
        from ecgforge.model_versions import models
        from ecgforge.tracking import runs, store
    with timed("create the database, including the import of MLflow"):
        store.initialise()
    with timed("open it in a new process"):
        store.client().search_experiments()

    key = runs.RunKey(
        "classifier", "merged", 0, simulated=True, setting="TrRTeR", backbone="resnet1d"
    )
    inputs = [
        runs.DatasetInput("merged", folder / "merged", "0" * 32 + ".dir", "training", "simulated")
    ]
    for name in ("first run: open and end it", "second run: open and end it"):
        with timed(name), runs.tracked(key, fingerprint=name, params={"lr": 0.1}, inputs=inputs):
            pass

    wall = cpu = 0.0
    with runs.tracked(
        key, fingerprint="curves", params={"lr": 0.1}, inputs=inputs, resume_file=folder / "unsent"
    ) as run:
        started, busy = time.perf_counter(), time.process_time()
        for step in range(int(TRAINING / STEP)):
            while time.perf_counter() < started + (step + 1) * STEP:
                np.linalg.svd(np.ones((30, 30)))
            before, before_cpu = time.perf_counter(), time.process_time()
            run.log({f"curve_{n}": step / (n + 1) for n in range(CURVES)}, step)
            wall, cpu = wall + time.perf_counter() - before, cpu + time.process_time() - before_cpu
        total, busy = time.perf_counter() - started, time.process_time() - busy
    print(
        f"{f'curves: {CURVES * TRAINING / STEP:.0f} points while training {total:.0f} s':<58} "
        f"{wall:8.2f} s, {wall / total:.2%}"
    )
    print(f"{'of the CPU time':<58} {cpu:8.2f} s, {cpu / busy:.2%}")

    example = np.zeros((2, 8, SAMPLES), dtype=np.float32)
    with runs.tracked(key, fingerprint="models", params={"lr": 0.1}, inputs=inputs) as run:
        for number in range(MODELS):
            torch.manual_seed(number)
            network = Network()
            with timed(
                f"register model {number + 1}"
                + (", including the import of mlflow.pytorch and Lightning" if number == 0 else "")
            ):
                models.log_classifier(run, network, example, list("abcdefg"), name=key.model_name)


if __name__ == "__main__":
    main()
