"""Measure the cost of tracking on a SQLite file in a temporary folder.

    python benchmarks/tracking.py

The limit is 2 % of a run's time for curves: they are logged for half a minute while a loop computes
in place of a training. What happens once per run is measured in classifiers of the demo, trained on
simulated records: core seconds, and the share of the run. `ecgforge repro` imports the modules of a
stage in advance, and so does this benchmark. The first classifier of an architecture is traced;
later ones reuse its graph, also those of other stages of the same `ecgforge repro`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ecgforge.params import Params
    from ecgforge.records.record_set import RecordSet

ROOT = Path(__file__).parents[1]
TRAINING = 30.0  # s
STEP = 0.1  # s; a real training logs at evaluations, which are seconds apart
CURVES = 5
CLASSIFIERS = 4
RECORDS = 600


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"{what:<58} {time.perf_counter() - started:8.2f} s")


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    with timed("import ecgforge.tracking"):
        from ecgforge.tracking import runs, store
    with timed("create the database, including the import of MLflow"):
        store.initialise()
    with timed("open it in a new process"):
        store.client().search_experiments()

    key = runs.RunKey(
        "classifier", "merged", 0, simulated=True, setting="TrRTeR", backbone="resnet1d"
    )
    inputs = [
        runs.DatasetInput("merged", folder / "merged", "0" * 32 + ".dir", "training", "simulated")
    ]
    for name in ("first run: open and end it", "second run: open and end it"):
        with timed(name), runs.tracked(key, fingerprint=name, params={"lr": 0.1}, inputs=inputs):
            pass

    wall = cpu = 0.0
    with runs.tracked(
        key, fingerprint="curves", params={"lr": 0.1}, inputs=inputs, resume_file=folder / "unsent"
    ) as run:
        started, busy = time.perf_counter(), time.process_time()
        for step in range(int(TRAINING / STEP)):
            while time.perf_counter() < started + (step + 1) * STEP:
                np.linalg.svd(np.ones((30, 30)))
            before, before_cpu = time.perf_counter(), time.process_time()
            run.log({f"curve_{n}": step / (n + 1) for n in range(CURVES)}, step)
            wall, cpu = wall + time.perf_counter() - before, cpu + time.process_time() - before_cpu
        total, busy = time.perf_counter() - started, time.process_time() - busy
    print(
        f"{f'curves: {CURVES * TRAINING / STEP:.0f} points while training {total:.0f} s':<58} "
        f"{wall:8.2f} s, {wall / total:.2%}"
    )
    print(f"{'of the CPU time':<58} {cpu:8.2f} s, {cpu / busy:.2%}")

    os.chdir(folder)
    classifiers()


def classifiers() -> None:
    """Train, test and register classifiers of the demo, and print what tracking adds."""
    from ecgforge import artifacts
    from ecgforge.params import Params
    from ecgforge.pipeline import cells, warm
    from ecgforge.stages.common import classifier_runs
    from ecgforge.stages.common.tracked import Stage
    from ecgforge.study.experiment import Experiment
    from ecgforge.study.settings import TrainingData
    from ecgforge.tracking import runs

    class Alone(Stage):
        """A stage that does not depend on the code."""

        def code(self) -> dict[str, str]:
            return {}

    warm.load(cells.SLOW)
    params = Params.read(ROOT / "params.yaml")
    records, settings = prepared(params), params.classifier
    data = TrainingData([records.split("train")], [records.split("validation")])
    spent: dict[str, float] = defaultdict(float)
    watch(classifier_runs, "_register", spent)
    for name in ("_start", "_end", "files"):
        watch(runs.Run, name, spent)
    watch(artifacts, "of_classifier", spent)
    at_work = classifier_runs.ClassifierRuns(Alone("classify", params, {}), True, Path("models"))
    print(
        f"{'a classifier of the demo, in core seconds':<58} {'run':>8} open, end        files      "
        "register"
    )
    for seed in range(CLASSIFIERS):
        spent.clear()
        started = time.process_time()
        experiment = Experiment("TrRTeR", "merged", settings.backbone, seed)
        at_work.train(experiment, data, records, settings, Path(f"models/{seed}"))
        total, registered = time.process_time() - started, spent["_register"]
        opened, files = spent["_start"] + spent["_end"], spent["files"] + spent["of_classifier"]
        print(
            f"{f'seed {seed}':<58} {total:8.2f} {opened:5.2f} {opened / total:6.1%} "
            f"{files:5.2f} {files / total:6.1%} "
            f"{registered:5.2f} {registered / total:6.1%}"
        )


def prepared(params: Params) -> RecordSet:
    """Return simulated records, prepared as in the demo."""
    from ecgforge.params import SimulatedSource
    from ecgforge.preparation.prepare import RawSource, prepare
    from ecgforge.records.record_set import RecordSet
    from ecgforge.sources import ptbxl, simulated

    raw = Path("raw")
    simulated.write(raw, SimulatedSource(kind="simulated", layout="ptbxl", records=RECORDS, seed=1))
    source = RawSource(
        raw, ptbxl.catalogue(raw), ptbxl.RHYTHM_CODES, ptbxl.OTHER_RHYTHMS, simulated=True
    )
    prepare({"ptbxl": source}, Path("prepared"), params.preprocessing, params.active.preparation)
    return RecordSet.open(Path("prepared"))


def watch(owner: Any, name: str, spent: dict[str, float]) -> None:
    """Add the core seconds of a function's calls to `spent`."""
    function = getattr(owner, name)

    def watched(*arguments: Any, **others: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **others)
        finally:
            spent[name] += time.process_time() - started

    setattr(owner, name, watched)


if __name__ == "__main__":
    main()
