"""Studies with a known answer, on simulated patients: copies, white noise, and the simulator itself
as generators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import f1_score

from ecgforge.classifiers.common import base, registry
from ecgforge.params import Params, Quality, SimulatedSource
from ecgforge.preparation.prepare import RawSource, prepare
from ecgforge.quality.assess import assess, overall
from ecgforge.quality.flags import UNMARKED, beyond_baseline, flags
from ecgforge.records.record_set import RecordSet, write_record_set
from ecgforge.sources import simulated
from ecgforge.sources.layouts import LAYOUTS
from ecgforge.study.mixtures import part
from ecgforge.training.batches import Records
from ecgforge.training.fit import fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEMO = Params.model_validate(
    yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
).profiles["demo"]
SHARE = 0.12  # of the training records: few
STEPS = 80
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], RecordSet]:
    """Draw and prepare patients of the simulator: another seed, other patients of the same kind."""
    folder = tmp_path_factory.mktemp("site")

    def draw(seed: int) -> RecordSet:
        raw, out = folder / f"raw-{seed}", folder / f"prepared-{seed}"
        simulated.write(
            raw, SimulatedSource(kind="simulated", layout="ptbxl", records=600, seed=seed)
        )
        layout = LAYOUTS["ptbxl"]
        source = RawSource(
            raw, layout.catalogue(raw), layout.RHYTHM_CODES, layout.OTHER_RHYTHMS, True
        )
        tree = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
        prepare({"ptbxl": source}, out, Params.model_validate(tree).preprocessing, DEMO.preparation)
        return RecordSet.open(out)

    return draw


@pytest.fixture(scope="module")
def real(site: Callable[[int], RecordSet]) -> RecordSet:
    return site(5)


@pytest.fixture(scope="module")
def sets(
    real: RecordSet, site: Callable[[int], RecordSet], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RecordSet]:
    """What stands for synthetic training records, by the generator that it would be."""
    train, folder = real.split("train"), tmp_path_factory.mktemp("sets")

    def written(name: str, signals: np.ndarray) -> RecordSet:
        table = train.records.assign(id=[f"{name}-{row}" for row in range(len(train))], origin=name)
        with write_record_set(folder / name, replace(real.about, origin="synthetic")) as writer:
            writer.append(signals, table.assign(patient=table["id"]))
        return RecordSet.open(folder / name)

    signals = train.signals()
    noise = np.random.default_rng(0).standard_normal(signals.shape) * signals.std(
        axis=-1, keepdims=True
    )
    return {
        "copies": written("copies", signals),
        "noise": written("noise", noise.astype(np.float32)),
        "simulator": site(6).split("train"),
    }


@pytest.fixture(scope="module")
def scores(real: RecordSet, sets: dict[str, RecordSet]) -> dict[str, pd.DataFrame]:
    settings = Quality(records=84, permutations=99, views=["pca"], seed=0)
    return {
        name: assess(real.split("train"), held_out(real), made, settings)[0]
        for name, made in sets.items()
    }


def held_out(real: RecordSet) -> RecordSet:
    return real.select((real.records["split"] != "train").to_numpy())


@pytest.fixture(scope="module")
def f1(
    real: RecordSet,
    sets: dict[str, RecordSet],
    site: Callable[[int], RecordSet],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, float]:
    """Macro-F1 of classifiers of few real records, alone and with each set, on many patients that
    none has seen.
    """
    few, test, folder = (
        part(real.split("train"), SHARE, seed=0),
        site(7),
        tmp_path_factory.mktemp("classifiers"),
    )
    mixed = {
        "alone": [few],
        "copies": [few, few],
        **{name: [few, sets[name]] for name in ("noise", "simulator")},
    }
    training = DEMO.classifiers["resnet1d"].training.model_copy(
        update={"steps": STEPS, "patience": None}
    )
    found = {}
    for name, train in mixed.items():
        probabilities = []
        for seed in SEEDS[:2]:  # gains are larger than the differences between seeds
            classifier = registry.create(
                DEMO.classifiers["resnet1d"], real.about.rhythms, Records(train).scale(), seed
            )
            place = folder / f"{name}-{seed}"
            validation = [real.split("validation")]
            fit(
                classifier.objective(),
                train,
                validation,
                training,
                DEMO.compute,
                seed=seed,
                folder=place,
                log=lambda *_: None,
            )
            probabilities.append(base.probabilities(classifier, test))
        each = [f1_score(test.labels, one.argmax(axis=1), average="macro") for one in probabilities]
        found[name] = float(np.mean(each))
    torch.set_num_threads(1)
    return found


def value(scores: pd.DataFrame, metric: str, column: str = "value") -> float:
    return float(scores[(scores["rhythm"] == "all") & (scores["metric"] == metric)][column].iloc[0])


def test_copies_are_flagged_as_memorised(scores: dict[str, pd.DataFrame]) -> None:
    near, leaked = flags(scores["copies"])
    assert near.startswith("Memorised: 100 % of the records are nearer")
    assert leaked.startswith("Memorised: the records reveal the training patients")
    assert value(scores["copies"], "dcr_ratio") == pytest.approx(0, abs=1e-6)


def test_white_noise_is_flagged_by_every_score(scores: dict[str, pd.DataFrame]) -> None:
    noise = scores["noise"]
    assert any(flag.startswith("Unlike real records") for flag in flags(noise))
    marked = noise.assign(beyond=beyond_baseline(noise))[~noise["metric"].isin(UNMARKED)]
    overall, by_rhythm = marked[marked["rhythm"] == "all"], marked[marked["rhythm"] != "all"]
    assert len(overall) > 35
    assert overall[~overall["beyond"]]["metric"].tolist() == []
    assert by_rhythm["beyond"].mean() > 0.8
    for metric in ("precision", "recall", "density", "coverage"):
        assert value(noise, metric) < 0.7 * value(noise, metric, "baseline"), metric
    assert value(noise, "c2st_accuracy", "low") > 0.95
    assert value(noise, "undetected_share") > 0.5, (
        "there are no beats, and where some are found their distances are far off"
    )
    assert value(noise, "membership_auc") == pytest.approx(0.5, abs=0.1), "noise remembers nobody"


def test_the_simulator_itself_is_not_distinguished_from_its_records(
    scores: dict[str, pd.DataFrame], real: RecordSet, sets: dict[str, RecordSet]
) -> None:
    simulator = scores["simulator"]
    assert list(flags(simulator)) == []
    marked = simulator.assign(beyond=beyond_baseline(simulator))[
        ~simulator["metric"].isin(UNMARKED)
    ]
    for _, rows in marked.groupby(marked["rhythm"] == "all"):
        assert rows["beyond"].mean() < 0.06, "by chance some 2 %"
    others = [Quality(records=84, permutations=1, views=["pca"], seed=seed) for seed in SEEDS[1:]]
    more = [
        overall(real.split("train"), held_out(real), sets["simulator"], settings)["c2st_accuracy"]
        for settings in others
    ]
    # of 84 records, each is off by some 0.06
    accuracies = [value(simulator, "c2st_accuracy"), *more]
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.1), accuracies
    assert value(simulator, "mmd_p") > 0.02
    assert value(simulator, "membership_auc") == pytest.approx(0.5, abs=0.1)
    for metric in ("recall", "coverage", "precision"):
        assert value(simulator, metric) > value(simulator, metric, "baseline") - 0.1, metric


def test_what_helps_when_real_records_are_few(f1: dict[str, float]) -> None:
    assert f1["simulator"] > f1["alone"] + 0.05, f1
    assert f1["copies"] < f1["alone"] + 0.05, f1
    assert f1["noise"] < f1["alone"] + 0.03, f1
