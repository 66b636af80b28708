"""Run DVC's stages side by side: DVC itself runs one at a time.

Here each is a `dvc repro` of its own, started when those before it are done. DVC stays the judge of what is up to date, and
holds its locks; this only decides the order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from rich.console import Console

console = Console(stderr=True)


def repro(targets: list[str], jobs: int) -> int:
    """Bring `targets`, or all stages, and what they need up to date, `jobs` of them at a time; return the exit code."""
    from dvc.repo import Repo

    with Repo() as repo:
        graph = repo.index.graph
        wanted = _with_ancestors(graph, targets) if targets else {stage.addressing for stage in graph}
        stale = wanted & set(repo.status())
        waiting = {stage.addressing: {up.addressing for up in graph.successors(stage)} for stage in graph if stage.addressing in wanted}
    if not stale:
        console.print("Data and pipelines are up to date.")
        return 0
    return _run(_downstream(waiting, stale), jobs)


def _with_ancestors(graph: Any, targets: list[str]) -> set[str]:
    import networkx

    found: set[str] = set()
    for stage in graph:
        if stage.addressing in targets or stage.addressing.partition("@")[0] in targets:
            found |= {stage.addressing, *(up.addressing for up in networkx.descendants(graph, stage))}
    return found


def _downstream(waiting: dict[str, set[str]], stale: set[str]) -> dict[str, set[str]]:
    """Keep of the stages those that are stale or come after a stale one."""
    kept: dict[str, set[str]] = {}
    for name in TopologicalSorter(waiting).static_order():
        needed = waiting[name] & kept.keys()
        if name in stale or needed:
            kept[name] = needed
    return kept


def _run(waiting: dict[str, set[str]], jobs: int) -> int:
    sorter = TopologicalSorter(waiting)
    sorter.prepare()
    running: dict[Future[int], str] = {}
    done, failed = 0, False
    with ThreadPoolExecutor(jobs) as pool:
        while sorter.is_active() and not (failed and not running):
            if not failed:
                running |= {pool.submit(_repro_one, name): name for name in sorter.get_ready()}
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                if future.result() == 0:
                    done += 1
                    console.print(f"[{done}/{len(waiting)}] {name}", highlight=False)
                    sorter.done(name)
                else:
                    console.print(f"{name} failed", style="red")
                    failed = True
    return int(failed)


def _repro_one(name: str) -> int:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--quiet", "--single-item", name]
    folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}
    return subprocess.run(command, check=False, env=environment).returncode
