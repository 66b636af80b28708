"""Measure trainings and sampling on a GPU, in under five minutes, and print a Markdown table.

    .venv/bin/python benchmarks/gpu.py [NETWORK ...]        # sizes of the profile gpu
    .venv/bin/python benchmarks/gpu.py --toy [NETWORK ...]  # sizes of the demo, few steps, on a CPU

It needs neither MLflow nor DVC nor data: the records are noise. A training is that of the study
(`ecgforge.training.fit`), with its evaluations and checkpoints. Its set-up is not counted: the rate
comes from the difference between a long and a short training. "Equal bytes" says whether two short
trainings end with the same weights. The peak is the measured rate of a large matrix product, in
bfloat16 on a GPU and in float32 on a CPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ecgforge.classifiers.common import registry as classifiers
from ecgforge.generators import synthesis
from ecgforge.generators.common import base
from ecgforge.generators.common import registry as generators
from ecgforge.generators.train import objective
from ecgforge.params import Compute, Params, Training, checked
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.training import devices
from ecgforge.training.fit import fit
from ecgforge.training.objective import Objective

PARAMS = Path(__file__).parent.parent / "params.yaml"
RHYTHMS = tuple("ABCDEFG")
SHAPE = base.Shape(leads=8, samples=1000, rhythms=len(RHYTHMS), sampling_rate=100)
SCALE = torch.ones(SHAPE.leads)
LONG = 3  # times as many steps as a short training


@dataclass(frozen=True)
class Size:
    """What is measured: a profile's networks, and how much of them.

    Attributes:
        profile: of params.yaml.
        steps: of a short training.
        records: in the record set.
        batch: largest batch, and records sampled at a time.
        product: rows and columns of the matrices of the peak.
        compute: device and threads.
    """

    profile: str
    steps: int
    records: int
    batch: int
    product: int
    compute: Compute


GPU = Size("gpu", 50, 2048, 256, 8192, Compute(accelerator="gpu", threads=4))
TOY = Size("demo", 2, 32, 4, 256, Compute(accelerator="cpu", threads=1))


@dataclass(frozen=True)
class Work:
    """A network's training: a new objective for each one, and the settings."""

    name: str
    start: Callable[[], Objective]
    training: Training


def works(params: Params, names: list[str]) -> Iterator[Work]:
    """Yield the trainings of the named networks, or of all: generators' phases, classifiers."""
    for name, settings in params.active.generators.items():
        for phase, training in settings.training.items():

            def start(name: str = name, phase: str = phase) -> Objective:
                return objective(generator(params, name), phase)

            if not names or name in names:
                yield Work(f"{name}, {phase}", start, training)
    for name in params.active.classifiers:
        own = params.classifier_settings(name)
        if not names or name in names:
            yield Work(
                name,
                lambda own=own: classifiers.create(own, RHYTHMS, SCALE, 0).objective(),
                own.training,
            )


def generator(params: Params, name: str) -> base.Generator:
    return generators.create(name, SHAPE, params.generator(name).network, SCALE, seed=0)


def record_set(folder: Path, count: int) -> RecordSet:
    """Write records of noise, with an equal share of each rhythm."""
    signals = np.random.default_rng(0).standard_normal((count, 8, SHAPE.samples), np.float32)
    ids = [str(number) for number in range(count)]
    rhythms = [RHYTHMS[number % len(RHYTHMS)] for number in range(count)]
    table = pd.DataFrame({"id": ids, "patient": ids, "rhythm": rhythms, "split": "train"})
    about = About(SHAPE.sampling_rate, SHAPE.samples, "mV", RHYTHMS, "simulated", {})
    with write_record_set(folder, about) as writer:
        writer.append(signals, table.assign(dataset="", age=np.nan, sex="", origin="simulated"))
    return RecordSet.open(folder)


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return the time of an action, with all that it leaves the device to do.

    It is CPU time where there is no GPU: other processes of a busy machine do not change it.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def peak(size: Size, device: torch.device) -> float:
    """Return the rate of a matrix product, FLOP/s: the best of five."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    one = torch.randn(size.product, size.product, device=device, dtype=kind)
    best = min(seconds(lambda: one @ one, device) for _ in range(5))
    return 2 * size.product**3 / best


def flops(work: Work, batch: int, device: torch.device) -> int:
    """Return the operations of the forward and backward passes of a training step."""
    found = work.start()
    found.module.to(device).train()
    signals = torch.randn(batch, 8, SHAPE.samples, device=device)
    labels = torch.arange(batch, device=device) % len(RHYTHMS)
    with FlopCounterMode(display=False) as counter:
        found.loss(signals, labels, torch.Generator(device).manual_seed(0))["loss"].backward()
    return counter.get_total_flops()


def trained(work: Work, steps: int, size: Size, records: RecordSet, folder: Path) -> nn.Module:
    """Train for some steps, with an evaluation after each short training's worth."""
    changes = {"steps": steps, "evaluate_every": size.steps, "patience": None}
    changes |= {"batch_size": min(size.batch, work.training.batch_size)}
    start, held_out = work.start(), records.select(np.arange(size.batch))
    fit(
        start,
        [records],
        [held_out],
        work.training.model_copy(update=changes),
        size.compute,
        seed=0,
        folder=folder,
        log=lambda *_: None,
    )
    return start.module


def measured(work: Work, size: Size, records: RecordSet, folder: Path, highest: float) -> str:
    """Return a row of the table of trainings."""
    device = devices.device(size.compute)
    modules: list[nn.Module] = []

    def train(steps: int) -> float:
        place = folder / f"{work.name} {len(modules)}"
        return seconds(lambda: modules.append(trained(work, steps, size, records, place)), device)

    train(size.steps)
    short = train(size.steps)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    long = train(LONG * size.steps)
    rate = (LONG - 1) * size.steps / max(long - short, 1e-9)
    first, second = (one.state_dict() for one in modules[:2])
    equal = all(torch.equal(first[key], second[key]) for key in first)
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if device.type == "cuda" else "-"
    batch = min(size.batch, work.training.batch_size)
    share = flops(work, batch, device) * rate / highest
    return (
        f"| {work.name} | {batch} | {rate:.1f} | {100 * share:.1f} % | {memory} | "
        f"{'yes' if equal else 'no'} |"
    )


def sampled(params: Params, name: str, size: Size) -> str:
    """Return a row of the table of sampling."""
    kind = generators.generator_class(name)
    settings = checked(kind.Sampling, params.generator(name).sampling, f"generators.{name}")
    sampler = synthesis.Sampler(generator(params, name), settings, size.compute, 0)
    rows = synthesis.plan(RHYTHMS, {"test": {"A": size.batch}}, seed=0)
    made: list[np.ndarray] = []
    times = [seconds(lambda: made.append(sampler.sample(rows)), sampler.device) for _ in range(2)]
    equal = "yes" if np.array_equal(*made) else "no"
    return f"| {name} | {size.batch} | {size.batch / times[-1]:.1f} | {equal} |"


def tables(size: Size, names: list[str]) -> Iterator[str]:
    """Yield the lines of both tables, each when it is known."""
    params = Params.read(PARAMS).with_profile(size.profile)
    device = devices.device(size.compute)
    devices.set_up(size.compute)
    highest = peak(size, device)
    place = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, toy size"
    yield f"{place}, torch {torch.__version__}, peak {highest / 1e12:.3g} TFLOP/s"
    yield ""
    yield "| training | batch | steps a second | share of peak | memory, GB | equal bytes |"
    yield "| --- | --- | --- | --- | --- | --- |"
    with tempfile.TemporaryDirectory() as scratch:
        records = record_set(Path(scratch) / "records", size.records)
        for work in works(params, names):
            yield measured(work, size, records, Path(scratch), highest)
    yield ""
    yield "| sampling | records at a time | records a second | equal bytes |"
    yield "| --- | --- | --- | --- |"
    for name, settings in params.active.generators.items():
        if settings.training and (not names or name in names):
            yield sampled(params, name, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="on a CPU, at the size of the demo")
    parser.add_argument("networks", nargs="*", help="generators and classifiers; all by default")
    given = parser.parse_args()
    if not given.toy and not torch.cuda.is_available():
        parser.error("there is no GPU: use --toy to try the program on a CPU")
    for line in tables(TOY if given.toy else GPU, given.networks):
        print(line, flush=True)


if __name__ == "__main__":
    main()
