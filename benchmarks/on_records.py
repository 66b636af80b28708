"""Compare the generators on real records, with jittered records, surrogates and the baseline.

    .venv/bin/python benchmarks/on_records.py data/prepared/ptbxl work/ptbxl

The records are split again by patient: five tenths for training, one for validation and four for
the test, so that rare rhythms have enough test records. Every generator of the profile is trained
on the first two parts with several seeds, in a limited CPU time, and generates the same number of
records of each rhythm as it was trained on.

Each row of the table has the macro-F1 of a classifier that is trained on the row alone (TrSTeR) or
together with the real training records (TrRSTeR), relative to that of TrRTeR. One classifier is the
study's ("own"), the other is ridge regression on random convolutions ("ridge"); they share no code.
The row also has the scores of `ecgforge.quality`. "Balanced" is TrRSTeR with the same number of
other records, which balance the rhythms. Values are means over seeds, with standard deviations.

Use `--judged validation` for all choices; the test records are for the final table only. Trained
generators, their records and classifiers are kept in the folder and reused, whatever the parameters
are now. An interrupted training resumes. Costs are CPU times, and count only one thread if
`compute.threads` of the profile is 1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold

from ecgforge.classifiers.common import registry as classifiers
from ecgforge.classifiers.common.base import probabilities
from ecgforge.generators.common import registry
from ecgforge.generators.train import train
from ecgforge.params import Params, checked
from ecgforge.quality import distribution, manifold, memorisation, physiology, two_sample, waves
from ecgforge.records.record_set import RecordSet, write_record_set
from ecgforge.study import mixtures
from ecgforge.training.batches import Records, in_order
from ecgforge.training.fit import fit

SPLITS = ["train"] * 5 + ["validation"] + ["test"] * 4  # of ten folds
CHUNK = 64  # records generated at a time
LONGER = 4  # factor of the network calls in a long sampling
# trainings of the study's classifier on a set, averaged because its metrics vary with the seed
REPEATS = 4
SHARES = (
    "TrSTeR own",
    "TrSTeR ridge",
    "TrRSTeR own",
    "TrRSTeR ridge",
    "balanced own",
    "balanced ridge",
)


def with_splits(records: RecordSet, folder: Path) -> RecordSet:
    """Copy a record set with new splits: folds of patients, stratified by rhythm."""
    if not folder.exists():
        folds = StratifiedGroupKFold(len(SPLITS), shuffle=True, random_state=0)
        table = records.records.copy()
        for split, (_, held) in zip(
            SPLITS, folds.split(table, table["rhythm"], table["patient"]), strict=True
        ):
            table.loc[held, "split"] = split
        with write_record_set(folder, records.about) as writer:
            writer.append(records.signals(), table)
    return RecordSet.open(folder)


def jittered(signals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return copies with random shift, gain and noise.

    The shift is at most 5 s, the gain has a spread of 10 %, and the noise has 5 % of the standard
    deviation of the lead.
    """
    samples = signals.shape[-1]
    shifted = np.stack(
        [np.roll(one, rng.integers(-samples // 2, samples // 2), axis=-1) for one in signals]
    )
    noise = rng.standard_normal(signals.shape) * shifted.std(axis=-1, keepdims=True) / 20
    return (shifted * rng.normal(1, 0.1, (len(signals), 1, 1)) + noise).astype(np.float32)


def trained(params: Params, name: str, seed: int, real: RecordSet, folder: Path) -> Path:
    """Train a generator if it does not exist; return its folder."""
    if not (folder / "model").exists():
        folder.mkdir(parents=True, exist_ok=True)
        settings = params.generator(name).model_copy(update={"seed": seed})
        spent, cost = time.process_time(), folder / "cpu_minutes.json"
        before = json.loads(cost.read_text()) if cost.exists() else 0.0

        def log(curves: dict[str, float], step: int) -> None:
            cost.write_text(json.dumps(before + (time.process_time() - spent) / 60))
            print(
                f"{name} {seed}: step {step} "
                + " ".join(f"{key} {value:.4f}" for key, value in curves.items()),
                flush=True,
            )

        registry.save(
            train(name, settings, real, params.active.compute, folder / "checkpoints", log),
            folder / "model",
        )
    return folder / "model"


def learned(real: RecordSet, _: int) -> RecordSet:
    """Return the training and validation records, with their rhythms."""
    return real.select((real.records["split"] != "test").to_numpy())


def rare(real: RecordSet, seed: int) -> RecordSet:
    """Return a resampled training set that balances the rhythms, of the same size.

    Records are drawn with replacement.
    """
    train = real.split("train")
    counts = mixtures.allotment(train.counts(), len(train), "balance")
    rng = np.random.default_rng(seed)
    labels = train.labels
    rows = [
        rng.choice(np.flatnonzero(labels == label), counts[rhythm])
        for label, rhythm in enumerate(train.about.rhythms)
    ]
    return train.select(np.concatenate(rows))


@torch.inference_mode()
def generated(
    model: Path, sampling: dict[str, Any], wanted: RecordSet, out: Path, seed: int
) -> RecordSet:
    """Generate one record per record of `wanted`, with its rhythm, if the set does not exist."""
    if out.exists():
        return RecordSet.open(out)
    generator = registry.load(model)
    chosen = checked(type(generator).Sampling, sampling, "sampling")
    seeds = np.random.SeedSequence([seed, len(wanted)]).generate_state(
        len(wanted), np.uint64
    ) >> np.uint64(1)
    names = [f"synthetic-{number}" for number in range(len(wanted))]
    spent = time.process_time()
    table = wanted.records.assign(id=names, patient=names, origin="synthetic")
    with write_record_set(out, replace(wanted.about, origin="synthetic")) as writer:
        for index in track(in_order(len(wanted), CHUNK), description=out.parent.name):
            made = generator.sample(
                torch.from_numpy(wanted.labels[index]),
                torch.from_numpy(seeds[index].astype(np.int64)),
                chosen,
            )
            writer.append(made.numpy(), table.iloc[index])
    per_record = 1000 * (time.process_time() - spent) / len(wanted)
    out.with_name(f"{out.name}_ms.json").write_text(json.dumps(per_record))
    return RecordSet.open(out)


def longer(sampling: dict[str, Any]) -> dict[str, Any]:
    """Return the sampling with `LONGER` times the network calls."""
    return {
        key: LONGER * value if key.endswith("steps") else value for key, value in sampling.items()
    }


REMADE = {"jittered": jittered, "surrogates": distribution.surrogates}


def remade(wanted: RecordSet, name: str, seed: int, out: Path) -> RecordSet:
    """Write changed copies of the records of `wanted`, by the function `REMADE[name]`."""
    if not out.exists():
        with write_record_set(out, replace(wanted.about, origin="synthetic")) as writer:
            writer.append(
                REMADE[name](wanted.signals(), np.random.default_rng(seed)), wanted.records
            )
    return RecordSet.open(out)


class Judge:
    """Compares record sets with the test records of a real set."""

    def __init__(self, params: Params, real: RecordSet, judged: str, folder: Path) -> None:
        self.params, self.folder = params, folder
        self.train, self.validation, self.test = (
            real.split("train"),
            real.split("validation"),
            real.split(judged),
        )
        self.embedding = distribution.Embedding.fit(self.train.signals(), 0)
        self.features, self.tested = (
            self.embedding(self.train.signals()),
            self.embedding(self.test.signals()),
        )
        self.rate = real.about.sampling_rate
        self.measured = physiology.measure(self.test.signals(), self.rate)

    def f1(
        self, made: list[RecordSet], validation: RecordSet, seed: int, name: str
    ) -> tuple[float, float]:
        """Return the macro-F1 of the study's classifier and of ridge regression.

        Both are trained on `made` and tested on the test records.
        """
        own = [
            self._own(made, validation, REPEATS * seed + repeat, f"{name}-{repeat}")
            for repeat in range(REPEATS)
        ]
        features = np.concatenate(
            [self.features if one is self.train else self.embedding(one.signals()) for one in made]
        )
        ridge = RidgeClassifierCV(np.logspace(-1, 5, 13), class_weight="balanced")
        ridge.fit(features, np.concatenate([one.labels for one in made]))
        return float(np.mean(own)), float(
            f1_score(self.test.labels, ridge.predict(self.tested), average="macro")
        )

    def _own(self, made: list[RecordSet], validation: RecordSet, seed: int, name: str) -> float:
        known = self.folder / f"{name}.json"
        if not known.exists():
            settings, records = self.params.classifier, Records(made)
            classifier = classifiers.create(
                settings, self.train.about.rhythms, records.scale(), seed
            )
            arguments = (
                classifier.objective(),
                made,
                [validation],
                settings.training,
                self.params.active.compute,
            )
            fit(
                *arguments,
                seed=seed,
                folder=self.folder / f"{name}-checkpoints",
                log=lambda *_: None,
            )
            found = probabilities(classifier, self.test).argmax(axis=1)
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(f1_score(self.test.labels, found, average="macro")))
        return json.loads(known.read_text())

    def quality(self, made: RecordSet, seed: int) -> dict[str, float]:
        """Return the scores of `ecgforge.quality` for equal numbers of records of each rhythm.

        The number is that of the test records or of `made`, whichever is smaller.
        """
        rng = np.random.default_rng(seed)
        pairs = [self._pair(made, label, rng) for label in np.unique(self.test.labels)]
        generated, tested = (np.concatenate(side) for side in zip(*pairs, strict=True))
        embedded = self.embedding(made.signals())
        other = physiology.measure(made.signals(generated), self.rate)
        people = np.concatenate(
            [self.test.records["patient"].to_numpy()[tested], [f"made {i}" for i in generated]]
        )
        row = {
            "two-sample": two_sample.accuracy(
                self.tested[tested], embedded[generated], people, seed
            )
        }
        for measure in physiology.MEASURES:
            row[f"{measure} W1"] = physiology.wasserstein(
                self.measured[measure].to_numpy()[tested], other[measure].to_numpy()
            )
        row["QRS constancy"] = self._constancy(made, generated)
        row["no beats"] = float(physiology.undetected(other).mean())
        row |= manifold.scores(self.tested[tested], embedded[generated], np.zeros(len(generated)))
        rhythms, synthetic = (
            self.test.records["rhythm"].to_numpy(),
            made.about.origin == "synthetic",
        )
        holdout = (self.tested, rhythms) if synthetic else (self.tested[1::2], rhythms[1::2])
        judged = (
            (embedded, made.records["rhythm"].to_numpy())
            if synthetic
            else (self.tested[::2], rhythms[::2])
        )
        neighbours = memorisation.NearestNeighbours.measure(
            judged, (self.features, self.train.records["rhythm"].to_numpy()), holdout
        )
        return row | neighbours.scores(memorisation.near(neighbours.holdout))

    def _constancy(self, made: RecordSet, chosen: np.ndarray) -> float:
        found = waves.measure(made.signals(chosen), self.rate, made.about.units)
        return float(found["qrs_constancy"].median())

    def _pair(self, made: RecordSet, label: int, rng: np.random.Generator) -> list[np.ndarray]:
        sides = [np.flatnonzero(labels == label) for labels in (made.labels, self.test.labels)]
        count = min(map(len, sides))
        return [rng.permutation(side)[:count] for side in sides]


def rows(
    params: Params,
    real: RecordSet,
    names: list[str],
    seeds: int,
    schedules: bool,
    with_classifiers: bool,
    judge: Judge,
    folder: Path,
) -> Iterator[dict]:
    print(f"{len(judge.train)} training and {len(judge.test)} test records")
    if with_classifiers:
        trained = (
            judge.f1([judge.train], judge.validation, seed, f"real-{seed}") for seed in range(seeds)
        )
        real_f1 = np.mean(list(trained), axis=0)
        print(f"TrRTeR own {real_f1[0]:.3f}, ridge {real_f1[1]:.3f}")
    for name in ["baseline", "jittered", "surrogates", *names]:
        for seed in range(seeds):
            place = folder / f"{name}-{seed}"
            if name == "baseline":
                yield {"set": name, **judge.quality(judge.train, seed)}
                continue
            made = other(params, real, name, seed, place, "records")
            if schedules and name not in REMADE:
                sampling = longer(params.generator(name).sampling)
                many = generated(
                    place / "model", sampling, learned(real, seed), place / "longer", seed
                )
                yield {
                    "set": f"{name}, {LONGER} x calls",
                    **judge.quality(many.split("train"), seed),
                }
            synthetic = made.split("train")
            row = {"set": name, **costs(place), **judge.quality(synthetic, seed)}
            if with_classifiers:
                filling = other(params, real, name, seed, place, "filling")
                compared = {
                    "alone": ([synthetic], made.split("validation")),
                    "mixed": ([judge.train, synthetic], judge.validation),
                    "filled": ([judge.train, filling], judge.validation),
                }
                found = [
                    judge.f1(*sets, seed, f"{name}-{seed}-{kind}") / real_f1
                    for kind, sets in compared.items()
                ]
                row |= dict(zip(SHARES, np.concatenate(found), strict=True))
            yield row


WANTED = {"records": learned, "filling": rare}


def other(
    params: Params, real: RecordSet, name: str, seed: int, place: Path, purpose: str
) -> RecordSet:
    """Return a set with the rhythms of the real records, or with those that balance them.

    It comes from a generator, or from `REMADE`.
    """
    wanted, out = WANTED[purpose](real, seed), place / purpose
    if name in REMADE:
        return remade(wanted, name, seed, out)
    model = trained(params, name, seed, real, place)
    return generated(model, params.generator(name).sampling, wanted, out, seed)


def costs(place: Path) -> dict[str, float]:
    """Return the CPU minutes of training, and the milliseconds for each record, of a generator."""
    files = {"CPU min": "cpu_minutes.json", "ms per record": "records_ms.json"}
    known = {cost: place / file for cost, file in files.items()}
    return {cost: json.loads(file.read_text()) for cost, file in known.items() if file.exists()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", type=Path, help="a record set from `ecgforge prepare`")
    parser.add_argument("folder", type=Path, help="folder for trained generators and their records")
    parser.add_argument("--profile", default="sample")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--generators", nargs="*", help="default: those of the profile")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--schedules",
        action="store_true",
        help="also compare each generator with more network calls",
    )
    parser.add_argument(
        "--no-classifiers", action="store_true", help="only the quality scores, in a minute or two"
    )
    parser.add_argument("--judged", choices=["validation", "test"], default="test")
    options = parser.parse_args()
    params = Params.read(options.params).model_copy(update={"profile": options.profile})
    real = with_splits(RecordSet.open(options.records), options.folder / "real")
    judge = Judge(params, real, options.judged, options.folder / options.judged)
    names = options.generators if options.generators is not None else list(params.active.generators)
    table = pd.DataFrame(
        rows(
            params,
            real,
            names,
            options.seeds,
            options.schedules,
            not options.no_classifiers,
            judge,
            options.folder,
        )
    ).set_index("set")
    groups = table.groupby(level=0, sort=False)
    shown = groups.mean().round(3).astype(str) + " ± " + groups.std().round(3).astype(str)
    print(shown.T.to_string(na_rep="-"))


if __name__ == "__main__":
    main()
