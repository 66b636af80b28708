"""Compare a tuned classifier or generator with the default parameters, on unseen test records.

    .venv/bin/python benchmarks/tuning.py data/prepared/ptbxl work/tuning --what classifier

The records are split again by patient as in `on_records.py`: five tenths for training, one for
validation and four for the test, so that rare rhythms have enough test records. A study of the
profile's space searches for parameters on the first two parts. Then both parameter sets are trained
with each seed for the same number of steps. The classifier is trained on real records (TrRTeR). The
generator generates the same number of records of each rhythm as it was trained on, and these train
the profile's classifier (TrSTeR). If the profile's tuning is `fast`, a slower sampling is not
allowed; otherwise the chosen sampling, which is printed, may be slower. Differences of macro-F1 are
tuned minus default, by the study's bootstrap over seeds and test patients.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from on_records import generated, learned, with_splits

from ecgforge import folders
from ecgforge.analysis import statistics
from ecgforge.classifiers.common import registry as classifiers
from ecgforge.classifiers.common.base import probabilities
from ecgforge.generators.common import registry as generators
from ecgforge.generators.train import train
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.stages import parameters
from ecgforge.stages.trials_of_tuning import Trainings
from ecgforge.training.batches import Records
from ecgforge.training.fit import fit
from ecgforge.tuning import objectives, search, space


def best_of(objective: Any, trials: int, folder: Path) -> search.TrialResult:
    """Finish a study, and print its best trial on the validation records."""
    tuning = objective.settings.tuning
    task = search.Task(
        type(objective).__name__,
        f"{search.SQLITE}{folder.absolute() / 'tuning.db'}",
        tuning.space,
        space.defaults(objective.settings, tuning.space, "space"),
        objective.directions,
        tuning.seed,
        objective.warmup,
    )
    results = search.search(
        task,
        lambda attempt: objective(attempt, folder / f"trial-{attempt.number}", lambda *_: None),
        trials,
        [None],
    )
    best = search.best(results, task.directions)
    print(
        f"{len(results)} trials: validation {results[0].values} by default, {best.values} in "
        f"trial {best.number}: {best.point}",
        flush=True,
    )
    return best


def tested(
    params: Params, settings: Any, sets: list[RecordSet], real: RecordSet, seed: int, folder: Path
) -> np.ndarray:
    """Train a classifier, and return its probabilities on the test records."""
    train_set, validation = sets
    classifier = classifiers.create(
        settings, real.about.rhythms, Records([train_set]).scale(), seed
    )
    arguments = (
        classifier.objective(),
        [train_set],
        [validation],
        settings.training,
        params.active.compute,
    )
    fit(*arguments, seed=seed, folder=folder, log=lambda *_: None)
    return probabilities(classifier, real.split("test"))


def classifier(
    params: Params, real: RecordSet, options: argparse.Namespace
) -> dict[str, list[np.ndarray]]:
    settings = params.classifier
    best = best_of(
        objectives.ClassifierObjective(settings, real.folder, params.active.compute),
        options.trials,
        options.folder,
    )
    sets = [real.split("train"), real.split("validation")]
    found: dict[str, list[np.ndarray]] = {}
    for name, chosen in {"default": settings, "tuned": space.applied(settings, best.point)}.items():
        found[name] = [
            tested(params, chosen, sets, real, seed, options.folder / f"{name}-{seed}")
            for seed in range(options.seeds)
        ]
    return found


def generator(
    params: Params, real: RecordSet, options: argparse.Namespace, name: str
) -> dict[str, list[np.ndarray]]:
    settings = params.generator(name)
    best = best_of(
        objectives.GeneratorObjective(
            name,
            settings,
            real.folder,
            params.active.compute,
            Trainings(params, real.folder.name, name, real.folder),
        ),
        options.trials,
        options.folder,
    )
    found: dict[str, list[np.ndarray]] = {}
    for how, chosen in {"default": settings, "tuned": space.applied(settings, best.point)}.items():
        found[how] = []
        alike = all(
            getattr(chosen, part) == getattr(settings, part) for part in ("network", "training")
        )
        for seed in range(options.seeds):
            place, model = (
                options.folder / f"{how}-{seed}",
                options.folder / f"{'default' if alike else how}-{seed}" / "model",
            )
            if not model.exists():
                seeded = chosen.model_copy(update={"seed": seed})
                log = partial(print, how, seed, flush=True)
                generators.save(
                    train(name, seeded, real, params.active.compute, place / "checkpoints", log),
                    model,
                )
            made = generated(model, chosen.sampling, learned(real, seed), place / "records", seed)
            sets = [made.split("train"), made.split("validation")]
            found[how].append(
                tested(params, params.classifier, sets, real, seed, place / "classifier")
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", type=Path, help="a record set from `ecgforge prepare`")
    parser.add_argument(
        "folder", type=Path, help="folder for all results; existing ones are reused"
    )
    parser.add_argument(
        "--what", default="classifier", help="classifier, or the name of a generator"
    )
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    params = parameters.read(options.params, profile=options.profile)
    real = with_splits(RecordSet.open(options.records), options.folder / "real")
    options.folder = options.folder / options.what
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ[folders.STATE] = str(options.folder)  # trainings of trials
    work = classifier if options.what == "classifier" else partial(generator, name=options.what)
    found = {name: np.stack(one) for name, one in work(params, real, options).items()}
    test, rhythms = real.split("test"), real.about.rhythms
    people, options = (
        test.records["patient"].to_numpy(),
        {"confidence": 0.95, "resamples": 2000, "seed": 0},
    )
    for name, estimates in found.items():
        row = (
            statistics.interval(test.labels, estimates, people, rhythms, **options)
            .set_index(["rhythm", "metric"])
            .loc["macro", "f1"]
        )
        print(
            f"{name}: macro-F1 {row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f}), "
            f"{len(test)} test records, {options.seeds} seeds"
        )
    rows = statistics.difference(
        test.labels, found["default"], found["tuned"], people, rhythms, **options
    )
    row = rows.set_index(["rhythm", "metric"]).loc["macro", "f1"]
    print(
        f"tuned minus default: {row['estimate']:+.3f} ({row['low']:+.3f} to "
        f"{row['high']:+.3f}), p = {row['p']:.3f}"
    )


if __name__ == "__main__":
    main()
