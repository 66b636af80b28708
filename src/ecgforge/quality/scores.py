"""The scores that compare two samples, and their intervals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn import config_context
from sklearn.decomposition import PCA

from ecgforge.params import Quality
from ecgforge.quality import (
    coherence,
    distribution,
    intervals,
    manifold,
    physiology,
    spectrum,
    two_sample,
    waves,
)
from ecgforge.quality.samples import Sample

CONFIDENCE = 0.95
RESAMPLES = 200  # bootstrap resamples of a distance; enough for its spread
# principal components for the Fréchet distance; with too many for the number of records, noise
# dominates
COMPONENTS = 32
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


def compare(reference: Sample, judged: Sample, settings: Quality) -> dict[str, float]:
    """Return the scores by name; a distance is NaN if a sample has no measurements."""
    values = {
        name: statistic(real, other)
        for name, statistic, real, other in _distances(reference, judged)
    }
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
    # these checks take most of the time of a small Fréchet distance
    with config_context(assume_finite=True, skip_parameter_validation=True):
        found = {
            name: intervals.bootstrap(
                statistic,
                real,
                other,
                strata,
                CONFIDENCE,
                RESAMPLES,
                seed,
                1.0 if statistic is waves.ks else np.inf,
            )
            for name, statistic, real, other in _distances(reference, judged)
        }
    for metric in ("undetected_share", "failed_share", *SHARES):
        found[metric] = intervals.wilson(values[metric], count, CONFIDENCE)
    steady = judged.measures["qrs_constancy"].dropna().to_numpy()
    if len(steady):
        found["qrs_constancy"] = intervals.percentile(
            np.median, [steady], CONFIDENCE, RESAMPLES, seed
        )
    densities = manifold.densities(reference.features, judged.features, strata)
    found["density"] = intervals.percentile(
        lambda sample: float(sample.mean()), [densities], CONFIDENCE, RESAMPLES, seed
    )
    found["c2st_accuracy"] = intervals.wilson(values["c2st_accuracy"], 2 * count, CONFIDENCE)
    return found


def _distances(
    reference: Sample, judged: Sample
) -> Iterator[tuple[str, intervals.Statistic, np.ndarray, np.ndarray]]:
    """Yield all distances: name, statistic, and the measurements of both samples."""
    for measure in (*MEASURES, *spectrum.POWERS):
        pair = reference.measures[measure].to_numpy(), judged.measures[measure].to_numpy()
        yield f"{measure}_w1", physiology.wasserstein, *pair
        if measure in MEASURES:
            yield f"{measure}_ks", waves.ks, *pair
    yield "psd_db", spectrum.distance, reference.spectra, judged.spectra
    yield "correlation_error", coherence.error, reference.correlations, judged.correlations
    yield "correlation_w1", coherence.w1, reference.correlations, judged.correlations
    yield "correlation_spread", coherence.spread, reference.correlations, judged.correlations
    for name, (real, other) in _embeddings(reference, judged).items():
        yield name, distribution.frechet, real, other


def _embeddings(reference: Sample, judged: Sample) -> dict[str, list[np.ndarray]]:
    """Return both samples in the first principal components of the reference's embeddings, by the
    name of the Fréchet distance.
    """
    pairs = {"frechet": (reference.features, judged.features)}
    if reference.judged is not None and judged.judged is not None:
        pairs["frechet_classifier"] = (reference.judged, judged.judged)
    axes = {
        name: PCA(min(COMPONENTS, *real.shape), svd_solver="full").fit(real)
        for name, (real, _) in pairs.items()
    }
    return {name: [axes[name].transform(one) for one in pair] for name, pair in pairs.items()}
