"""Measure the CPU time of a training step in `fit`, against a bare loop of torch.

    .venv/bin/python benchmarks/fit.py [profile] [steps] [rounds]

Both have the networks and batches of the profile and one thread, and take turns, so that a busy
machine changes both alike. The time of `fit` is the difference of a long and a short training, so
that its set-up, its evaluation and its checkpoints are not counted. The bare loop has one batch in
memory, the loss, the gradients and AdamW. `fit` also draws batches and seeds, clips gradients,
averages weights and logs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ecgforge.classifiers.common import registry as classifiers
from ecgforge.generators.common import base
from ecgforge.generators.common import registry as generators
from ecgforge.params import Compute, Params, Training
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.training.fit import fit
from ecgforge.training.objective import Objective, mean_losses

RHYTHMS = tuple("ABCDEFG")
SHAPE = base.Shape(leads=8, samples=1000, rhythms=len(RHYTHMS), sampling_rate=100)
COMPUTE = Compute(accelerator="cpu", threads=1)
SHORT = 2  # steps
PHASES = {"diffwave": "denoiser", "time_vqvae": "prior"}


def record_set(folder: Path, records: int) -> RecordSet:
    """Write records of noise."""
    signals = np.random.default_rng(0).standard_normal((records, 8, SHAPE.samples), np.float32)
    ids = [str(number) for number in range(records)]
    rhythms = [RHYTHMS[number % len(RHYTHMS)] for number in range(records)]
    table = pd.DataFrame({"id": ids, "patient": ids, "rhythm": rhythms, "split": "train"})
    about = About(SHAPE.sampling_rate, SHAPE.samples, "mV", RHYTHMS, "simulated", {})
    with write_record_set(folder, about) as writer:
        writer.append(signals, table.assign(dataset="", age=np.nan, sex="", origin="simulated"))
    return RecordSet.open(folder)


def trainings(profile: str) -> Iterator[tuple[str, Callable[[], Objective], Training]]:
    """Yield name, a function that starts an objective, and settings of each training."""
    params = Params.read(Path("params.yaml"))
    found = params.profiles[profile]
    for name, phase in PHASES.items():
        settings = found.generators[name]

        def start(name: str = name, phase: str = phase) -> Objective:
            network = found.generators[name].network
            generator = generators.create(name, SHAPE, network, torch.ones(8), seed=0)

            def loss(*batch: torch.Tensor | torch.Generator) -> dict[str, torch.Tensor]:
                signals, labels, noise = batch
                return generator.loss(signals, labels, phase, noise)

            parameters = generator.trainable(phase)
            return Objective(generator, parameters, loss, loss, mean_losses, "loss", False)

        yield f"{name}, {phase}", start, settings.training[phase]
    own = found.classifiers[params.backbone]
    yield (
        own.backbone,
        lambda: classifiers.create(own, RHYTHMS, torch.ones(8), 0).objective(),
        own.training,
    )


def core_seconds(action: Callable[..., object], *arguments: object) -> float:
    start = time.process_time()
    action(*arguments)
    return time.process_time() - start


def train(start: Callable[[], Objective], settings: Training, records: RecordSet) -> None:
    with tempfile.TemporaryDirectory() as folder:
        where = {"seed": 0, "folder": Path(folder), "log": lambda *_: None}
        fit(start(), [records], [records.select(np.arange(7))], settings, COMPUTE, **where)


def bare(start: Callable[[], Objective], settings: Training, records: RecordSet) -> None:
    objective = start()
    objective.module.train()
    optimiser = torch.optim.AdamW(objective.parameters, settings.learning_rate, fused=True)
    signals = torch.from_numpy(records.signals(np.arange(settings.batch_size)))
    labels = torch.from_numpy(records.labels[: settings.batch_size])
    for step in range(settings.steps):
        optimiser.zero_grad()
        noise = torch.Generator().manual_seed(step)
        objective.loss(signals, labels, noise)["loss"].backward()
        optimiser.step()


def main() -> None:
    profile = sys.argv[1] if len(sys.argv) > 1 else "sample"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        records = record_set(Path(folder) / "records", 64)
        for name, start, training in trainings(profile):
            of = [
                training.model_copy(update={"steps": count, "evaluate_every": count})
                for count in (SHORT, SHORT + steps)
            ]
            found: dict[str, list[float]] = {"fit": [], "bare": []}
            for _ in range(rounds):
                for way, run in (("fit", train), ("bare", bare)):
                    short, long = (core_seconds(run, start, one, records) for one in of)
                    found[way].append(1000 * (long - short) / steps)
            least = {way: min(times) for way, times in found.items()}
            print(
                f"{name}, core ms a step of {training.batch_size}: fit {least['fit']:.1f}, bare "
                f"loop {least['bare']:.1f}, ratio {least['fit'] / least['bare']:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
