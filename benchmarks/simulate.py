"""Measure how many simulated records per second are written, including their files.

python benchmarks/simulate.py [records]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from ecgforge.params import SimulatedSource
from ecgforge.sources import simulated


def main(records: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for layout in ("ptbxl", "chapman"):
            settings = SimulatedSource(kind="simulated", layout=layout, records=records, seed=0)
            wall, core = time.perf_counter(), time.process_time()
            simulated.write(Path(folder) / layout, settings)
            wall, core = time.perf_counter() - wall, time.process_time() - core
            print(
                f"{layout}: {records / core:.0f} records per second of CPU time, "
                f"{records / wall:.0f} per second of wall-clock time"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
