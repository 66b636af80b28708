"""Generate a synthetic record set with a trained generator, in chunks."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.generators.common.base import Generator
from ecgforge.params import Compute, StrictConfig, Synthesis, checked
from ecgforge.records.record_set import SPLITS, RecordSet, write_record_set
from ecgforge.training import devices
from ecgforge.workers import init_worker

Counts = Mapping[str, Mapping[str, int]]  # records to generate, by split and rhythm


def plan(rhythms: tuple[str, ...], wanted: Counts, seed: int) -> pd.DataFrame:
    """Return a row for each record to generate: rhythm, label, split, number and a unique seed.

    The record's seed depends only on `seed`, the split, the rhythm and the record's number in them,
    so that a larger set contains the smaller one.
    """
    rows = []
    for number, split in enumerate(SPLITS):
        for label, rhythm in enumerate(rhythms):
            count = wanted.get(split, {}).get(rhythm, 0)
            seeds = np.random.SeedSequence([seed, number, label]).generate_state(
                count, np.uint64
            ) >> np.uint64(1)
            rows += [(rhythm, label, split, index, int(one)) for index, one in enumerate(seeds)]
    return pd.DataFrame(rows, columns=["rhythm", "label", "split", "number", "seed"])


def check_rate(
    generator: Generator, name: str, rhythms: Sequence[str], wanted: Iterable[str], rate: float
) -> None:
    """Check that a generator can generate each of the rhythms `wanted` at a heart rate.

    Args:
        generator: the trained generator.
        name: of the generator or its version, for messages.
        rhythms: of the generator, in the order of their labels.
        wanted: some of them.
        rate: beats/min.

    Raises:
        EcgforgeError: it takes no rate, or had no training records of a rhythm at this rate.
    """
    for rhythm in wanted:
        limits = generator.heart_rates(rhythms.index(rhythm))
        if limits is None:
            raise EcgforgeError(
                f"{name} takes no heart rate: leave it out, or use the generator beat_diffusion"
            )
        slowest, fastest = limits
        if not slowest <= rate <= fastest:
            raise EcgforgeError(
                f"{name} learned {rhythm} from records of {math.ceil(slowest)} to "
                f"{math.floor(fastest)} beats/min, so it has no {rhythm} of {rate:g}: ask for a "
                "rate in this range"
            )


def synthesize(
    generator: Generator,
    name: str,
    sampling: dict[str, Any],
    wanted: Counts,
    synthesis: Synthesis,
    compute: Compute,
    source: RecordSet,
    made: dict[str, Any],
    out: Path,
) -> None:
    """Write a synthetic record set to `out`, in constant memory, on `compute.devices` processes or
    GPUs.

    Args:
        generator: the trained generator.
        name: the generator's name; becomes the records' origin.
        sampling: its sampling parameters.
        wanted: the number of records of each split and rhythm.
        synthesis: seed and chunk size.
        compute: devices and threads.
        source: the record set that trained the generator; the synthetic one has the same format.
        made: provenance to store in about.json.
        out: the new folder.

    Raises:
        EcgforgeError: a generated signal is not finite, or a rhythm cannot have the heart rate.
    """
    settings = checked(type(generator).Sampling, sampling, f"generators.{name}.sampling")
    if rate := getattr(settings, "heart_rate", None):
        asked = {rhythm for counts in wanted.values() for rhythm in counts if counts[rhythm]}
        check_rate(generator, name, source.about.rhythms, sorted(asked), rate)
    rows = plan(source.about.rhythms, wanted, synthesis.seed)
    about = replace(source.about, origin="synthetic", made=made)
    chunks = [
        rows.iloc[start : start + synthesis.chunk] for start in range(0, len(rows), synthesis.chunk)
    ]
    with write_record_set(out, about) as writer:
        generated = _generated(generator, settings, chunks, compute)
        for chunk, signals in zip(
            chunks, console.track(generated, f"synthesize {name}", len(chunks)), strict=True
        ):
            if not np.isfinite(signals).all():
                raise EcgforgeError(
                    f"{name} generated signals that are not finite: train it longer, or with a "
                    "lower learning_rate"
                )
            writer.append(signals, _table(chunk, name))


def _generated(
    generator: Generator, sampling: StrictConfig, chunks: Sequence[pd.DataFrame], compute: Compute
) -> Iterator[np.ndarray]:
    """Generate the records of each chunk, in order; they do not depend on the process."""
    if compute.devices == 1:
        sampler = Sampler(generator, sampling, compute, 0)
        yield from map(sampler.sample, chunks)
        return
    context = multiprocessing.get_context("spawn")  # a GPU can't be used in a fork
    places = context.SimpleQueue()
    for place in range(compute.devices):
        places.put(place)
    with ProcessPoolExecutor(
        compute.devices, context, _init_sampler, (generator, sampling, compute, places)
    ) as pool:
        try:
            # one chunk per process limits the memory
            for first in range(0, len(chunks), compute.devices):
                yield from pool.map(_sample_here, chunks[first : first + compute.devices])
        except BrokenProcessPool:
            raise EcgforgeError(
                "a process that generates records was killed, perhaps for lack of memory: run "
                "again, or lower synthesis.chunk"
            ) from None


class Sampler:
    """A generator on its device, with its sampling parameters."""

    def __init__(
        self, generator: Generator, sampling: StrictConfig, compute: Compute, place: int
    ) -> None:
        devices.set_up(compute)
        self.device, self.compute = devices.device(compute, place), compute
        self.generator, self.sampling = generator.to(self.device).eval(), sampling

    @torch.inference_mode()
    def sample(self, chunk: pd.DataFrame) -> np.ndarray:
        """Return the records of a chunk of the plan, `[records, leads, samples]`.

        A GPU computes them with the precision of trainings.
        """
        labels = torch.tensor(chunk["label"].to_numpy(), device=self.device)
        seeds = torch.tensor(chunk["seed"].to_numpy(), dtype=torch.int64)
        with devices.autocast(self.compute):
            made = self.generator.sample(labels, seeds, self.sampling)
        return made.float().cpu().numpy()


_sampler: Sampler  # of this process, if several generate records


def _init_sampler(
    generator: Generator, sampling: StrictConfig, compute: Compute, places: SimpleQueue[int]
) -> None:
    global _sampler
    init_worker()
    _sampler = Sampler(generator, sampling, compute, places.get())


def _sample_here(chunk: pd.DataFrame) -> np.ndarray:
    return _sampler.sample(chunk)


def _table(chunk: pd.DataFrame, name: str) -> pd.DataFrame:
    ids = [f"{row.split}-{row.rhythm}-{row.number:06d}" for row in chunk.itertuples()]
    table = pd.DataFrame(
        {"id": ids, "patient": ids, "dataset": "", "rhythm": chunk["rhythm"].to_numpy()}
    )
    return table.assign(split=chunk["split"].to_numpy(), age=np.nan, sex="", origin=name)
