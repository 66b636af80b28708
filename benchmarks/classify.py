"""Measure the speed of `ecgforge classify` in records per second, and the share of its parts.

    .venv/bin/python benchmarks/classify.py [records] [workers]

Half of the records are simulated at 100 Hz and half at 500 Hz, with twelve leads of ten seconds.
The classifier is the untrained one of the demo profile. The time to import packages and to load the
version's files is not included; `time ecgforge classify` measures it.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BATCH = 32


def seconds(work: Callable[[Any], Any], over: Iterable[Any]) -> tuple[float, list[Any]]:
    """Return the CPU time of a loop in s, and its results; other processes affect it less."""
    start = time.process_time()
    found = [work(one) for one in over]
    return time.process_time() - start, found


def core_seconds() -> float:
    """Return the CPU time of this process and its children, in s."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(records: int, workers: int) -> None:
    # Imported here, because the processes that read and prepare records import this file and do not
    # need the rest.
    import numpy as np
    import torch

    from ecgforge.classifiers.common import registry
    from ecgforge.commands.classify_records import answers, records_in
    from ecgforge.params import Params, SimulatedSource
    from ecgforge.preparation.preprocessing import prepare_recording
    from ecgforge.records.rhythms import RHYTHMS
    from ecgforge.registry.serving import Predictor
    from ecgforge.sources import simulated
    from ecgforge.wfdb_io import files as wfdb_files

    params = Params.read(Path("params.yaml"))
    predictor = Predictor(
        registry.create(params.classifier, RHYTHMS, torch.full((8,), 0.2), seed=0).eval(),
        params.preprocessing,
        "mV",
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for layout in ("ptbxl", "chapman"):
            settings = SimulatedSource(
                kind="simulated", layout=layout, records=records // 2, seed=0
            )
            simulated.write(Path(folder) / layout, settings)
        files = records_in([Path(folder)])
        for count in sorted({1, workers}):
            start, before = time.perf_counter(), core_seconds()
            good = sum(
                answer.probabilities is not None for answer in answers(predictor, files, count)
            )
            taken, core = time.perf_counter() - start, core_seconds() - before
            print(
                f"{good} of {len(files)} records, read and prepared by {count} processes: "
                f"{len(files) / taken:.0f}/s of wall-clock time"
            )
            print(
                f"  {taken:.1f} s, and {core:.1f} s of CPU time, including the start of the "
                "processes"
            )
        reading, recordings = seconds(lambda file: wfdb_files.read(*file), files)
        preparing, signals = seconds(
            lambda one: prepare_recording(one, predictor.preprocessing, "mV"), recordings
        )
        stacks = [
            np.stack(signals[start : start + BATCH]) for start in range(0, len(signals), BATCH)
        ]
        network, _ = seconds(predictor.probabilities, stacks)
        whole = reading + preparing + network
        shares = {"reading": reading, "preparing": preparing, "network": network}
        shares = [
            f"{name} {part / whole:.0%} ({1000 * part / len(files):.1f} ms)"
            for name, part in shares.items()
        ]
        print(f"of the CPU time per record: {', '.join(shares)}")


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 1000,
        int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count() or 1,
    )
