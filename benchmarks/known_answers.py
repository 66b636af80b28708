"""Ask the study questions whose answers are known, and count how often it finds them.

python benchmarks/known_answers.py WORK [--studies 10] [--unchanged 20] [--large 3]

Each study has new simulated patients, five rounds of cross-fitting and two seeds. The classifier
`resnet1d` of the profile `demo` is trained for fewer steps. Each condition is compared with the
real records alone by the study's own answer (`analysis.answers`). The conditions:

- simulated: real records, and twice as many new records of the simulator, which is a perfect
  generator;
- permuted: the same, but the rhythms of the new records are permuted;
- unchanged: the real records alone, with other seeds;
- copies: real records, and a copy of each, with `--large-records` patients and longer trainings,
  since a small study cannot rule out a small gain.

The bounds: `simulated` has a gain in 80 % of the studies. `permuted` hurts or does not help enough
in 80 %, and so does `copies`. All copies are flagged as memorised, and no simulated records are.
`unchanged` has a gain in at most 5 % of the studies.

The table has the true gain: the mean difference in macro-F1 on a fresh test set, over all studies,
rounds and seeds. The true gain of `copies` and `unchanged` is 0 by design. `baseline` is the
macro-F1 of real records alone, and `trivial` that of always the commonest rhythm.

Results are kept in the folder WORK, and a killed run continues there. The exit status is 1 if a
bound is missed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from ecgforge import console
from ecgforge.analysis import answers, comparisons
from ecgforge.analysis.claims import RR, Question
from ecgforge.analysis.comparisons import Condition
from ecgforge.analysis.verdicts import GAIN, NO_GAIN
from ecgforge.classifiers.common import registry as classifiers
from ecgforge.classifiers.common.base import probabilities
from ecgforge.files import atomic_write, read_csv
from ecgforge.params import Params, SimulatedSource
from ecgforge.preparation.cross_fitting import write_round
from ecgforge.preparation.prepare import RawSource, prepare
from ecgforge.quality.assess import assess
from ecgforge.quality.flags import flags
from ecgforge.records.record_set import RecordSet, aligned
from ecgforge.registry.gates import generator_gates
from ecgforge.rounds import Round, rounds
from ecgforge.sources import registry as sources
from ecgforge.sources.layouts import LAYOUTS
from ecgforge.study import predictions
from ecgforge.study.experiment import Experiment
from ecgforge.study.settings import TrainingData, number_mixed_in, training_data
from ecgforge.training.batches import Records
from ecgforge.training.fit import fit

PROFILE = Path(__file__).parents[1] / "params.yaml"
SITE: Literal["ptbxl"] = "ptbxl"
REAL = "real"
# the condition, and the share of synthetic records in its training records
SHARES = {"simulated": 2 / 3, "permuted": 2 / 3, "copies": 1 / 2}
SMALL = ("simulated", "permuted")
UNCHANGED = "unchanged"
CONDITIONS = (REAL, *SHARES, UNCHANGED)
FRESH = 600  # records of the test set that measures the truth
ENOUGH, FALSE_ALARMS = 0.8, 0.05  # bounds on shares of studies
MEMORISATION = ("copied", "nearest", "membership")  # gates


@dataclass(frozen=True)
class Plan:
    """The sizes of studies: patients, rounds, seeds, and steps of a training.

    Patients of study n are simulated with the seed `first` + n.
    """

    first: int
    records: int
    folds: int
    seeds: int
    steps: int
    params: Params

    def simulated(self, seed: int, records: int, folder: Path) -> RecordSet:
        """Simulate and prepare patients, if the folder does not exist."""
        if not folder.exists():
            layout = LAYOUTS[SITE]
            settings = SimulatedSource(kind="simulated", layout=SITE, records=records, seed=seed)
            preparation = self.params.active.preparation.model_copy(update={"min_records": 1})
            with tempfile.TemporaryDirectory() as scratch:
                raw = Path(scratch) / SITE
                sources.acquire(settings, raw, self.params.preprocessing.sampling_rate)
                tables = (layout.catalogue(raw), layout.RHYTHM_CODES, layout.OTHER_RHYTHMS)
                source = RawSource(raw, *tables, simulated=True)
                prepare({SITE: source}, folder, self.params.preprocessing, preparation)
        return RecordSet.open(folder)


@dataclass(frozen=True)
class Study:
    """One study: its number, its sizes, and the folder of its results."""

    number: int
    plan: Plan
    folder: Path

    def each_round(self) -> Iterator[tuple[Round, RecordSet]]:
        """Yield the real records with the splits of each round."""
        seed = self.plan.first + self.number
        real = self.plan.simulated(seed, self.plan.records, self.folder / REAL)
        for chosen in rounds(SITE, self.plan.folds):
            folder = self.folder / chosen.name
            if not folder.exists():
                write_round(real, chosen, folder)
            yield chosen, RecordSet.open(folder)

    def synthetic(self, name: str, real: RecordSet, number: int) -> RecordSet:
        """Return the synthetic records of a condition in a round; no two rounds share any."""
        if name == "copies":
            found = real.split("train")
        else:
            # test and validation have two groups of the ten published folds
            train = round(len(real) * (1 - 2 * (10 // self.plan.folds) / 10))
            wanted = 1.12 * number_mixed_in(train, SHARES[name])
            count, seed = round(wanted * self.plan.folds), 5000 + self.number
            pool = self.plan.simulated(seed, count, self.folder / "pool")
            place = np.arange(len(pool)) % self.plan.folds == number - 1
            found = aligned(pool.select(place), real.about.rhythms)
        table = found.records.assign(split="train", origin="synthetic")
        if name == "permuted":
            order = np.random.default_rng([self.number, number]).permutation(len(table))
            table["rhythm"] = table["rhythm"].to_numpy()[order]
        return replace(found, records=table, about=replace(found.about, origin="synthetic"))

    def data(self, name: str, real: RecordSet, number: int, seed: int) -> TrainingData:
        """Return the training records of a condition in a round."""
        if name not in SHARES:
            return training_data("real", real, None, 0, seed)
        made = self.synthetic(name, real, number)
        return training_data("mixed", real, made, SHARES[name], seed)

    def condition(self, name: str, fresh: RecordSet) -> pd.DataFrame:
        """Return the predictions of a condition, with macro-F1 on fresh records as `truth_f1`.

        Its classifiers are trained if they were not.
        """
        file = self.folder / f"{name}.csv"
        if not file.exists():
            parts = [
                self._trained(name, chosen, real, seed, fresh)
                for chosen, real in self.each_round()
                for seed in range(self.plan.seeds)
            ]
            with atomic_write(file) as scratch:
                pd.concat(parts, ignore_index=True).to_csv(scratch, index=False)
        texts = dict.fromkeys([*predictions.TEXTS, *predictions.FACTS], str)
        return read_csv(file, dtype=texts, keep_default_na=False)

    def _trained(
        self, name: str, chosen: Round, real: RecordSet, seed: int, fresh: RecordSet
    ) -> pd.DataFrame:
        settings, data = self.plan.params.classifier, self.data(name, real, chosen.number, seed)
        every = max(1, self.plan.steps // 3)
        training = settings.training.model_copy(
            update={"steps": 3 * every, "evaluate_every": every}
        )
        # No two trainings have the same seed, also not in two studies: these would share what a
        # seed is better or worse by.
        key = [self.plan.first + self.number, chosen.number, seed, CONDITIONS.index(name)]
        own = int(np.random.SeedSequence(key).generate_state(1)[0] >> 1)
        scale = Records(data.train).scale()
        classifier = classifiers.create(settings, real.about.rhythms, scale, own)
        curve: list[str] = []

        def log(metrics: dict[str, float], _: int) -> None:
            if "validation/f1_macro" in metrics:
                curve.append(f"{metrics['validation/f1_macro']:.2f}")

        with tempfile.TemporaryDirectory() as scratch:
            fit(
                classifier.objective(),
                data.train,
                data.validation,
                training,
                self.plan.params.active.compute,
                seed=own,
                folder=Path(scratch),
                log=log,
            )
        test, setting = real.split("test"), "TrRSTeR" if name != REAL else "TrRTeR"
        generator = "" if name == REAL else name
        experiment = Experiment(setting, chosen.name, settings.backbone, seed, generator)
        found = predictions.table(test, probabilities(classifier, test))
        known = aligned(fresh, real.about.rhythms)
        guessed = probabilities(classifier, known).argmax(axis=1)
        return found.assign(
            **experiment.keys,
            truth_f1=f1_score(known.labels, guessed, average="macro"),
            curve=" ".join(curve),
        )

    def memorised(self, name: str) -> bool:
        """Return whether the quality scores flag the synthetic records of the first round, and a
        gate of memorisation fails.
        """
        file = self.folder / f"{name}-quality.json"
        if not file.exists():
            chosen, real = next(iter(self.each_round()))
            made = self.synthetic(name, real, chosen.number)
            settings = self.plan.params.active.quality.model_copy(update={"permutations": 20})
            scores, _ = assess(real.split("train"), real.split("test"), made, settings)
            text = json.dumps({"flags": list(flags(scores)), "failed": self._failed(scores)})
            file.write_text(text + "\n")
        found = json.loads(file.read_text())
        return bool(found["failed"]) and any("Memorised" in flag for flag in found["flags"])

    def _failed(self, scores: pd.DataFrame) -> list[str]:
        """Return the gates of memorisation that fail."""
        overall = scores[scores["rhythm"] == "all"].set_index("metric")
        values = overall["value"].to_dict()
        values |= overall["baseline"].add_suffix("_baseline").to_dict()
        gates = generator_gates(values, self.plan.params.gates.generator)
        return [gate.name for gate in gates if gate.name in MEMORISATION and not gate.passed]

    def judged(self, name: str, fresh: RecordSet) -> dict[str, Any]:
        """Return a row: the study's answer on a condition, and the truth."""
        real, other = self.condition(REAL, fresh), self.condition(name, fresh)
        drop = ["truth_f1", "curve"]
        found = pd.concat([real.drop(columns=drop), other.drop(columns=drop)], ignore_index=True)
        backbone, active = self.plan.params.backbone, self.plan.params.active.study
        question = Question(
            _condition("TrRTeR", "", backbone),
            _condition("TrRSTeR", name, backbone),
            _condition("TrRTeR", "", backbone, augmented=True),
            rr=_condition("TrRTeR", "", RR),  # did not run
            others=[],
        )
        evidence = comparisons.Evidence(comparisons.by_condition(found), {})
        (answer,) = answers.answers(
            evidence, {str(SITE): question}, {str(SITE): answers.Training([0], True)}, active
        )
        assert answer.gain
        runs = [one.drop_duplicates(["fold", "seed"])["truth_f1"].mean() for one in (real, other)]
        commonest = real["truth"].mode()[0]
        shares = real.drop_duplicates("id")["truth"]
        trivial = f1_score(shares, [commonest] * len(shares), average="macro", zero_division=0)
        return {
            "condition": name,
            "study": self.number,
            "records": len(shares),
            "baseline": runs[0],
            "trivial": trivial,
            "true_gain": runs[1] - runs[0],
            "estimate": answer.gain.estimate,
            "half_width": (answer.gain.high - answer.gain.low) / 2,
            "finding": answer.gain.finding,
            "memorised": self.memorised(name) if name in ("simulated", "copies") else None,
        }

    def tidy(self) -> None:
        """Remove the records, which can be simulated again."""
        for folder in self.folder.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)


def _condition(setting: str, generator: str, backbone: str, augmented: bool = False) -> Condition:
    keys: Condition = {"setting": setting, "generator": generator, "backbone": backbone}
    return keys | {"sweep": "", "point": "", "augmented": augmented}


def studies(plan: Plan, work: Path, counts: argparse.Namespace) -> Iterator[tuple[Study, str]]:
    """Yield each study with each condition that it judges."""
    for number in range(max(counts.studies, counts.unchanged)):
        names = [*SMALL] * (number < counts.studies) + [UNCHANGED] * (number < counts.unchanged)
        for name in names:
            yield Study(number, plan, work / f"study-{number}"), name
    sizes = {"records": counts.large_records, "steps": counts.large_steps}
    large = replace(plan, first=2000, **sizes)
    for number in range(counts.large):
        yield Study(number, large, work / f"large-{number}"), "copies"


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each condition: means over studies, and how often each finding occurs."""
    numbers = ["records", "baseline", "trivial", "true_gain", "estimate", "half_width"]
    groups = rows.groupby("condition", sort=False)
    table = groups[numbers].mean()
    table.insert(0, "studies", groups.size())
    counts = pd.crosstab(rows["condition"], rows["finding"])
    every = ["helps enough", "helps", "undecided", "does not help enough", "hurts"]
    table = table.join(counts.reindex(columns=every, fill_value=0))
    return table.join(groups["memorised"].sum(min_count=1)).reset_index()


def bounds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each bound with the share of studies that was found, and whether it is met."""
    gains = rows["finding"].isin(GAIN).groupby(rows["condition"]).mean()
    none = rows["finding"].isin(NO_GAIN).groupby(rows["condition"]).mean()
    memorised = rows.dropna(subset="memorised").groupby("condition")["memorised"].mean()
    wanted = [
        ("simulated", "a gain", gains, 1, ENOUGH),
        ("permuted", "no gain", none, 1, ENOUGH),
        (UNCHANGED, "a gain", gains, -1, FALSE_ALARMS),
        ("copies", "no gain", none, 1, ENOUGH),
        ("copies", "memorised", memorised, 1, 1.0),
        ("simulated", "memorised", memorised, -1, 0.0),
    ]
    return pd.DataFrame(
        [
            {
                "condition": name,
                "finding": what,
                "found": float(found[name]),
                "bound": f"at {'least' if sign > 0 else 'most'} {bound:.0%}",
                "met": bool(sign * found[name] >= sign * bound),
            }
            for name, what, found, sign, bound in wanted
            if name in found
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How often the study finds known answers")
    parser.add_argument("work", type=Path, help="folder of the results")
    parser.add_argument("--studies", type=int, default=10)
    parser.add_argument("--unchanged", type=int, default=20, help="studies without a difference")
    parser.add_argument("--large", type=int, default=3, help="large studies of copies")
    parser.add_argument("--records", type=int, default=250, help="patients of a study")
    parser.add_argument("--large-records", type=int, default=5000)
    parser.add_argument("--large-steps", type=int, default=360, help="of a training on them")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=90, help="of a training")
    parser.add_argument("--fresh", type=int, default=FRESH, help="records that measure the truth")
    given = parser.parse_args(arguments)
    start, params = time.perf_counter(), Params.read(PROFILE)
    plan = Plan(1000, given.records, given.folds, given.seeds, given.steps, params)
    fresh = plan.simulated(9999, given.fresh, given.work / "fresh")
    rows, before = [], None
    work = list(studies(plan, given.work, given))
    for study, name in console.track(work, "known answers"):
        if before and before.folder != study.folder:
            before.tidy()
        study.folder.mkdir(parents=True, exist_ok=True)
        rows.append(study.judged(name, fresh))
        row, before = rows[-1], study
        console.err.print(
            f"{row['condition']}, study {row['study']}: {row['finding']}, {row['estimate']:+.3f} "
            f"+- {row['half_width']:.3f}, true gain {row['true_gain']:+.3f}"
        )
    if before:
        before.tidy()
    table = pd.DataFrame(rows)
    table.to_csv(given.work / "studies.csv", index=False)
    found = bounds(table)
    with pd.option_context("display.width", 200):
        console.out.print(summary(table).round(3).to_string(index=False))
        console.out.print(found.round(3).to_string(index=False))
    console.out.print(f"{time.perf_counter() - start:.0f} s")
    return int(not found["met"].all())


if __name__ == "__main__":
    sys.exit(main())
