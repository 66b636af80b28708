"""Measure the CPU time of `prepare`, and its peak memory, which should not grow with the records.

    .venv/bin/python benchmarks/prepare.py [records] [workers]

Simulated noise of ten seconds and 12 leads is written in the layouts of PTB-XL (100 Hz, format 16)
and Chapman (500 Hz, format 16 after 24 bytes). Three ways of preparation take turns, with one
worker, so that a busy machine changes all of them alike:

- `prepare`, with its checks, its search for duplicates, and its output;
- a plain loop of `wfdb.rdrecord`, `resample_poly` and `sosfiltfilt`, without output;
- the floor: headers split at spaces, samples read at once, checksums, and filters over 32 records.

The memory is measured in one process for each number of records, which reads a few records
repeatedly, with as many workers as named.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb
from scipy.signal import butter, firwin, resample_poly, sosfiltfilt

from ecgforge.params import Preparation, Preprocessing
from ecgforge.preparation.prepare import RawSource, prepare
from ecgforge.records.leads import LEADS, STANDARD_LEADS

LAYOUTS = {"PTB-XL, 100 Hz": (100, 0), "Chapman, 500 Hz": (500, 24)}  # Hz, bytes before the samples
PREPROCESSING = Preprocessing(sampling_rate=100, duration=10, band=(0.5, 40), max_amplitude=20)
BAND_PASS = butter(3, PREPROCESSING.band, btype="bandpass", fs=100, output="sos")
ROWS = [STANDARD_LEADS.index(lead) for lead in LEADS]
ROUNDS = 4
CHUNK = 32
SIZES = (1000, 8000)  # records, to measure memory
WRITTEN = 20


def write_records(folder: Path, records: int, rate: int, offset: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    kind = f"16+{offset}" if offset else "16"
    for number in range(records):
        signals = np.cumsum(rng.normal(0, 20, (10 * rate, 12)), axis=0).round().astype("<i2")
        (folder / f"r{number}.dat").write_bytes(b"\0" * offset + signals.tobytes())
        lines = [
            f"r{number}.dat {kind} 1000.0(0)/mV 16 0 {first} {total} 0 {lead}"
            for first, total, lead in zip(
                signals[0], signals.sum(axis=0, dtype=np.int16), STANDARD_LEADS, strict=True
            )
        ]
        (folder / f"r{number}.hea").write_text(
            "\n".join([f"r{number} 12 {rate} {10 * rate}", *lines]) + "\n"
        )


def by_prepare(folder: Path, paths: list[str], out: Path, workers: int = 1) -> None:
    ids = [f"{number:06d}" for number in range(len(paths))]
    catalogue = pd.DataFrame({"id": ids, "patient": ids, "codes": [["SR"]] * len(ids)})
    catalogue = catalogue.assign(path=paths, age=60.0, sex="male", fold=np.nan)
    source = RawSource(folder, catalogue, {"SR": "SR"}, set(), True)
    preparation = Preparation(max_damaged=1, min_records=1, amplitude="mV")
    prepare({"bench": source}, out, PREPROCESSING, preparation, workers)


def by_plain_loop(folder: Path, paths: list[str], rate: int) -> list[np.ndarray]:
    return [
        _filtered(wfdb.rdrecord(str(folder / path)).p_signal.T[ROWS], rate).astype(np.float32)
        for path in paths
    ]


def by_floor(folder: Path, paths: list[str], rate: int, offset: int) -> list[np.ndarray]:
    taps = firwin(20 * rate // 100 + 1, min(100 / rate, 0.99), window=("kaiser", 5.0))
    prepared = []
    for start in range(0, len(paths), CHUNK):
        chunk = np.stack(
            [_read(folder / path, rate, offset) for path in paths[start : start + CHUNK]]
        )
        prepared.append(_filtered(chunk, rate, taps).astype(np.float32))
    return prepared


def _read(path: Path, rate: int, offset: int) -> np.ndarray:
    lines = [line.split() for line in path.with_suffix(".hea").read_text().splitlines()[1:]]
    samples = np.fromfile(path.with_suffix(".dat"), "<i2", offset=offset).reshape(10 * rate, 12).T
    if samples.sum(axis=1, dtype=np.int16).tolist() != [int(cells[6]) for cells in lines]:
        raise ValueError(path)
    gains = np.array([[float(cells[2].split("(")[0])] for cells in lines])
    return (samples / gains)[ROWS]


def _filtered(
    signals: np.ndarray, rate: int, window: np.ndarray | tuple[str, float] = ("kaiser", 5.0)
) -> np.ndarray:
    if rate != 100:
        signals = resample_poly(signals, 100, rate, axis=-1, window=window, padtype="line")
    filtered: np.ndarray = sosfiltfilt(BAND_PASS, signals, padtype="even", padlen=400)
    return filtered


def compare(folder: Path, records: int, rate: int, offset: int) -> dict[str, float]:
    """Return the core milliseconds a record of each way, the least of some rounds."""
    write_records(folder, records, rate, offset)
    paths = [f"r{number}" for number in range(records)]
    ways: dict[str, Callable[[], object]] = {
        "prepare": lambda: by_prepare(folder, paths, folder.with_name("out")),
        "plain loop": lambda: by_plain_loop(folder, paths, rate),
        "floor": lambda: by_floor(folder, paths, rate, offset),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            start = time.process_time()
            run()
            found[way].append(1000 * (time.process_time() - start) / records)
    return {way: min(times) for way, times in found.items()}


def measure(folder: Path, records: int, workers: int) -> dict[str, float]:
    paths = [f"r{number % WRITTEN}" for number in range(records)]
    by_prepare(folder, paths, folder.with_name(f"out{records}"), workers)
    peaks = {"peak_mb": resource.RUSAGE_SELF, "worker_peak_mb": resource.RUSAGE_CHILDREN}
    return {name: resource.getrusage(who).ru_maxrss / 1024 for name, who in peaks.items()}


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, (rate, offset)) in enumerate(LAYOUTS.items()):
            times = compare(Path(scratch) / f"raw{number}", records, rate, offset)
            print(
                f"{name}, core ms a record: prepare {times['prepare']:.2f}, "
                f"plain loop {times['plain loop']:.2f}, floor {times['floor']:.2f}; prepare takes "
                f"{times['prepare'] / times['plain loop']:.2f} of the plain loop and "
                f"{times['prepare'] / times['floor']:.2f} of the floor"
            )
        few = Path(scratch) / "few"
        write_records(few, WRITTEN, 500, 24)
        for size in SIZES:
            command = [sys.executable, __file__, "measure", str(few), str(size), str(workers)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(
                f"{size} records, {workers} workers: peak memory {found['peak_mb']:.0f} MB, "
                f"per worker {found['worker_peak_mb']:.0f} MB"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
