"""Train and test classifiers in the settings of the study, once a dataset or with a generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ecgforge.classifiers import baselines
from ecgforge.files import atomic_write
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.common.classifier_runs import ClassifierRuns
from ecgforge.stages.common.tracked import Stage
from ecgforge.study import settings
from ecgforge.study.experiment import Experiment
from ecgforge.study.settings import SETTINGS, training_data


def on_real(params: Params, dataset: str, real: Path, models: Path, out: Path) -> None:
    """Run TrRTeR for every seed, plain and augmented, and the baselines.

    Writes the classifiers to `models`/seed-<n> and `models`/augmented/seed-<n>, and their
    predictions to `out`.
    """
    records = RecordSet.open(real)
    stage = Stage("classify", params, {"dataset": dataset})
    runs = ClassifierRuns(stage, records.about.origin == "simulated", models)
    data = training_data("real", records, None, 0, 0)
    with atomic_write(models) as scratch:
        for experiment in settings.on_real(params, dataset):
            folder = scratch / "augmented" if experiment.augmented else scratch
            chosen = params.classifier_settings(experiment.backbone)
            runs.train(experiment, data, records, chosen, folder / f"seed-{experiment.seed}")
        for name, predict in baselines.BASELINES.items():
            baseline = Experiment("TrRTeR", dataset, name, params.active.study.seeds[0])
            runs.baseline(baseline, predict, data, records.split("test"))
    runs.finish(out)


def on_synthetic(
    params: Params,
    dataset: str,
    generator: str,
    real: Path,
    synthetic: Path,
    baseline: Path,
    models: Path,
    out: Path,
) -> None:
    """Run the settings that need synthetic records, for every seed.

    Writes the classifiers to `models`/<synthetic, mixed or augmented>/seed-<n>, and their
    predictions to `out`.

    Args:
        baseline: the classifiers of `on_real`.
    """
    sets = {"real": RecordSet.open(real), "synthetic": RecordSet.open(synthetic)}
    share = params.active.study.synthetic_share
    stage = Stage("classify", params, {"dataset": dataset, "generator": generator})
    simulated = sets["real"].about.origin == "simulated"
    runs = ClassifierRuns(stage, simulated, models)
    with atomic_write(models) as scratch:
        for experiment in settings.on_synthetic(params, dataset, generator):
            setting, seed = SETTINGS[experiment.setting], experiment.seed
            tested_on, name = sets[setting.tested_on], f"seed-{seed}"
            if not experiment.trains:
                start = scratch / "synthetic" if setting.trained_on == "synthetic" else baseline
                runs.test(replace(experiment, start=str((start / name).resolve())), tested_on)
                continue
            data = training_data(setting.trained_on, sets["real"], sets["synthetic"], share, seed)
            kind = "augmented" if experiment.augmented else setting.trained_on
            chosen = params.classifier_settings(experiment.backbone)
            runs.train(experiment, data, tested_on, chosen, scratch / kind / name)
    runs.finish(out)
