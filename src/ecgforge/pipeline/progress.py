"""Lines about the progress of a study: done of all cells, and the time left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from graphlib import TopologicalSorter
from statistics import mean

from ecgforge.pipeline.engine import Cell

FEWEST = 3  # finished cells before a time left is shown


class Progress:
    """Counts finished cells, and estimates the rest from their durations."""

    def __init__(self, cells: Mapping[str, Cell]) -> None:
        self._cells, self._start = dict(cells), time.monotonic()
        self._left, self._seconds = dict(cells), defaultdict[str, list[float]](list)

    def line(self, name: str, place: str, started: float, running: int) -> str:
        """Record that a cell has ended, and return a line about it.

        Args:
            started: the value of `time.monotonic` at its start.
            running: the number of cells that still run.
        """
        cell = self._left.pop(name)
        self._seconds[cell.stage].append(time.monotonic() - started)
        done = len(self._cells) - len(self._left)
        words = f"[{done}/{len(self._cells)}] {name}" + (f" on {place}" if place else "")
        if self._left and done >= FEWEST:
            words += f", about {_shown(self.left(running + 1))} left"
        return words

    def left(self, parallel: int) -> float:
        """Return the expected seconds until the last cell ends, with `parallel` cells at a time.

        A cell is expected to take as long as the finished cells of its stage, or else as the mean
        of all. The time is at least that of the longest chain of cells.
        """
        overall = mean(one for found in self._seconds.values() for one in found)
        expected = {
            name: mean(self._seconds.get(cell.stage) or [overall])
            for name, cell in self._left.items()
        }
        chains: dict[str, float] = {}
        waits = {name: cell.waits & self._left.keys() for name, cell in self._left.items()}
        for name in TopologicalSorter(waits).static_order():
            chains[name] = expected[name] + max((chains[one] for one in waits[name]), default=0)
        return max(max(chains.values()), sum(expected.values()) / parallel)

    def summary(self) -> str:
        """Return a line about all cells."""
        done = len(self._cells) - len(self._left)
        return f"{done} of {len(self._cells)} cells in {_shown(time.monotonic() - self._start)}"


def _shown(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
