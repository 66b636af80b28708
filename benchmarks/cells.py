"""Measure DVC's work for a cell in `ecgforge repro`, against plain DVC.

    .venv/bin/python benchmarks/cells.py [cells ...]

The cells run `touch`, so all core seconds are DVC's. Each has five dependencies, ten parameters of
params.yaml and one output. Both ways run in this process, one cell after the other, as the workers
of `ecgforge repro` do; the time to import DVC is not counted. The second table is a run in which
nothing is to do.
"""

from __future__ import annotations

import logging
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import yaml
from dvc.repo import Repo

from ecgforge.pipeline import cells, local

SIZES = (15, 60)  # cells
DEPENDENCIES = 5
KEYS = (
    *("preprocessing", "datasets", "generators", "profiles.demo.study", "profiles.demo.quality"),
    *("profiles.demo.classifiers.resnet1d", "profiles.demo.generators.diffwave.network"),
    *("profiles.demo.synthesis", "profiles.demo.preparation", "profiles.demo.compute"),
)


def project(folder: Path, count: int) -> list[str]:
    """Write a project with so many cells; return their names."""
    folder.mkdir()
    shutil.copy("params.yaml", folder)
    stages = {}
    for number in range(count):
        needed = [f"in{number}-{one}" for one in range(DEPENDENCIES)]
        for name in needed:
            (folder / name).write_text(name)
        out = f"out{number}"
        stages[f"cell{number}"] = {
            "cmd": f"touch {out}",
            "deps": needed,
            "params": list(KEYS),
            "outs": [out],
        }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    with redirect_stdout(StringIO()):
        Repo.init(str(folder)).close()
    return list(stages)


def plain(name: str) -> None:
    with Repo() as repo:
        repo.reproduce([name], single_item=True)


def nothing() -> None:
    cells.repro([])


def plain_nothing() -> None:
    with Repo() as repo:
        repo.reproduce()


def core_seconds(work: Callable[..., object], *names: str) -> float:
    """Return the core seconds of this process and of its children that have ended.

    Args:
        names: call `work` with each of them; without any, call it once.
    """

    def now() -> float:
        found = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(one.ru_utime + one.ru_stime for one in found)

    start = now()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        for arguments in [(name,) for name in names] or [()]:
            work(*arguments)
    return now() - start


def line(name: str, ours: float, reference: float) -> None:
    print(f"| {name} | {ours:.2f} | {reference:.2f} | {ours / reference:.2f} |", flush=True)


def main() -> None:
    logging.getLogger("dvc").setLevel(logging.ERROR)
    sizes = [int(one) for one in sys.argv[1:]] or SIZES
    ways = {"ours": local.repro_one, "plain": plain}
    idle: dict[int, list[float]] = {}
    print("| core s a cell | ours | plain DVC | ratio |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        (name,) = project(Path(scratch) / "first", 1)
        with chdir(Path(scratch) / "first"):  # imports
            core_seconds(local.repro_one, name)
            core_seconds(nothing)
        for count in sizes:
            found = {}
            for way, run in ways.items():
                folder = Path(scratch) / f"{way}{count}"
                names = project(folder, count)
                with chdir(folder):
                    found[way] = core_seconds(run, *names) / count
                    assert all(Path(f"out{number}").exists() for number in range(count))
            line(f"of {count} cells", found["ours"], found["plain"])
            with chdir(Path(scratch) / f"ours{count}"):
                idle[count] = [core_seconds(one) for one in (nothing, plain_nothing)]
    print("\n| nothing to do, core s | ours | plain DVC | ratio |\n| --- | --- | --- | --- |")
    for count, (ours, reference) in idle.items():
        line(f"{count} cells", ours, reference)


if __name__ == "__main__":
    main()
