"""All scores that compare two samples, of all rhythms or of one, and their intervals."""

from __future__ import annotations

import numpy as np
from sklearn import config_context
from sklearn.decomposition import PCA

from ecgforge.params import Quality
from ecgforge.quality import coherence, distribution, intervals, manifold, physiology, spectrum, two_sample, waves
from ecgforge.quality.samples import Sample

CONFIDENCE = 0.95
RESAMPLES = 200  # of a distance; enough for the spread that its interval shows
COMPONENTS = 32  # of an embedding, that a Fréchet distance is taken in: more than records can fill make it rank by noise
MEASURES = ("heart_rate", "rr_variation", "qrs_duration", "qtc", "p_share", "sdnn", "rmssd", "qt", "r_amplitude", "t_amplitude", "axis")
SHARES = ("precision", "recall", "coverage")  # of as many records as a sample has


def compare(reference: Sample, judged: Sample, settings: Quality) -> dict[str, float]:
    """Return values by metric. A distance is NaN where no record could be measured."""
    values = {}
    for measure in MEASURES:
        real, other = _measured(reference, judged, measure)
        values[f"{measure}_w1"], values[f"{measure}_ks"] = physiology.wasserstein(real, other), waves.ks(real, other)
    for measure in spectrum.POWERS:
        values[f"{measure}_w1"] = physiology.wasserstein(*_measured(reference, judged, measure))
    values["undetected_share"] = float(physiology.undetected(judged.measures).mean())
    values["failed_share"] = float(judged.measures["failed"].mean())
    values["psd_db"] = spectrum.distance(reference.spectra, judged.spectra)
    values["correlation_error"] = coherence.error(reference.correlations, judged.correlations)
    values["correlation_w1"] = coherence.w1(reference.correlations, judged.correlations)
    features, strata = (reference.features, judged.features), reference.rhythms
    values["mmd2"], values["mmd_p"] = distribution.mmd(*features, strata, settings.permutations, np.random.default_rng(settings.seed))
    values |= {name: distribution.frechet(*pair) for name, pair in _embeddings(reference, judged).items()}
    values |= manifold.scores(*features, strata)
    patients = np.concatenate([reference.patients, judged.patients])
    values["c2st_accuracy"] = two_sample.accuracy(*features, patients, settings.seed)
    return values


def limits(reference: Sample, judged: Sample, values: dict[str, float], seed: int) -> dict[str, tuple[float, float]]:
    """Return low and high of `values`, which `compare` returned, by metric; all but `mmd2`, which has a p-value, have them."""
    strata, count = reference.rhythms, len(judged.rhythms)

    def spread(statistic: intervals.Statistic, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
        return intervals.bootstrap(statistic, first, second, strata, CONFIDENCE, RESAMPLES, seed)

    found = {}
    for measure in MEASURES:
        found[f"{measure}_w1"] = spread(physiology.wasserstein, *_measured(reference, judged, measure))
        found[f"{measure}_ks"] = spread(waves.ks, *_measured(reference, judged, measure))
    for measure in spectrum.POWERS:
        found[f"{measure}_w1"] = spread(physiology.wasserstein, *_measured(reference, judged, measure))
    for metric in ("undetected_share", "failed_share", *SHARES):
        found[metric] = intervals.wilson(values[metric], count, CONFIDENCE)
    found["psd_db"] = spread(spectrum.distance, reference.spectra, judged.spectra)
    found["correlation_error"] = spread(coherence.error, reference.correlations, judged.correlations)
    found["correlation_w1"] = spread(coherence.w1, reference.correlations, judged.correlations)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # most of the time of a small Fréchet distance
        for name, pair in _embeddings(reference, judged).items():
            found[name] = spread(distribution.frechet, *pair)
    densities = manifold.densities(reference.features, judged.features, strata)
    found["density"] = intervals.percentile(lambda sample: float(sample.mean()), [densities], CONFIDENCE, RESAMPLES, seed)
    found["c2st_accuracy"] = intervals.wilson(values["c2st_accuracy"], 2 * count, CONFIDENCE)
    return found


def _measured(reference: Sample, judged: Sample, measure: str) -> tuple[np.ndarray, np.ndarray]:
    return reference.measures[measure].to_numpy(), judged.measures[measure].to_numpy()


def _embeddings(reference: Sample, judged: Sample) -> dict[str, list[np.ndarray]]:
    """Both samples in the first components of the reference's embeddings, by the name of the Fréchet distance that is taken there."""
    pairs = {"frechet": (reference.features, judged.features)}
    if reference.judged is not None and judged.judged is not None:
        pairs["frechet_classifier"] = (reference.judged, judged.judged)
    axes = {name: PCA(min(COMPONENTS, *real.shape), svd_solver="full").fit(real) for name, (real, _) in pairs.items()}
    return {name: [axes[name].transform(one) for one in pair] for name, pair in pairs.items()}
