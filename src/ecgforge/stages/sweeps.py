"""What goes past the five settings, one function a sweep: other classifiers, other mixtures, fine-tuning, fewer real records, what
each generator is made of, the same generator trained anew, and other hospitals. A cell is a dataset with a generator; what needs no
generator is done once a dataset.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.files import remove
from ecgforge.generators import synthesis
from ecgforge.generators.common import registry as generators
from ecgforge.generators.common.base import Generator
from ecgforge.generators.train import train as train_generator
from ecgforge.params import GeneratorSettings, Params
from ecgforge.quality import assess
from ecgforge.records.record_set import RecordSet, aligned
from ecgforge.report.tables import AS_IT_IS
from ecgforge.stages.inputs import DRAWN, checkpoints, curves, digests, held, record_inputs
from ecgforge.stages.train_generator import code_of
from ecgforge.stages.trials import Bench, Trial
from ecgforge.study import mixtures
from ecgforge.study.settings import SETTINGS, Diet, augmented, diet, evenly, mixed_in
from ecgforge.tracking import runs


@dataclass(frozen=True)
class Arm:
    """A dataset, a generator that learned from it, and where their records, models and classifiers lie."""

    params: Params
    dataset: str
    generator: str
    real: RecordSet
    records: Path
    model: Path
    classifiers: Path

    @classmethod
    def open(cls, params: Params, dataset: str, generator: str, data: Path, models: Path) -> Arm:
        real, own = RecordSet.open(data / "prepared" / dataset), Path(dataset) / generator
        return cls(params, dataset, generator, real, data / "synthetic" / own, models / "generators" / own, models / "classifiers" / own)

    @property
    def synthetic(self) -> RecordSet:
        """The generator's records; a sweep that draws its own does not need them to be there."""
        return RecordSet.open(self.records)

    @property
    def simulated(self) -> bool:
        return self.real.about.origin == "simulated"

    def bench(self) -> Bench:
        return Bench(self.params, self.dataset, self.generator, self.simulated)


def on_real(params: Params, dataset: str, real: Path, out: Path) -> None:
    """Train on real records alone what the sweeps compare with: other classifiers on all, and the study's on growing shares."""
    records, sweeps = RecordSet.open(real), params.active.sweeps
    bench = Bench(params, dataset, None, records.about.origin == "simulated")
    test = records.split("test")
    for seed in sweeps.seeds:
        trials = [
            Trial("TrRTeR", diet("real", records, None, 0, 0), test, sweep="backbones", settings=settings) for settings in sweeps.backbones
        ]
        for percent in sorted({*sweeps.transfer} - {100}):
            trials.append(Trial("TrRTeR", _part(records, percent, seed), test, sweep="scratch", point=f"{percent:g}"))
        for trial in trials:
            bench.train(trial, seed)
            bench.train(trial.changed(), seed)
    bench.finish(out)


def backbones(arm: Arm, out: Path) -> None:
    """TrSTeR and TrRSTeR with the other classifiers, and TrRSTeR with classical augmentation too."""
    study, sweeps, bench = arm.params.active.study, arm.params.active.sweeps, arm.bench()
    for seed in sweeps.seeds:
        for settings in sweeps.backbones:
            for name in ("TrSTeR", "TrRSTeR"):
                meal = diet(SETTINGS[name].trained_on, arm.real, arm.synthetic, study.synthetic_share, seed)
                trial = Trial(name, meal, arm.real.split("test"), sweep="backbones", settings=settings)
                bench.train(trial, seed)
            bench.train(trial.changed(), seed)
    bench.finish(out)


def mixture(arm: Arm, out: Path) -> None:
    """TrRSTeR with growing numbers of synthetic records, as the real ones are mixed or to balance the rare rhythms; with classical
    augmentation too."""
    sweeps, bench, train = arm.params.active.sweeps, arm.bench(), arm.real.split("train")
    asked = {
        (how, percent): mixtures.allotment(train.counts(), round(len(train) * percent / 100), how)
        for how in mixtures.HOWS
        for percent in sweeps.mixture
    }
    most = {rhythm: max(counts[rhythm] for counts in asked.values()) for rhythm in train.about.rhythms}
    settings = arm.params.generator(arm.generator)
    with _drawn(arm, "mixture", generators.load(arm.model), settings.sampling, {"train": most}) as synthetic:
        for seed in sweeps.seeds:
            for (how, percent), counts in asked.items():
                meal = Diet([train, mixtures.first(synthetic.split("train"), counts)], [arm.real.split("validation")])
                trial = Trial("TrRSTeR", meal, arm.real.split("test"), sweep=f"mixture, {how}", point=f"{percent:g}")
                bench.train(trial, seed)
                bench.train(trial.changed(), seed)
    bench.finish(out)


def transfer(arm: Arm, out: Path) -> None:
    """Fine-tune the classifiers of TrSTeR with growing shares of the real training records, as these are and classically augmented."""
    profile, bench = arm.params.active, arm.bench()
    settings, test = profile.classifier.model_copy(update={"training": profile.sweeps.fine_tuning}), arm.real.split("test")
    for seed in profile.sweeps.seeds:
        for percent in profile.sweeps.transfer:
            meal, start = _part(arm.real, percent, seed), arm.classifiers / "synthetic" / f"seed-{seed}"
            for method in profile.sweeps.methods:
                tuned = Trial("TrSTeR", meal, test, start=start, method=method, settings=settings)
                trial = replace(tuned, sweep=f"fine-tuning, {method}", point=f"{percent:g}")
                bench.train(trial, seed)
                bench.train(trial.changed(), seed)
    bench.finish(out)


def size(arm: Arm, out: Path) -> None:
    """Train the generator on a share of the real records, and help a classifier that has the same records of them, and no others: so
    TrRTeR is trained on these, too. TrSTeR has as many synthetic records at every share."""
    profile, bench, test = arm.params.active, arm.bench(), arm.real.split("test")
    settings = arm.params.generator(arm.generator)
    for percent in profile.sweeps.size:
        few = _shared(arm.real, percent, settings.seed)
        generator = _trained(arm, settings, few, "size", f"{percent:g}")
        wanted = synthesis.counts(few.about.rhythms, profile.synthesis, len(arm.real.split("train")))
        with _drawn(arm, f"size {percent:g}", generator, settings.sampling, wanted) as synthetic:
            for seed in profile.sweeps.seeds:
                for name in ("TrRTeR", "TrSTeR", "TrRSTeR"):
                    meal = diet(SETTINGS[name].trained_on, few, synthetic, profile.study.synthetic_share, seed)
                    trial = Trial(name, meal, test, sweep="size", point=f"{percent:g}")
                    bench.train(trial, seed)
                    if name != "TrSTeR":
                        bench.train(trial.changed(), seed)
    bench.finish(out)


def ablation(arm: Arm, out: Path) -> None:
    """Change one thing of the generator at a time: quality, TrSTeR and cost of each variation, beside the generator as it is.

    Writes predictions as the other sweeps do, and `out`/variations.csv with the scores of `quality.assess` over all rhythms, seconds of
    training (missing where only sampling differs) and milliseconds a record drawn.
    """
    profile, bench, tables = arm.params.active, arm.bench(), []
    settings = arm.params.generator(arm.generator)
    for name, changed in {AS_IT_IS: settings, **settings.variations()}.items():
        same = (changed.network, changed.training) == (settings.network, settings.training)
        started = time.perf_counter()
        generator = generators.load(arm.model) if same else _trained(arm, changed, arm.real, "ablation", name)
        cost = {"train_s": np.nan if same else time.perf_counter() - started}
        wanted = synthesis.counts(arm.real.about.rhythms, profile.synthesis, len(arm.real.split("train")))
        started = time.perf_counter()
        with _drawn(arm, f"ablation {name}", generator, changed.sampling, wanted) as synthetic:
            cost["generate_ms"] = 1000 * (time.perf_counter() - started) / len(synthetic)
            real = (arm.real.split("train"), arm.real.split("test"))
            scores = assess.overall(*real, synthetic.split("train"), profile.quality)
            tables.append({"dataset": arm.dataset, "generator": arm.generator, "variation": name, **cost, **scores})
            for seed in profile.sweeps.seeds if name != AS_IT_IS else ():
                meal = diet("synthetic", arm.real, synthetic, 0, seed)
                bench.train(Trial("TrSTeR", meal, arm.real.split("test"), sweep="ablation", point=name), seed)
    bench.finish(out)
    pd.DataFrame(tables).to_csv(out / "variations.csv", index=False, float_format="%.6g")


def retrained(arm: Arm, out: Path) -> None:
    """TrSTeR and TrRSTeR, the latter with classical augmentation too, where each seed is that of a training of the generator as well, so
    that their intervals hold what one training and another differ by. One may be the study's own."""
    profile, bench, test = arm.params.active, arm.bench(), arm.real.split("test")
    settings = arm.params.generator(arm.generator)
    wanted = synthesis.counts(arm.real.about.rhythms, profile.synthesis, len(arm.real.split("train")))
    for seed in profile.sweeps.retrained:
        same, anew = seed == settings.seed, settings.model_copy(update={"seed": seed})
        generator = generators.load(arm.model) if same else _trained(arm, anew, arm.real, "retrained", f"seed {seed}")
        with _drawn(arm, f"retrained {seed}", generator, settings.sampling, wanted, 0 if same else seed) as synthetic:
            for name in ("TrSTeR", "TrRSTeR"):
                meal = diet(SETTINGS[name].trained_on, arm.real, synthetic, profile.study.synthetic_share, seed)
                trial = Trial(name, meal, test, sweep="retrained")
                bench.train(trial, seed)
            bench.train(trial.changed(), seed)
    bench.finish(out)


KINDS = {"backbones": backbones, "mixture": mixture, "transfer": transfer, "size": size, "ablation": ablation, "retrained": retrained}


def run(kind: str, arm: Arm, out: Path) -> None:
    """Run the sweep `kind`, one of `KINDS`.

    Raises:
        EcgforgeError: there is no such sweep.
    """
    if kind not in KINDS:
        raise EcgforgeError(f"'{kind}' is no sweep: known are {', '.join(KINDS)}")
    KINDS[kind](arm, out)


def hospitals(here: Arm, there: Arm, out: Path) -> None:
    """Train where `here` is from and test where `there` is from: with real records alone, and beside as many synthetic ones of either;
    each with classical augmentation too."""
    share = here.params.active.study.synthetic_share
    rhythms = here.real.about.rhythms
    test = aligned(there.real.split("test"), rhythms)
    bench = Bench(here.params, there.dataset, here.generator, here.simulated)
    trained = here.classifiers.parent / "real"
    at_home = [
        ("TrRTeR", "real", False, trained),
        ("TrRTeR", "real", True, trained / "augmented"),
        ("TrRSTeR", "own synthetic", False, here.classifiers / "mixed"),
        ("TrRSTeR", "own synthetic", True, here.classifiers / "augmented"),
    ]
    foreign, real = aligned(there.synthetic.split("train"), rhythms), here.real.split("train")
    count = min(len(foreign), mixed_in(len(real), share))
    for seed in here.params.active.sweeps.seeds:
        for setting, kind, changed, folder in at_home:
            arm, point = augmented("hospitals", changed), f"{here.dataset}, {kind}"
            bench.test(Trial(setting, Diet([], []), test, sweep=arm, point=point, start=folder / f"seed-{seed}"), seed)
        meal = Diet([real, evenly(foreign, count, seed)], [here.real.split("validation")])
        trial = Trial("TrRSTeR", meal, test, sweep="hospitals", point=f"{here.dataset}, foreign synthetic")
        bench.train(trial, seed)
        bench.train(trial.changed(), seed)
    bench.finish(out)


def _part(records: RecordSet, percent: float, seed: int) -> Diet:
    """A share of the real records to train with, and the same share of those to stop by: who has few has few of both."""
    few = _shared(records, percent, seed)
    return Diet([few.split("train")], [few.split("validation")])


def _shared(records: RecordSet, percent: float, seed: int) -> RecordSet:
    kept = [mixtures.part(records.split(split), percent / 100, seed).rows for split in ("train", "validation")]
    return records.select(pd.Series(records.rows).isin([row for rows in kept for row in rows]).to_numpy())


def _trained(arm: Arm, settings: GeneratorSettings, records: RecordSet, sweep: str, point: str) -> Generator:
    """Train a generator as a tracked run of a sweep; it is not registered."""
    seed = settings.seed
    cell = runs.Cell("generator", arm.dataset, seed, arm.simulated, generator=arm.generator, sweep=sweep, point=point)
    inputs = record_inputs([("training", records)])
    tree = settings.model_dump(exclude={"sampling", "ablations"}) | {"training_records": {"real": len(records.split("train"))}}
    identity = runs.identity(cell, tree, digests(inputs), code_of(arm.generator))
    with runs.tracked(cell, identity=identity, params=tree, inputs=inputs, resume_file=curves(identity)) as run:
        generator = train_generator(arm.generator, settings, records, arm.params.active.compute, checkpoints(identity), run.log)
    remove(checkpoints(identity))
    return generator


@contextmanager
def _drawn(
    arm: Arm, purpose: str, generator: Generator, sampling: dict[str, Any], wanted: synthesis.Counts, further: int = 0
) -> Iterator[RecordSet]:
    """Draw records that are needed for the length of a block, in a folder of their own, `further` seeds away from the study's."""
    profile, folder = arm.params.active, DRAWN / f"{arm.dataset}-{arm.generator}-{purpose.replace(' ', '-')}"
    drawing = profile.synthesis.model_copy(update={"seed": profile.synthesis.seed + further})
    made = {"sampling": sampling, "wanted": json.loads(json.dumps(wanted))}
    with held(folder):
        try:
            synthesis.synthesize(generator, arm.generator, sampling, wanted, drawing, profile.compute, arm.real, made, folder)
            yield RecordSet.open(folder)
        finally:
            remove(folder)
