"""Simulate a study on many workers: the efficiency by their number.

    python benchmarks/efficiency.py [--profile paper] [--parts 1 12] [--overhead 10] [--trials 4]

The cells and their order come from dvc.yaml. A cell takes as long as `ecgforge plan` estimates for
its stage, dataset, generator and backbone on this machine, plus the overhead of a cell on a node
(`benchmarks/cluster.py` measures it). The trials of a classifier's tuning run on `--trials` workers
at a time. A free worker takes the waiting cell with the longest chain after it.

The efficiency is the sum of all cells in one part and without overhead, divided by the duration of
the study times the number of workers.
"""

from __future__ import annotations

import argparse
import heapq
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ecgforge.commands import chain, plan, workload
from ecgforge.params import Params
from ecgforge.stages import matrix

ROOT = Path(__file__).resolve().parents[1]
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128)
# stages of dvc.yaml whose work `plan` lists under another name
LISTED = {"prepare": "prepare, merge", "merge": "prepare, merge"}
MATRIX_SWEEPS = ("sweep", "sweep_real")  # their first value is the name of the sweep


def dag(params: Params) -> dict[str, set[str]]:
    """Return the cells of dvc.yaml for these parameters, each with those that it waits for."""
    from dvc.repo import Repo

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copy(ROOT / "dvc.yaml", folder)
        tree = params.model_dump(mode="json", exclude={"profiles"})
        (folder / "params.yaml").write_text(yaml.safe_dump(tree))
        matrix.write(params, folder / "matrix.yaml")
        (folder / "src/ecgforge").mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        before = Path.cwd()
        os.chdir(folder)
        try:
            Repo.init(".").close()
            shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
            with Repo() as repo:
                graph = repo.index.graph
                return {
                    stage.addressing: {up.addressing for up in graph.successors(stage)}
                    for stage in graph
                }
        finally:
            os.chdir(before)


def listed(cell: str) -> str:
    """Return the name under which `plan` lists the stage of a cell."""
    stage, _, values = cell.partition("@")
    return values.partition("-")[0] if stage in MATRIX_SWEEPS else LISTED.get(stage, stage)


def simulate(
    waits: Mapping[str, set[str]], seconds: Mapping[str, float], workers: int, overhead: float
) -> float:
    """Return the duration of a study by list scheduling, in s."""
    after: dict[str, set[str]] = {name: set() for name in waits}
    for name, needed in waits.items():
        for one in needed:
            after[one].add(name)
    chains: dict[str, float] = {}

    def chain(name: str) -> float:
        if name not in chains:
            chains[name] = seconds[name] + max(map(chain, after[name]), default=0.0)
        return chains[name]

    missing = {name: len(needed) for name, needed in waits.items()}
    ready = [(-chain(name), name) for name, count in missing.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[name] + overhead, name))
        now, ended = heapq.heappop(running)
        for name in after[ended]:
            missing[name] -= 1
            if not missing[name]:
                heapq.heappush(ready, (-chain(name), name))
    return now


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 12])
    parser.add_argument("--overhead", type=float, default=10.0, help="s for each cell")
    parser.add_argument("--trials", type=int, default=1, help="at a time, of a classifier's tuning")
    options = parser.parse_args()
    params = Params.read(ROOT / "params.yaml").model_copy(update={"profile": options.profile})
    swept: dict[str, Any] = {
        "datasets": params.datasets,
        "generators": params.generators,
        "generator_seeds": params.generators,
    }
    plan.PARTS = 1  # the large networks of `paper` take minutes for a step on a CPU
    speeds = plan.estimate(params).speeds
    for title, update in (("sweeps as in params.yaml", {}), ("all datasets and generators", swept)):
        for parts in options.parts:
            targets = params.sweep_targets.model_copy(update=update | {"parts": parts})
            one = params.model_copy(update={"sweep_targets": targets})
            print(f"\n{title}, sweeps in up to {parts} parts:")
            whole = one.model_copy(
                update={"sweep_targets": targets.model_copy(update={"parts": 1})}
            )
            work = sum(durations(whole, dag(whole), speeds).values())
            show(one, speeds, work, options)


def durations(params: Params, names: Iterable[str], speeds: plan._Speeds) -> dict[str, float]:
    """Return the seconds of each cell: the mean of the cells of its stage that have its dataset,
    generator and backbone.
    """

    @cache
    def share(dataset: str, generator: str, backbone: str) -> dict[str, float]:
        one = chain.only(params, dataset, generator)
        if backbone:
            targets = one.sweep_targets.model_copy(update={"backbones": [backbone]})
            one = one.model_copy(update={"sweep_targets": targets})
        counts = {name: plan._counts(one, name) for name in one.record_sets}
        works = workload.workload(one, counts)
        seconds = plan._seconds(one, works, speeds)
        return {name: seconds[name] / works[name].cells for name in works if works[name].cells}

    bases = {one.name: one.dataset for one in params.rounds} | {one: one for one in params.datasets}

    def of(name: str) -> float:
        words = name.partition("@")[2].split("-")
        dataset = next((bases[word] for word in words if word in bases), params.datasets[0])
        generator = next((word for word in words if word in params.generators), "")
        backbone = words[1] if name.startswith("backbones@") else ""
        found = share(dataset, generator or params.sweep_targets.generators[0], backbone)
        return found.get(listed(name)) or plan.STAGE

    return {name: of(name) for name in names}


def with_trials_apart(
    waits: dict[str, set[str]], seconds: dict[str, float], trials: int
) -> tuple[dict[str, set[str]], dict[str, float]]:
    """Split each tuning of a classifier into as many cells as workers run its trials."""
    tunings = [name for name in waits if name.startswith("tune_classifier@")]
    names = {name: [name, *(f"{name} {number}" for number in range(1, trials))] for name in tunings}
    split = {
        one: {part for need in needed for part in names.get(need, [need])}
        for name, needed in waits.items()
        for one in names.get(name, [name])
    }
    share = {
        one: seconds[name] / len(names.get(name, [name]))
        for name in waits
        for one in names.get(name, [name])
    }
    return split, share


def show(params: Params, speeds: plan._Speeds, work: float, options: argparse.Namespace) -> None:
    """Print the efficiency of a study by the number of workers.

    Args:
        work: seconds of all cells in one part.
    """
    waits = dag(params)
    seconds = durations(params, waits, speeds)
    total = sum(seconds.values())
    print(
        f"{params.profile}: {len(waits)} cells, {total / 3600:.0f} h in sequence, "
        f"{work / 3600:.0f} h in one part",
        flush=True,
    )
    waits, seconds = with_trials_apart(waits, seconds, options.trials)
    print("| workers | efficiency | hours |\n| --- | --- | --- |")
    for workers in WORKERS:
        took = simulate(waits, seconds, workers, options.overhead)
        print(f"| {workers} | {work / took / workers:.0%} | {took / 3600:.1f} |", flush=True)
    slowest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:8]
    print("longest cells: " + ", ".join(f"{one} {seconds[one] / 3600:.1f} h" for one in slowest))


if __name__ == "__main__":
    main()
