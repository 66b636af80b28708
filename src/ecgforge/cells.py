"""Run DVC's stages side by side: DVC itself runs one at a time.

Here each is a `dvc repro` of its own, started when those before it are done. DVC stays the judge of what is up to date, and
holds its locks; this only decides the order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from rich.console import Console

POLL = 0.05  # s

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
    ready: list[str] = []
    running: dict[str, subprocess.Popen[bytes]] = {}
    done, failed = 0, False
    try:
        while running or (sorter.is_active() and not failed):
            ready += sorter.get_ready()
            while ready and len(running) < jobs and not failed:
                name = ready.pop(0)
                running[name] = _start(name)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if running.pop(name).returncode == 0:
                    done += 1
                    console.print(f"[{done}/{len(waiting)}] {name}", highlight=False, markup=False)
                    sorter.done(name)
                else:
                    failed = True
                    console.print(f"{name} failed; its error is above. What was done is kept: mend it and run this again.", style="red")
            time.sleep(POLL)
    except KeyboardInterrupt:
        for process in running.values():
            os.killpg(process.pid, signal.SIGINT)
        for process in running.values():
            process.wait()
        raise
    return int(failed)


def _start(name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--quiet", "--single-item", name]
    folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}
    # In a group of its own: DVC leaves an interruption to the stage that it started, so both have to hear of it.
    return subprocess.Popen(command, env=environment, process_group=0)
