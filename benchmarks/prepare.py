"""Measure speed and peak memory of prepare; the memory should not grow with the records.

    .venv/bin/python benchmarks/prepare.py [workers]

A few records of ten seconds, 12 leads and 500 Hz are written and read repeatedly. Each number of
records runs in its own process.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb

from ecgforge.params import Preparation, Preprocessing
from ecgforge.preparation.prepare import RawSource, prepare
from ecgforge.records.leads import STANDARD_LEADS

SIZES = (1000, 8000)
WRITTEN = 20


def write_records(folder: Path) -> None:
    rng = np.random.default_rng(0)
    count = len(STANDARD_LEADS)
    for number in range(WRITTEN):
        signals = np.cumsum(rng.normal(0, 0.02, (5000, count)), axis=0)
        layout = {"fmt": ["16"] * count, "adc_gain": [1000.0] * count, "baseline": [0] * count}
        wfdb.wrsamp(
            f"r{number}",
            500,
            ["mV"] * count,
            list(STANDARD_LEADS),
            signals,
            write_dir=str(folder),
            **layout,
        )


def measure(folder: Path, records: int, workers: int) -> dict[str, float]:
    ids = [f"{number:06d}" for number in range(records)]
    catalogue = pd.DataFrame(
        {
            "id": ids,
            "patient": ids,
            "codes": [["SR"]] * records,
            "path": [f"r{n % WRITTEN}" for n in range(records)],
        }
    )
    source = RawSource(
        folder, catalogue.assign(age=60.0, sex="male", fold=np.nan), {"SR": "SR"}, set(), True
    )
    preprocessing = Preprocessing(sampling_rate=100, duration=10, band=(0.5, 40), max_amplitude=20)
    start = time.perf_counter()
    prepare(
        {"bench": source},
        folder / f"out{records}",
        preprocessing,
        Preparation(max_damaged=1, min_records=1, amplitude="mV"),
        workers,
    )
    seconds = time.perf_counter() - start
    peaks = {"peak_mb": resource.RUSAGE_SELF, "worker_peak_mb": resource.RUSAGE_CHILDREN}
    return {
        "seconds": seconds,
        **{name: resource.getrusage(who).ru_maxrss / 1024 for name, who in peaks.items()},
    }


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder))
        for records in SIZES:
            command = [sys.executable, __file__, "measure", folder, str(records), str(workers)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            rate = records / found["seconds"]
            peaks = f"{found['peak_mb']:.0f} MB, per worker {found['worker_peak_mb']:.0f} MB"
            print(
                f"{records} records, {workers} workers: {rate:.0f} records/s, peak memory {peaks}"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
