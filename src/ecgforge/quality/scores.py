"""The scores that compare two samples, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ecgforge.params import Quality
from ecgforge.quality import (
    coherence,
    distribution,
    intervals,
    manifold,
    physiology,
    resampled,
    spectrum,
    two_sample,
    waves,
)
from ecgforge.quality.samples import Sample

CONFIDENCE = 0.95
RESAMPLES = 200  # bootstrap resamples of a distance; enough for its spread
MEASURES = (
    "heart_rate",
    "rr_cv",
    "qrs_duration",
    "qtc",
    "p_share",
    "sdnn",
    "rmssd",
    "qt",
    "r_amplitude",
    "t_amplitude",
    "axis",
    "qrs_constancy",
)
SHARES = ("precision", "recall", "coverage")  # of the records of a sample


@dataclass(frozen=True)
class Distance:
    """A distance of the measurements of two samples.

    Attributes:
        name: name of the score.
        plain: the distance of two samples.
        drawn: the distances of bootstrap resamples, see `resampled`.
        real, other: measurements of both samples.
        most: the largest possible distance.
    """

    name: str
    plain: Callable[[np.ndarray, np.ndarray], float]
    drawn: resampled.Distance
    real: np.ndarray
    other: np.ndarray
    most: float = np.inf


def compare(reference: Sample, judged: Sample, settings: Quality) -> dict[str, float]:
    """Return the scores by name; a distance is NaN if a sample has no measurements."""
    values = {one.name: one.plain(one.real, one.other) for one in all_distances(reference, judged)}
    values["undetected_share"] = float(physiology.undetected(judged.measures).mean())
    values["failed_share"] = float(judged.measures["failed"].mean())
    values["qrs_constancy"] = float(judged.measures["qrs_constancy"].median())
    features, strata = (reference.features, judged.features), reference.rhythms
    values["mmd2"], values["mmd_p"] = distribution.mmd(
        *features, strata, settings.permutations, np.random.default_rng(settings.seed)
    )
    values |= manifold.scores(*features, strata)
    patients = np.concatenate([reference.patients, judged.patients])
    values["c2st_accuracy"] = two_sample.accuracy(*features, patients, settings.seed)
    return values


def limits(
    reference: Sample, judged: Sample, values: dict[str, float], seed: int
) -> dict[str, tuple[float, float]]:
    """Return the limits of the scores of `compare`, by name, without `mmd2`, which has a p-value.

    Args:
        reference: the real sample.
        judged: the other sample.
        values: the result of `compare`.
        seed: of the resamples.
    """
    strata, count = reference.rhythms, len(judged.rhythms)
    weights = resampled.draw(strata, RESAMPLES, seed)
    found = {
        one.name: intervals.bootstrap(
            values[one.name], one.drawn(one.real, one.other, *weights), CONFIDENCE, one.most
        )
        for one in all_distances(reference, judged)
    }
    for metric in ("undetected_share", "failed_share", *SHARES):
        found[metric] = intervals.wilson(values[metric], count, CONFIDENCE)
    steady = judged.measures["qrs_constancy"].dropna().to_numpy()
    if len(steady):
        found["qrs_constancy"] = intervals.percentile(
            partial(np.median, axis=-1), [steady], CONFIDENCE, RESAMPLES, seed
        )
    densities = manifold.densities(reference.features, judged.features, strata)
    found["density"] = intervals.percentile(
        lambda drawn: drawn.mean(axis=-1), [densities], CONFIDENCE, RESAMPLES, seed
    )
    found["c2st_accuracy"] = intervals.wilson(values["c2st_accuracy"], 2 * count, CONFIDENCE)
    return found


def all_distances(reference: Sample, judged: Sample) -> Iterator[Distance]:
    """Yield all distances."""
    for measure in (*MEASURES, *spectrum.POWERS):
        pair = reference.measures[measure].to_numpy(), judged.measures[measure].to_numpy()
        yield Distance(f"{measure}_w1", physiology.wasserstein, resampled.w1, *pair)
        if measure in MEASURES:
            yield Distance(f"{measure}_ks", waves.ks, resampled.ks, *pair, most=1.0)
    spectra = reference.spectra, judged.spectra
    yield Distance("psd_db", spectrum.distance, resampled.psd, *spectra)
    leads = reference.correlations, judged.correlations
    yield Distance("correlation_error", coherence.error, resampled.correlation_error, *leads)
    yield Distance("correlation_w1", coherence.w1, resampled.correlation_w1, *leads)
    yield Distance("correlation_spread", coherence.spread, resampled.correlation_spread, *leads)
    # in the first principal components of the reference
    for name, axes in reference.axes.items():
        real, other = (axes.transform(one.embeddings[name]) for one in (reference, judged))
        yield Distance(name, distribution.frechet, resampled.frechet, real, other)
