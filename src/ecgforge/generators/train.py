"""Train a generator on a record set, one phase after the other."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ecgforge.generators.common import base, registry
from ecgforge.params import Compute, GeneratorSettings
from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import RecordSet
from ecgforge.training import devices
from ecgforge.training.batches import Records
from ecgforge.training.fit import Log, fit
from ecgforge.training.objective import Objective, in_phase, mean_losses


def train(
    name: str,
    settings: GeneratorSettings,
    records: RecordSet,
    compute: Compute,
    folder: Path,
    log: Log,
) -> base.Generator:
    """Train a generator on the training split of `records`, with its validation split.

    Args:
        name: the generator's name.
        settings: its parameters.
        records: a record set with both splits.
        compute: devices, precision and threads.
        folder: for the checkpoints of each phase; a later call resumes from them.
        log: receives the metrics. Steps count over all phases; the name of a metric has its phase
            if there are several, see `training.objective.in_phase`.

    Returns:
        The trained generator, in evaluation mode.
    """
    about = records.about
    train_split, validation = records.split("train"), records.split("validation")
    shape = base.Shape(len(LEADS), about.samples, len(about.rhythms), about.sampling_rate)
    generator = registry.create(
        name, shape, settings.network, Records([train_split]).scale(), settings.seed
    )
    generator.start(train_split)
    done = 0
    for number, phase in enumerate(generator.phases):

        def log_phase(
            metrics: dict[str, float], step: int, phase: str = phase, done: int = done
        ) -> None:
            several = len(generator.phases) > 1
            log(in_phase(metrics, phase) if several else metrics, done + step)

        seed = settings.seed * len(generator.phases) + number
        fit(
            objective(generator, phase),
            [train_split],
            [validation],
            settings.training[phase],
            compute,
            seed=seed,
            folder=folder / phase,
            log=log_phase,
        )
        done += settings.training[phase].steps
    with devices.placed(generator, compute):
        generator.eval().finish(train_split)
    return generator


def objective(generator: base.Generator, phase: str) -> Objective:
    """Return what a phase minimises and monitors."""

    def loss(signals: Tensor, labels: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        return generator.loss(signals, labels, phase, noise)

    trained = generator.trainable(phase)
    return Objective(generator, trained, loss, loss, mean_losses, "loss", higher_is_better=False)
