"""Estimate the work of a profile: cells, trainings, their time on this machine, memory and disk;
and the smallest gain that it can detect.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from ecgforge import console, rounds
from ecgforge.classifiers.common import registry as classifiers
from ecgforge.classifiers.common.base import Classifier
from ecgforge.commands import foresight, workload
from ecgforge.commands.chain import longest_chain
from ecgforge.generators.common import registry as generators
from ecgforge.generators.common.base import Generator, Shape
from ecgforge.params import FolderSource, Params, PhysionetSource, SimulatedSource, checked
from ecgforge.records.leads import LEADS, STANDARD_LEADS
from ecgforge.records.record_set import About, RecordSet
from ecgforge.records.rhythms import RHYTHMS
from ecgforge.sources import folder
from ecgforge.training import devices
from ecgforge.workers import slots

PREPARED = Path("data/prepared")
# records of PTB-XL 1.0.3 and of Chapman-Shaoxing 1.0.0 on PhysioNet
PUBLISHED = {"ptbxl": 21799, "chapman": 45152}
TRAINED = 0.8  # share of a dataset's records in the training split
TESTED = 0.1  # share in the test split
START = 15.0  # s before the first cell: imports, MLflow's new database, the parameters
STAGE = 2.0  # s of overhead per stage, mostly of DVC
# time of a training step relative to the network alone: optimiser, averaged weights, validation,
# checkpoints
LOOP = 1.5
# s for all quality scores of a record set: constant, and for each record of a sample
SCORED, SCORED_RECORD = 3.0, 0.025
EMBEDDED, COMPARED = 6e-4, 2e-8  # s per record, and per pair of records, on one core
PARTS = 3  # timed steps, after one to warm up
FEW = 4  # records in a step that shows whether a whole batch would take long
LONG = 10.0  # s: a step that takes longer is estimated from one with `FEW` records
RECORD, ROW = 2000, 100  # bytes of a training record in memory, and of its row on disk; measured
RAW_SECONDS, RAW_BYTES = 10, 2  # of a raw record and of a sample of it
HEADER = 4096  # bytes of a header on disk: one block of the file system


@dataclass(frozen=True)
class Estimate:
    """The work of a study, and its time on this machine in seconds.

    Attributes:
        params: the parameters.
        counts: training records by dataset and rhythm.
        works: the work by stage.
        seconds: of all cells of a stage, one after the other.
        parallel: seconds with `jobs` cells in parallel, one for each `place` (GPU or core), and of
            the start.
        chain: seconds of the longest chain of cells, each of which waits for the one before.
        speeds: of the networks.
    """

    params: Params
    counts: workload.Counts
    works: dict[str, workload.Work]
    seconds: dict[str, float]
    parallel: float
    chain: float
    jobs: int
    place: str
    speeds: _Speeds

    @property
    def cells(self) -> int:
        return sum(work.cells for work in self.works.values())

    @property
    def serial(self) -> float:
        """Seconds of all cells one after the other."""
        return sum(self.seconds.values())

    @property
    def known(self) -> bool:
        """Whether the numbers of records come from prepared datasets."""
        return all(_prepared(self.params, dataset) for dataset in self.params.record_sets)


def estimate(params: Params) -> Estimate:
    """Estimate the time of a study from a few timed steps of each network, on the device of
    trainings.
    """
    counts = {dataset: _counts(params, dataset) for dataset in params.record_sets}
    devices.set_up(params.active.compute)
    speeds = _speeds(params, max(map(len, counts.values())))
    works = workload.workload(params, counts)
    seconds = _seconds(params, works, speeds)
    jobs, place = slots(params.active.compute.accelerator != "cpu")
    return Estimate(
        params, counts, works, seconds, *_times(params, counts, speeds), jobs, place, speeds
    )


def _times(params: Params, counts: workload.Counts, speeds: _Speeds) -> tuple[float, float]:
    """Return the seconds of a study in parallel, and those of its longest chain."""

    def of(works: Mapping[str, workload.Work]) -> dict[str, float]:
        return _seconds(params, works, speeds)

    jobs, _ = slots(params.active.compute.accelerator != "cpu")
    chain = longest_chain(params, counts, of)
    shared = sum(of(workload.workload(params, counts)).values()) / jobs
    return START + max(chain, shared), chain


def show(params: Params) -> None:
    """Print a table of the stages: cells, trainings, generated records and time. Print a table of
    the gains that the study can detect, and that larger ones could.

    The times are estimates, see `estimate`.
    """
    found = estimate(params)
    table = Table("stage", title=f"profile {params.profile}")
    for heading in (
        "cells",
        "classifiers, steps",
        "generators trained",
        "records generated",
        "time",
    ):
        table.add_column(heading, justify="right")
    for stage, work in found.works.items():
        table.add_row(
            stage,
            str(work.cells),
            *(f"{one:,}" if one else "" for one in _sums(work)),
            duration(found.seconds[stage]),
        )
    console.out.print(table)
    console.out.print(
        f"{found.cells} cells: {duration(found.serial)} one after the other, about "
        f"{duration(found.parallel)} with {found.jobs} in parallel, one for each {found.place}. "
        "The longest chain of cells, each of which waits for the one before, takes "
        f"{duration(found.chain)}."
    )
    console.out.print(_space(found))
    source = "the prepared datasets" if found.known else "the expected sizes of the sources"
    console.out.print(
        f"The numbers of records come from {source}. The steps were timed on this machine, on "
        f"{_device(params)}."
    )
    records = _records(params)
    console.out.print(
        foresight.table(params, records, lambda plan: duration(_of_plan(plan, found)))
    )
    console.out.print(foresight.claim_table(params, records))
    console.out.print(foresight.notes(params))
    if console.reporting():
        console.report(**_tree(found, records))


def _sums(work: workload.Work) -> list[int]:
    return [sum(part.values()) for part in (work.steps, work.trainings, work.records_generated)]


def _of_plan(plan: foresight.Plan, found: Estimate) -> float:
    """Return the seconds of a plan in parallel."""
    bigger = {
        name: {rhythm: plan.factor * count for rhythm, count in _counts(plan.params, name).items()}
        for name in plan.params.record_sets
    }
    return _times(plan.params, bigger, found.speeds)[0]


def _tree(found: Estimate, records: foresight.Records) -> dict[str, Any]:
    """Return what `show` prints, with times in seconds; a gain is null if it decides nothing."""
    params = found.params
    columns = ("classifier_steps", "generators_trained", "records_generated")
    return {
        "profile": params.profile,
        "device": _device(params),
        "cells": found.cells,
        "serial_seconds": found.serial,
        "parallel_seconds": found.parallel,
        "longest_chain_seconds": found.chain,
        "jobs": found.jobs,
        "memory_bytes": _memory(found.counts),
        "disk_bytes": _disk(params, found.counts),
        "records_from": "prepared" if found.known else "expected",
        "training_records": found.counts,
        "stages": [
            {"stage": stage, "cells": work.cells, "seconds": found.seconds[stage]}
            | dict(zip(columns, _sums(work), strict=True))
            for stage, work in found.works.items()
        ],
        "detectable_gains": [
            {
                "study": plan.name,
                "parallel_seconds": _of_plan(plan, found),
                "macro_f1": foresight.gains(plan.params, records.times(plan.factor)),
            }
            for plan in foresight.plans(params)
        ],
        "detectable_gains_of_claims": foresight.claim_gains(params, records),
    }


def _space(found: Estimate) -> str:
    """Describe the memory of the largest training, and the disk that the record sets need."""
    memory, parts, jobs = _memory(found.counts), _disk(found.params, found.counts), found.jobs
    listed = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
    gpu = (
        f" The largest step took {_size(torch.cuda.max_memory_allocated())} on the GPU."
        if torch.cuda.is_initialized()
        else ""
    )
    return (
        f"By estimate, the largest training needs {_size(memory)} of memory, and {jobs} in "
        f"parallel {_size(jobs * memory)}.{gpu} Record sets need {_size(sum(parts.values()))} on "
        f"disk ({listed}), and the same again in DVC's cache, unless the file system can share "
        "blocks. Models, results and MLflow's files are not counted."
    )


def _memory(counts: workload.Counts) -> float:
    """Return the memory of the largest training in bytes: the peak of this process, which has run a
    step of each network, and the training records.
    """
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak + RECORD * max(sum(one.values()) for one in counts.values())


def _disk(params: Params, counts: workload.Counts) -> dict[str, float]:
    """Return the bytes of the record sets that the study keeps, by kind.

    Records of a folder of the user stay there, and those of sweeps are temporary.

    Args:
        counts: training records by dataset and rhythm.
    """
    preprocessing, raw = params.preprocessing, 0.0
    for name in params.sources:
        source = params.source(name)
        if not isinstance(source, FolderSource):
            low = source.layout == "ptbxl" and preprocessing.sampling_rate <= 100
            samples = RAW_SECONDS * (100 if low else 500) * len(STANDARD_LEADS)
            raw += _expected(source) * (RAW_BYTES * samples + HEADER)
    samples = round(preprocessing.duration * preprocessing.sampling_rate)
    record = np.dtype(np.float32).itemsize * len(LEADS) * samples + ROW
    works = workload.workload(params, counts)
    prepared = sum(sum(_all_counts(params, name).values()) for name in params.record_sets)
    synthetic = sum(works["synthesize"].records_generated.values())
    return {"raw": raw, "prepared": record * prepared, "synthetic": record * synthetic}


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _device(params: Params) -> str:
    compute = params.active.compute
    if devices.on_gpu(compute):
        return f"{torch.cuda.get_device_name()}, in {devices.precision(compute)}"
    return f"a CPU with {compute.threads} thread(s)"


@dataclass(frozen=True)
class _Speeds:
    """Seconds by backbone or generator: of a training step, all steps of a training, a record."""

    step: dict[str, float]
    training: dict[str, float]
    record: dict[str, float]


def _speeds(params: Params, rhythms: int) -> _Speeds:
    names = params.active.generators
    return _Speeds(
        _seconds_a_step(params, rhythms),
        {name: _seconds_of_training(params, name, rhythms) for name in names},
        {name: _seconds_a_record(params, name, rhythms) for name in names},
    )


def _seconds(
    params: Params, works: Mapping[str, workload.Work], speeds: _Speeds
) -> dict[str, float]:
    """Return the seconds of all cells of each stage, one after the other."""
    return {stage: _seconds_of_stage(params, work, speeds) for stage, work in works.items()}


def _seconds_of_stage(params: Params, work: workload.Work, speeds: _Speeds) -> float:
    scoring = SCORED + SCORED_RECORD * params.active.quality.records
    seconds = STAGE * work.cells + scoring * work.scored
    seconds += sum(
        EMBEDDED * (made + real) + COMPARED * made * real for made, real in work.searched
    )
    seconds += sum(LOOP * speeds.step[name] * steps for name, steps in work.steps.items())
    seconds += sum(LOOP * speeds.training[name] * count for name, count in work.trainings.items())
    return seconds + sum(
        speeds.record[name] * count for name, count in work.records_generated.items()
    )


def duration(seconds: float) -> str:
    """Return a time in hours or minutes, for display."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _counts(params: Params, dataset: str) -> dict[str, int]:
    """Training records by rhythm."""
    if found := _prepared(params, dataset):
        return found.split("train").counts()
    chosen = rounds.parse(dataset)
    share = 1 - 2 / chosen.count if chosen else TRAINED
    return _share(_all_counts(params, rounds.base(dataset)), share)


def _all_counts(params: Params, dataset: str) -> dict[str, int]:
    """Records by rhythm in all splits."""
    if found := _prepared(params, dataset):
        return found.counts()
    own, others = Counter[str](), 0
    for source in map(params.source, _sources(params, dataset)):
        if isinstance(source, FolderSource):
            own += folder.counts(source)
        else:
            others += _expected(source)
    least = params.active.preparation.min_records
    every = {rhythm: own[rhythm] + round(others / len(RHYTHMS)) for rhythm in RHYTHMS}
    return {rhythm: count for rhythm, count in every.items() if count >= least} or every


def _records(params: Params) -> foresight.Records:
    everything = {dataset: _all_counts(params, dataset) for dataset in params.datasets}
    return foresight.Records(
        everything,
        {
            dataset: found.split("test").counts()
            if (found := _prepared(params, dataset))
            else _share(everything[dataset], TESTED)
            for dataset in params.datasets
        },
    )


def _share(counts: Mapping[str, int], share: float) -> dict[str, int]:
    return {rhythm: round(share * count) for rhythm, count in counts.items()}


def _sources(params: Params, dataset: str) -> list[str]:
    return params.merged if rounds.base(dataset) == "merged" else [rounds.base(dataset)]


def _prepared(params: Params, dataset: str) -> RecordSet | None:
    """The prepared dataset if it exists and its about.json fits the active profile, or None."""
    if not (PREPARED / dataset).exists():
        return None
    found = RecordSet.open(PREPARED / dataset)
    made, sources = found.about.made, _sources(params, dataset)
    wanted = {"preprocessing": params.preprocessing, "preparation": params.active.preparation}
    same = all(
        made[name] == section.model_dump(mode="json") for name, section in wanted.items()
    ) and set(made["by_dataset"]) == {*sources}
    return (
        found if same and all(_holds(found.about, params, source) for source in sources) else None
    )


def _holds(about: About, params: Params, name: str) -> bool:
    """Whether a record set can come from the source; about.json does not name a real source."""
    source = params.source(name)
    if isinstance(source, SimulatedSource):
        return (
            about.origin != "real" and about.made["by_dataset"][name]["catalogue"] == source.records
        )
    return isinstance(source, FolderSource) or about.origin != "simulated"


def _expected(source: SimulatedSource | PhysionetSource) -> int:
    if isinstance(source, SimulatedSource):
        return source.records
    if source.limit_per_rhythm is None:
        return PUBLISHED[source.layout]
    return source.limit_per_rhythm * len(RHYTHMS)


def _timed(work: Callable[[int], object], batch: int) -> float:
    """Return the seconds of `work` with a batch of records.

    A step of a large network takes minutes on a CPU. Few records are timed then, and the time is
    taken to be proportional to their number.
    """
    few = min(batch, FEW)
    work(few)  # to warm up
    seconds = _least(work, few, 1) * batch / few
    if seconds > LONG:
        return seconds
    work(batch)
    return _least(work, batch, PARTS)


def _least(work: Callable[[int], object], batch: int, count: int) -> float:
    """Return the shortest time of `count` repeats, s."""
    times = [_clock()]
    for _ in range(count):
        work(batch)
        times.append(_clock())
    return min(after - before for before, after in pairwise(times))


def _clock() -> float:
    """Return the CPU time of a thread, s, which other processes do not change; with a GPU, the time
    of day when it has finished.
    """
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def _signals(params: Params, batch: int) -> torch.Tensor:
    samples = round(params.preprocessing.duration * params.preprocessing.sampling_rate)
    device = devices.device(params.active.compute)
    source = torch.Generator(device).manual_seed(0)
    return torch.randn(batch, len(LEADS), samples, generator=source, device=device)


def _labels(params: Params, batch: int, rhythms: int) -> torch.Tensor:
    return torch.arange(batch, device=devices.device(params.active.compute)) % rhythms


def _seconds_a_step(params: Params, rhythms: int) -> dict[str, float]:
    """Seconds per training step of each backbone."""
    found, compute = {}, params.active.compute
    others = map(params.classifier_settings, params.sweep_targets.backbones)
    for settings in (params.classifier, *others):
        classifier = classifiers.create(
            settings, [str(label) for label in range(rhythms)], torch.ones(len(LEADS)), seed=0
        ).train()
        classifier.to(devices.device(compute))

        def step(batch: int, classifier: Classifier = classifier) -> None:
            signals, labels = _signals(params, batch), _labels(params, batch, rhythms)
            with devices.autocast(compute):
                loss = classifier.objective().loss(signals, labels, torch.Generator())["loss"]
            loss.backward()

        found[settings.backbone] = _timed(step, settings.training.batch_size)
    return found


def _generator(params: Params, name: str, rhythms: int) -> Generator:
    shape = Shape(
        len(LEADS), _signals(params, 1).shape[-1], rhythms, params.preprocessing.sampling_rate
    )
    return generators.create(
        name, shape, params.generator(name).network, torch.ones(len(LEADS)), seed=0
    ).to(devices.device(params.active.compute))


def _seconds_of_training(params: Params, name: str, rhythms: int) -> float:
    """Seconds of all training steps of a generator."""
    generator, total = _generator(params, name, rhythms).train(), 0.0
    compute = params.active.compute
    for phase, training in params.generator(name).training.items():

        def step(batch: int, phase: str = phase) -> None:
            signals, labels = _signals(params, batch), _labels(params, batch, rhythms)
            random = torch.Generator(signals.device).manual_seed(0)
            with devices.autocast(compute):
                loss = generator.loss(signals, labels, phase, random)["loss"]
            loss.backward()

        total += training.steps * _timed(step, training.batch_size)
    return total


def _seconds_a_record(params: Params, name: str, rhythms: int) -> float:
    generator, chunk = (
        _generator(params, name, rhythms).eval(),
        min(params.active.synthesis.chunk, 32),
    )
    sampling = checked(
        type(generator).Sampling, params.generator(name).sampling, f"generators.{name}.sampling"
    )

    def draw(records: int) -> None:
        with devices.autocast(params.active.compute):
            generator.sample(_labels(params, records, rhythms), torch.arange(records), sampling)

    return _timed(draw, chunk) / chunk
