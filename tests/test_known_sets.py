"""The quality scores rank sets that are wrong in a known way, made of simulated patients."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgforge.params import Preprocessing, Quality
from ecgforge.preparation.preprocessing import prepare_signal
from ecgforge.quality.flags import LOW_CONSTANCY
from ecgforge.quality.samples import Samples
from ecgforge.quality.scores import compare
from ecgforge.records import beats
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.simulator import population
from ecgforge.sources import simulated

RATE, SAMPLES = 100, 1000
BEFORE = 0.35  # share of an RR interval that belongs to the next beat
PREPARED = Preprocessing(sampling_rate=RATE, duration=10, band=(0.5, 40.0), max_amplitude=20)
RHYTHMS = ("SR", "ST")
COUNT = 30  # records of a rhythm in a sample
SETTINGS = Quality(records=2 * COUNT, permutations=1, views=["pca"], seed=0)

pytestmark = pytest.mark.slow

Beats = list[np.ndarray]  # of a record, each `[leads, samples]`


def patients(count: int, seed: int) -> np.ndarray:
    """Simulate and prepare `count` records of each rhythm, in their order."""
    table = population.draw(np.repeat(RHYTHMS, count), np.random.default_rng(seed))
    numbers = np.arange(len(table))
    signals, _ = simulated.simulate("ptbxl", seed, table.assign(number=numbers, patient=numbers))
    return np.stack([prepare_signal(one, RATE, PREPARED) for one in signals])


def beats_of(signal: np.ndarray, peaks: np.ndarray) -> Beats:
    """Cut a record into its complete beats, which start and end at a level of 0."""
    cuts = np.rint(peaks[1:] - BEFORE * np.diff(peaks)).astype(int)
    found = np.split(signal, cuts, axis=1)[1:-1]
    return [one - np.linspace(one[:, 0], one[:, -1], one.shape[1], axis=1) for one in found]


def joined(pieces: Iterator[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Join beats to a record that starts within the first of them."""
    parts = [next(pieces)]
    start = rng.integers(parts[0].shape[1])
    while sum(part.shape[1] for part in parts) < start + SAMPLES:
        parts.append(next(pieces))
    return np.concatenate(parts, axis=1)[:, start : start + SAMPLES]


def random_order(own: Beats, _same: list[Beats], rng: np.random.Generator) -> Iterator[np.ndarray]:
    return cycle([own[place] for place in rng.permutation(len(own))])


def irregular(own: Beats, _same: list[Beats], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Each RR interval longer or shorter by a fifth of itself, after two thirds of the beat."""
    for beat in cycle(own):
        size = beat.shape[1]
        kept = 2 * size // 3
        rest = max(2, round(size * rng.normal(1, 0.2)) - kept)
        places = np.concatenate([np.arange(kept), np.linspace(kept, size - 1, rest)])
        yield np.stack([np.interp(places, np.arange(size), lead) for lead in beat])


def other_patients(
    _own: Beats, same: list[Beats], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    while True:
        patient = same[rng.integers(len(same))]
        yield patient[rng.integers(len(patient))]


def written(folder: Path, signals: np.ndarray) -> RecordSet:
    names = [f"{folder.name}-{number}" for number in range(len(signals))]
    table = pd.DataFrame(
        {"id": names, "patient": names, "rhythm": np.repeat(RHYTHMS, len(signals) // len(RHYTHMS))}
    )
    table = table.assign(dataset="toy", split="train", age=50, sex="", origin="simulated")
    about = About(RATE, SAMPLES, "mV", RHYTHMS, "simulated", {})
    with write_record_set(folder, about) as writer:
        writer.append(signals.astype(np.float32), table)
    return RecordSet.open(folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The scores of each set, over all rhythms; a row per set."""
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    known = [written(folder / name, patients(COUNT, seed)) for name, seed in (("a", 1), ("b", 2))]
    signals = patients(COUNT, 3)
    cut = [beats_of(*record) for record in zip(signals, beats.detect(signals, RATE), strict=True)]
    same = [cut[:COUNT], cut[COUNT:]]
    sets = {
        "real": signals,
        **{
            make.__name__: np.stack(
                [
                    joined(make(own, same[number // COUNT], rng), rng)
                    for number, own in enumerate(cut)
                ]
            )
            for make in (random_order, irregular, other_patients)
        },
    }
    scores = {}
    for name, made in sets.items():
        drawn = Samples(*known, written(folder / name, made), SETTINGS)
        scores[name] = compare(drawn.reference, drawn.synthetic(), SETTINGS)
    return pd.DataFrame(scores).T


def test_beats_of_one_patient_are_constant_and_those_of_several_are_not(
    found: pd.DataFrame,
) -> None:
    """A perfect rhythm or order of the beats is not needed."""
    constancy = found["qrs_constancy"]
    assert constancy[["random_order", "irregular"]].min() > 0.95 * constancy["real"]
    assert constancy["other_patients"] < LOW_CONSTANCY * constancy["real"]
    assert found["qrs_constancy_w1"].idxmax() == "other_patients"


def test_correlations_between_leads_vary_too_little_between_records_of_several_patients(
    found: pd.DataFrame,
) -> None:
    spread = found["correlation_spread"]
    assert spread[["real", "random_order", "irregular"]].between(0.8, 1.25).all()
    assert spread["other_patients"] < 0.5


def test_sets_that_are_less_real_are_easier_to_distinguish(found: pd.DataFrame) -> None:
    accuracy = found["c2st_accuracy"]
    assert accuracy.is_monotonic_increasing
    assert accuracy["real"] < 0.65
    assert accuracy["other_patients"] > 0.95


def test_records_of_several_patients_do_not_cover_real_ones(found: pd.DataFrame) -> None:
    for score, least, most in (("recall", 0.6, 0.1), ("coverage", 0.75, 0.5)):
        assert found[score].drop("other_patients").min() > least, score
        assert found[score]["other_patients"] < most, score
    assert found["recall"]["irregular"] < found["recall"]["random_order"] - 0.1


def test_an_irregular_rhythm_is_seen_in_the_intervals(found: pd.DataFrame) -> None:
    variation = found["rr_cv_w1"]
    assert variation["real"] < variation["random_order"] < 0.3 * variation["irregular"]
