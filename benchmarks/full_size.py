"""Measure each stage of a study of up to 67,000 simulated records: time, memory and disk.

    .venv/bin/python benchmarks/full_size.py [thousands ...]

There is a table for each number of records, by default for 1 and 4 thousand. "Growth" is the ratio
of the CPU times of a stage to those of the table before, divided by the ratio of the records: 1 if
the time is linear, less if it has a constant part.

The sources have the layouts, the proportion and the rhythms of PTB-XL and Chapman. With 67 thousand
records, 10,000 training records of each rhythm are generated, and with fewer records, fewer in
proportion. Networks are small and trainings short, since their time does not depend on the records.

Each stage is a process, with the command of dvc.yaml, but without DVC. Times include the start of
the process. The memory is that of its largest process. "Written" also counts temporary files and
the tracking store. 67 thousand records need 25 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
FULL = 67  # thousand records
RECORDS = {"ptbxl": 21_837, "chapman": 45_152}
# Records with each rhythm: in PTB-XL 1.0.3, and in both parts of Chapman by the list of diagnoses
# of the PhysioNet Challenge 2021.
RHYTHMS = {
    "ptbxl": {"SR": 16748, "SB": 637, "ST": 826, "SA": 772, "AFIB": 1514, "AFLT": 73, "SVT": 51},
    "chapman": {"SR": 8125, "SB": 16559, "ST": 7255, "SA": 2550, "AFIB": 1780, "AFLT": 8060}
    | {"SVT": 766},
}
SYNTHETIC = 10_000  # training records of each rhythm
HELD_OUT = 0.1  # validation records, and test records, for each training record
GENERATOR = "diffwave"
TRAINING = {"steps": 4, "batch_size": 16, "warmup_steps": 1, "evaluate_every": 2, "patience": None}
STAGES = {
    "acquire, PTB-XL": "acquire ptbxl",
    "acquire, Chapman": "acquire chapman",
    "prepare, PTB-XL": "prepare --raw data/raw/ptbxl --out data/prepared/ptbxl",
    "prepare, Chapman": "prepare --raw data/raw/chapman --out data/prepared/chapman",
    "merge": "prepare --raw data/raw/ptbxl --raw data/raw/chapman --out data/prepared/merged",
    "train a generator": f"train-generator merged {GENERATOR}",
    "synthesize": f"synthesize merged {GENERATOR}",
    "classify, real": "train-classifier merged",
    "classify, synthetic": f"train-classifier merged {GENERATOR}",
    "quality": f"quality merged {GENERATOR}",
    "report": "report",
}


@dataclass(frozen=True)
class Cost:
    """What a stage takes: s of CPU time, s of wall-clock time, MB of memory, MB written."""

    cpu: float
    wall: float
    memory: float
    written: float


def parameters(thousands: float, samples: int) -> dict[str, Any]:
    """Return a parameter file: one dataset, one small generator, no sweeps.

    Args:
        samples: records that a quality score compares, and permutations of a test.
    """
    share = thousands / FULL
    train = round(share * SYNTHETIC)
    held_out = max(1, round(HELD_OUT * train))
    profile = {
        "base": "demo",
        "sources": {
            name: {"kind": "simulated", "layout": name, "records": round(share * count), "seed": 1}
            for name, count in RECORDS.items()
        },
        "preparation": {"min_records": 5, "amplitude": "mV"},
        "generators": {
            GENERATOR: {
                "network": {"layers": 2, "channels": 16, "dilation_cycle": 2, "patch": 20},
                "training": {"denoiser": TRAINING},
                "sampling": {"steps": 2},
            }
        },
        "synthesis": {"train": train, "validation": held_out, "test": held_out, "chunk": 256},
        "classifiers": {"resnet1d": {"training": TRAINING}},
        "study": {"seeds": [0]},
        "quality": {"records": samples, "permutations": samples},
    }
    sweeps = ("datasets", "generators", "sweeps", "real_sweeps", "backbones", "generator_seeds")
    return {
        "base": str(PARAMS),
        "profile": "full_size",
        "datasets": ["merged"],
        "folds": {},
        "generators": [GENERATOR],
        "sweep_targets": {name: [] for name in (*sweeps, "cross_dataset")},
        "profiles": {"full_size": profile},
    }


def stage(arguments: list[str]) -> None:
    """Run a command of ecgforge; sources have the published shares of rhythms."""
    from ecgforge import cli
    from ecgforge.sources import simulated

    for name, site in simulated._SITES.items():
        site.mix.update(RHYTHMS[name])
    cli.app(arguments)


def measured(arguments: str, folder: Path) -> Cost:
    """Run a command in a process of its own, and return what it and its children take."""
    command = [sys.executable, __file__, "stage", *arguments.split()]
    started, log = time.perf_counter(), folder / "log.txt"
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ecgforge {arguments} failed: {log.read_text()[-2000:]}")
    wall, cpu = time.perf_counter() - started, used.ru_utime + used.ru_stime
    return Cost(cpu, wall, used.ru_maxrss / 1024, used.ru_oublock * 512 / 1e6)


def tables(sizes: list[float], samples: int = 1000) -> Iterator[str]:
    """Yield the lines of a table for each size, each when it is known."""
    before: dict[str, Cost] = {}
    for number, thousands in enumerate(sizes):
        ratio = thousands / sizes[number - 1] if number else 0
        yield f"{thousands:g} thousand records, {SYNTHETIC * thousands / FULL:.0f} a rhythm"
        yield ""
        yield "| stage | CPU s | wall s | peak memory, MB | written, MB | growth |"
        yield "| --- | --- | --- | --- | --- | --- |"
        with tempfile.TemporaryDirectory(prefix="full_size_") as scratch:
            folder = Path(scratch)
            (folder / "params.yaml").write_text(json.dumps(parameters(thousands, samples)))
            for name, arguments in STAGES.items():
                cost = measured(arguments, folder)
                growth = f"{cost.cpu / before[name].cpu / ratio:.2f}" if ratio else ""
                yield (
                    f"| {name} | {cost.cpu:.1f} | {cost.wall:.1f} | {cost.memory:.0f} | "
                    f"{cost.written:.0f} | {growth} |"
                )
                before[name] = cost
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("thousands", nargs="*", type=float, default=[1, 4])
    for line in tables(parser.parse_args().thousands):
        print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["stage"]:
        stage(sys.argv[2:])
    else:
        main()
