"""How much a profile asks for, before anything runs: its cells, the trainings in them and the records that they draw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ecgforge.params import Params
from ecgforge.records.rhythms import RHYTHMS
from ecgforge.study import mixtures

Counts = Mapping[str, Mapping[str, int]]  # training records by dataset and rhythm


@dataclass(frozen=True)
class Work:
    """What the cells of a stage do in all.

    Attributes:
        cells: stages of DVC.
        steps: of training, by backbone.
        trainings: of generators as they are in the parameters, by generator; a variation of one counts as one.
        drawn: synthetic records, by generator.
        scored: record sets whose quality is judged; without intervals and floors one counts as a third.
        compared: pairs of a synthetic and a real training record, in search of memorised ones.
    """

    stage: str
    cells: int
    steps: dict[str, int] = field(default_factory=dict)
    trainings: dict[str, int] = field(default_factory=dict)
    drawn: dict[str, int] = field(default_factory=dict)
    scored: float = 0.0
    compared: int = 0


def workload(params: Params, real: Counts) -> Iterator[Work]:
    """Yield the work of each stage, in the order of the study.

    Args:
        real: training records of each dataset, by rhythm; what sources are expected to hold will do.
    """
    profile, sets, generators = params.active, len(params.datasets), params.generators
    seeds, few = len(profile.study.seeds), len(profile.sweeps.seeds)
    steps, backbone = profile.classifier.training.steps, profile.classifier.backbone
    arms = sets * len(generators)
    yield Work("acquire", len(params.sources))
    yield Work("prepare, merge", len(params.sources) + len(params.merged))
    yield from _tuning(params, sets)
    yield Work("train_generator", arms, trainings=dict.fromkeys(generators, sets))
    drawn = sum(_as_real(params, real[dataset]) for dataset in params.datasets)
    yield Work("synthesize", arms, drawn=dict.fromkeys(generators, drawn))
    yield Work("classify_real", sets, {backbone: sets * (seeds + few) * steps})  # plain and augmented
    yield Work("classify", arms, {backbone: arms * (2 * seeds + few) * steps})  # TrSTeR, TrRSTeR, and that augmented
    compared = len(generators) * sum(_for_training(params, real[dataset]) * sum(real[dataset].values()) for dataset in params.datasets)
    yield Work("quality", arms, scored=arms, compared=compared)
    yield from _sweeps(params, real)
    yield Work("report", 1)


def _tuning(params: Params, sets: int) -> Iterator[Work]:
    """As if no trial were pruned."""
    classifier = params.active.classifier
    steps = sets * classifier.tuning.n_trials * classifier.tuning.repeats * classifier.training.steps
    yield Work("tune_classifier", sets, {classifier.backbone: steps} if steps else {})
    tunings = {name: params.generator(name).tuning for name in params.generators}
    tunings = {name: tuning for name, tuning in tunings.items() if tuning.n_trials}
    # Trials that differ in sampling alone share a training.
    trained = {name: 1 if all(key.startswith("sampling.") for key in one.space) else one.n_trials for name, one in tunings.items()}
    yield Work(
        "tune_generator",
        sets * len(params.generators),
        trainings={name: sets * count for name, count in trained.items()},
        drawn={name: sets * one.n_trials * one.records * len(RHYTHMS) for name, one in tunings.items()},
    )


def _sweeps(params: Params, real: Counts) -> Iterator[Work]:
    profile, swept = params.active, params.swept
    sweeps, main = profile.sweeps, profile.classifier
    sets, arms = len(swept.datasets), len(swept.datasets) * len(swept.generators)
    seeds = len(sweeps.seeds)
    once = {settings.backbone: seeds * settings.training.steps for settings in sweeps.backbones}
    steps = seeds * main.training.steps
    shares = len({*sweeps.transfer} - {100})
    drawn = sum(_as_real(params, real[dataset]) for dataset in swept.datasets)
    # What learns from real records learns twice, plain and augmented; TrSTeR once.
    yield Work("sweep_real", sets, {main.backbone: 2 * sets * shares * steps, **{name: 2 * sets * count for name, count in once.items()}})
    yield Work("backbones", arms, {name: 3 * arms * count for name, count in once.items()})
    mixed = sum(_mixed(params, real[dataset]) for dataset in swept.datasets)
    points = len(mixtures.HOWS) * len(sweeps.mixture)
    yield Work("mixture", arms, {main.backbone: 2 * arms * points * steps}, drawn=dict.fromkeys(swept.generators, mixed))
    tuned = seeds * len(sweeps.transfer) * len(sweeps.methods) * sweeps.fine_tuning.steps
    yield Work("transfer", arms, {main.backbone: 2 * arms * tuned})
    fewer = len(sweeps.size)
    yield Work(
        "size",
        arms,
        {main.backbone: arms * 5 * fewer * steps},
        dict.fromkeys(swept.generators, sets * fewer),
        dict.fromkeys(swept.generators, fewer * drawn),
    )
    varied = {name: params.generator(name).variations() for name in swept.generators}
    yield Work(
        "ablation",
        arms,
        {main.backbone: sets * sum(map(len, varied.values())) * steps},
        {name: sets * sum(one.network != params.generator(name).network for one in found.values()) for name, found in varied.items()},
        {name: drawn * (1 + len(found)) for name, found in varied.items()},
        sets * sum(1 + len(found) for found in varied.values()) / 3,
    )
    again = {name: sum(seed != params.generator(name).seed for seed in sweeps.retrained) for name in swept.retrained}
    anew, trainings = sets * len(swept.retrained), len(sweeps.retrained)
    yield Work(
        "retrained",
        anew,
        {main.backbone: anew * 3 * trainings * main.training.steps},
        {name: sets * count for name, count in again.items()},
        dict.fromkeys(swept.retrained, trainings * drawn),
    )
    pairs = len(swept.hospitals) * len(swept.generators)
    yield Work("hospitals", pairs, {main.backbone: 2 * pairs * steps})


def _as_real(params: Params, real: Mapping[str, int]) -> int:
    """Records that `synthesize` draws for a dataset."""
    synthesis = params.active.synthesis
    return _for_training(params, real) + len(real) * (synthesis.validation + synthesis.test)


def _for_training(params: Params, real: Mapping[str, int]) -> int:
    train = params.active.synthesis.train
    return len(real) * (math.ceil(sum(real.values()) / len(real)) if train == "as_real" else train)


def _mixed(params: Params, real: Mapping[str, int]) -> int:
    """Records that the mixture sweep draws for a dataset: of each rhythm, the most that a point asks for."""
    total = sum(real.values())
    asked = [
        mixtures.allotment(real, round(total * percent / 100), how) for how in mixtures.HOWS for percent in params.active.sweeps.mixture
    ]
    return sum(max(counts[rhythm] for counts in asked) for rhythm in real)
