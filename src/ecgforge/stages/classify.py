"""Train and test classifiers in the settings of the study. A cell is a dataset, with a generator or without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ecgforge.classifiers import baselines
from ecgforge.files import whole
from ecgforge.params import Params
from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.trials import Bench, Trial
from ecgforge.study.settings import AUGMENTATION, CLASSICAL, SETTINGS, diet


def on_real(params: Params, dataset: str, real: Path, models_out: Path, out: Path) -> None:
    """Train on real records and test on real ones (TrRTeR), for every seed; the same with classical augmentation, as a sweep;
    and the baselines.

    Writes the classifiers to `models_out`/seed-<n> and `models_out`/augmented/seed-<n>, and their predictions to `out`.
    """
    records = RecordSet.open(real)
    bench = Bench(params, dataset, None, records.about.origin == "simulated")
    trial = Trial("TrRTeR", diet("real", records, None, 0, 0), records.split("test"))
    with whole(models_out) as scratch:
        for seed in params.active.study.seeds:
            bench.train(trial, seed, scratch / f"seed-{seed}")
        for seed in params.active.sweeps.seeds:
            bench.train(_augmented(trial), seed, scratch / "augmented" / f"seed-{seed}")
        for name, judge in baselines.BASELINES.items():
            bench.baseline(name, judge, trial, [baselines, beats])
    bench.finish(out)


def on_synthetic(
    params: Params, dataset: str, generator: str, real: Path, synthetic: Path, baseline: Path, models_out: Path, out: Path
) -> None:
    """Run the settings that need synthetic records, for every seed, with the classifiers in `baseline` where real ones train; and
    TrRSTeR with classical augmentation, as a sweep.

    Writes the classifiers to `models_out`/<synthetic, mixed or augmented>/seed-<n>, and their predictions to `out`.
    """
    study, records, made = params.active.study, RecordSet.open(real), RecordSet.open(synthetic)
    bench = Bench(params, dataset, generator, records.about.origin == "simulated")

    def trial(name: str, seed: int) -> Trial:
        setting = SETTINGS[name]
        meal = diet(setting.trained_on, records, made, study.synthetic_share, seed)
        return Trial(name, meal, (records if setting.tested_on == "real" else made).split("test"))

    with whole(models_out) as scratch:
        for seed in study.seeds:
            name = f"seed-{seed}"
            bench.train(trial("TrSTeR", seed), seed, scratch / "synthetic" / name)
            bench.train(trial("TrRSTeR", seed), seed, scratch / "mixed" / name)
            bench.test(replace(trial("TrSTeS", seed), start=scratch / "synthetic" / name), seed)
            bench.test(replace(trial("TrRTeS", seed), start=baseline / name), seed)
        for seed in params.active.sweeps.seeds:
            bench.train(_augmented(trial("TrRSTeR", seed)), seed, scratch / "augmented" / f"seed-{seed}")
    bench.finish(out)


def _augmented(trial: Trial) -> Trial:
    return replace(trial, sweep=AUGMENTATION, point=CLASSICAL, augmented=True)
