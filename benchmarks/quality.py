"""Measure the CPU time of the quality scores of simulated records, in all and by part.

    .venv/bin/python benchmarks/quality.py [records] [--sample 200] [--permutations 500] [--fast]

There are as many synthetic, training and held-out records, of five rhythms. `--sample` is
`quality.records`: scores compare samples of this size, and memorisation compares all records. Each
part is measured for one pair of samples, all rhythms together. The assessment has three pairs, and
also each rhythm by itself. Plain routines of libraries are the reference: loops over resamples and
permutations, distances by `cdist`, NeuroKit. `--fast` leaves them out, for many records.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import neurokit2
import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from ecgforge.params import Preprocessing, Quality
from ecgforge.preparation.preprocessing import prepare_signal
from ecgforge.quality import (
    distances,
    distribution,
    manifold,
    resampled,
    spectrum,
    two_sample,
    views,
    waves,
)
from ecgforge.quality.assess import assess
from ecgforge.quality.memorisation import NearestNeighbours
from ecgforge.quality.samples import Sample, Samples
from ecgforge.quality.scores import RESAMPLES, all_distances
from ecgforge.records import beats
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.simulator import population
from ecgforge.sources import simulated

RHYTHMS = ("SR", "SB", "ST", "AFIB", "AFLT")
PREPARED = Preprocessing(sampling_rate=100, duration=10, band=(0.5, 40), max_amplitude=20)
RATES = {"ptbxl": 100, "chapman": 500}
BATCH = 32
LOOPS = 20  # of the resamples and permutations of a reference are run
NEUROKIT = 64  # records that NeuroKit delineates


def simulate(folder: Path, records: int, seed: int, layout: str) -> RecordSet:
    """Write simulated records of one patient each, alternately for training and for tests."""
    numbers = np.arange(records)
    cohort = population.draw(np.resize(RHYTHMS, records), np.random.default_rng(seed))
    cohort = cohort.assign(patient=numbers, number=numbers)
    about = About(100, 1000, "mV", RHYTHMS, "simulated", {})
    with write_record_set(folder, about) as writer:
        for start in range(0, records, BATCH):
            rows = cohort.iloc[start : start + BATCH]
            signals, _ = simulated.simulate(layout, seed, rows)
            ids = [f"{seed}-{number}" for number in rows["number"]]
            split = np.where(rows["number"] // len(RHYTHMS) % 2 == 0, "train", "test")
            about_rows = {"id": ids, "patient": ids, "dataset": "simulated", "split": split}
            table = pd.DataFrame(about_rows | {"age": 60.0, "sex": "", "origin": "simulated"})
            prepared = [prepare_signal(one, RATES[layout], PREPARED) for one in signals]
            rhythm = rows["rhythm"].to_numpy()
            writer.append(np.array(prepared, dtype=np.float32), table.assign(rhythm=rhythm))
    return RecordSet.open(folder)


def core_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def line(name: str, ours: float, reference: float | None = None) -> None:
    compared = "" if reference is None else f"{reference:9.2f} {ours / reference:9.3f}"
    print(f"{name:42} {ours:9.3f} {compared}", flush=True)


def plain_frechet(first: np.ndarray, second: np.ndarray) -> float:
    shrunk = [ledoit_wolf(sample)[0] for sample in (first, second)]
    variances, axes = zip(*map(np.linalg.eigh, shrunk), strict=True)
    one, other = (a * np.sqrt(np.maximum(v, 0)) @ a.T for v, a in zip(variances, axes, strict=True))
    common = np.linalg.svd(one @ other, compute_uv=False).sum()
    apart = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    return float(apart + np.trace(shrunk[0] + shrunk[1]) - 2 * common)


def plain_permutations(first: np.ndarray, second: np.ndarray) -> None:
    pooled = np.concatenate([first, second])
    squares = cdist(pooled, pooled, "sqeuclidean")
    widths = 2 * np.median(squares) * np.square(distribution.BANDWIDTHS)
    kernel = sum(np.exp(-squares / width) for width in widths)
    rng, half = np.random.default_rng(0), len(first)
    for _ in range(LOOPS):
        order = rng.permutation(len(pooled))
        one, other = order[:half], order[half:]
        pairs = ((one, one), (other, other), (one, other))
        [kernel[np.ix_(*pair)].sum() for pair in pairs]


def plain_manifold(reference: Sample, made: Sample) -> None:
    for rhythm in np.unique(reference.rhythms):
        own = reference.rhythms == rhythm
        real, other = reference.features[own], made.features[own]
        for pair in ((real, other), (real, real), (other, other)):
            np.partition(cdist(*pair), manifold.NEIGHBOURS, axis=1)


def plain_two_sample(first: np.ndarray, second: np.ndarray) -> None:
    features, side = np.concatenate([first, second]), np.repeat([0, 1], len(first))
    folds = StratifiedKFold(two_sample.FOLDS, shuffle=True, random_state=0)
    cross_val_predict(make_pipeline(StandardScaler(), SVC()), features, side, cv=folds)


def plain_nearest(records: np.ndarray, others: np.ndarray) -> None:
    for start in range(0, len(records), distances.PART):
        between = cdist(records[start : start + distances.PART], others)
        between.argmin(axis=1), between.min(axis=0)


def plain_memorisation(samples: Samples) -> None:
    made, train, test = (one[0][:] for one in (samples.made, samples.train, samples.test))
    for pair in ((made, train), (train, train), (test, train), (test, made)):
        plain_nearest(*pair)


def by_neurokit(beats_apart: np.ndarray) -> None:
    half = beats_apart.shape[1] // 2
    peaks = 2 * half * np.arange(len(beats_apart)) + half
    lead = beats_apart[:, : 2 * half].ravel()
    neurokit2.ecg_delineate(lead, peaks, sampling_rate=waves.RATE, method="prominence")


def bootstraps(reference: Sample, made: Sample, loops: bool) -> None:
    """Print the time of the resamples of each distance."""
    weights = resampled.draw(reference.rhythms, RESAMPLES, 0)
    drawn = [
        [np.repeat(np.arange(len(w)), column.astype(int)) for column in w.T[:LOOPS]]
        for w in weights
    ]
    times: dict[str, list[float]] = {}
    for one in all_distances(reference, made):
        plain = plain_frechet if one.name.startswith("frechet") else one.plain
        ours = core_seconds(lambda one=one: one.drawn(one.real, one.other, *weights))

        def in_a_loop(one: Any = one, plain: Any = plain) -> None:
            for first, second in zip(*drawn, strict=True):
                plain(one.real[first], one.other[second])

        reference_time = core_seconds(in_a_loop) * RESAMPLES / LOOPS if loops else np.nan
        suffix = one.name.rsplit("_", 1)[-1]
        values = suffix in ("w1", "ks") and one.real.ndim == 1
        name = f"bootstrap of all {suffix} of values" if values else f"bootstrap of {one.name}"
        times.setdefault(name, []).append(ours)
        times.setdefault(f"{name} (reference)", []).append(reference_time)
    for name in [name for name in times if "(reference)" not in name]:
        line(name, sum(times[name]), sum(times[f"{name} (reference)"]) if loops else None)


def parts(samples: Samples, real: RecordSet, settings: Quality, loops: bool) -> None:
    """Print the time of each part for one pair of samples."""
    reference, made = samples.reference, samples.synthetic()
    pair = reference.features, made.features
    count = len(reference.rhythms)
    signals = real.split("test").signals(slice(0, count))
    some = np.concatenate(
        [
            two
            for _, two in waves._beats(
                signals[:NEUROKIT], beats.detect(signals[:NEUROKIT], 100), 100
            )
        ]
    )
    line(f"embedding of {count} records", core_seconds(lambda: samples.embedding(signals)))
    line(f"spectra of {count} records", core_seconds(lambda: spectrum.measure(signals, 100)))
    line(f"waves of {count} records", core_seconds(lambda: waves.measure(signals, 100, "mV")))
    rng = np.random.default_rng(0)
    known, rhythms = samples.test
    memorised: Callable[[], Any] = partial(
        NearestNeighbours.measure, samples.made, samples.train, (known, rhythms)
    )
    compared: list[tuple[str, Callable[[], Any], Callable[[], Any], float]] = [
        (
            f"delineation of {len(some)} beats",
            partial(waves._delineate, some),
            partial(by_neurokit, some),
            1,
        ),
        (
            f"MMD with {settings.permutations} permutations",
            partial(distribution.mmd, *pair, reference.rhythms, settings.permutations, rng),
            partial(plain_permutations, *pair),
            settings.permutations / LOOPS,
        ),
        (
            "precision, recall, density, coverage",
            partial(manifold.scores, *pair, reference.rhythms),
            partial(plain_manifold, reference, made),
            1,
        ),
        (
            "two-sample accuracy",
            partial(two_sample.accuracy, *pair, np.arange(2 * count), 0),
            partial(plain_two_sample, *pair),
            1,
        ),
        (
            f"memorisation of {len(samples.made[0])} records",
            memorised,
            partial(plain_memorisation, samples),
            1,
        ),
    ]
    for name, ours, plain, factor in compared:
        line(name, core_seconds(ours), core_seconds(plain) * factor if loops else None)
    bootstraps(reference, made, loops)
    both = np.concatenate(pair)
    for view in ("pca", "tsne"):
        line(f"view {view}", core_seconds(partial(views.flatten, both, 0, (view,))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("records", nargs="?", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--permutations", type=int, default=500)
    parser.add_argument("--fast", action="store_true")
    given = parser.parse_args()
    settings = Quality(
        records=given.sample, permutations=given.permutations, views=["pca", "tsne"], seed=0
    )
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        real = simulate(Path(folder) / "real", 2 * given.records, 1, "ptbxl")
        made = simulate(Path(folder) / "made", given.records, 2, "chapman")
        sets = real.split("train"), real.split("test"), made
        whole = core_seconds(partial(assess, *sets, settings))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{given.records} records, samples of {given.sample}: {whole:.1f} core seconds, peak "
            f"memory {peak:.0f} MB\n"
        )
        print(f"{'part':42} {'core s':>9} {'reference':>9} {'ratio':>9}")
        parts(Samples(*sets, settings), real, settings, not given.fast)


if __name__ == "__main__":
    main()
