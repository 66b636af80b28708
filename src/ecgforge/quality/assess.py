"""All quality scores of a synthetic record set, each between its floor, real against real, and a ceiling, plainly wrong records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn import config_context
from sklearn.decomposition import PCA

from ecgforge.errors import EcgforgeError
from ecgforge.params import Quality
from ecgforge.quality import coherence, distribution, intervals, manifold, memorisation, physiology, spectrum, two_sample, views, waves
from ecgforge.records.record_set import About, RecordSet

FEWEST = 5  # records of a rhythm in each sample, below which the rhythm is left out
PART = 256  # records read at a time
CONFIDENCE = 0.95
RESAMPLES = 200  # of a distance; enough for the spread that its interval shows
COMPONENTS = 32  # of an embedding, that a Fréchet distance is taken in: more than records can fill make it rank by noise
ALL = "all"
BY_RHYTHM = ("heart_rate", "rr_variation", "qrs_duration", "qtc", "p_share")  # measures that are compared in each rhythm too
OVERALL = ("sdnn", "rmssd", "qt", "r_amplitude", "t_amplitude", "axis", *spectrum.POWERS)
SHARES = ("precision", "recall", "coverage")  # of as many records as a sample has

Embed = Callable[[np.ndarray], np.ndarray]  # signals to `[records, features]`


@dataclass(frozen=True)
class Sample:
    """Records drawn for comparison, with what is measured of them.

    Attributes:
        patients: `[records]`.
        rhythms: `[records]`, equal to those of every sample it is compared with; those of a rhythm lie together.
        measures: `physiology.measure`, `waves.measure` and `spectrum.band_power` of the records.
        features: by a label-free embedding, `[records, features]`.
        judged: by a classifier's, or None.
        spectra, correlations: see `spectrum.log_psd` and `coherence.correlations`.
    """

    patients: np.ndarray
    rhythms: np.ndarray
    measures: pd.DataFrame
    features: np.ndarray
    judged: np.ndarray | None
    spectra: np.ndarray
    correlations: np.ndarray


def assess(
    real_train: RecordSet, real_test: RecordSet, synthetic: RecordSet, settings: Quality, classifier: Embed | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score `synthetic` against real records, and two other sets by the same scores: real records of other patients, which no synthetic
    set can be expected to pass, and plainly wrong ones, which any should: surrogates of these without a beat and, since surrogates keep
    spectra and how leads go together, white noise as strong as each lead where these are scored.

    Samples of equal size are drawn, one record a patient and as many of each rhythm in all, since a different mix of
    rhythms alone would tell sets apart: the reference, of held-out real records, topped up from training records where those are
    too few; the floor's other side, of further real training records; and the synthetic one. Rhythms with fewer than `FEWEST`
    records for each sample are left out.

    Args:
        classifier: an embedding by a classifier of real records, for a second Fréchet distance.

    Returns:
        Scores: rhythm (`all` or one), metric, value, low, high, floor, ceiling. Names that end in `_w1` are Wasserstein distances, in
        ms, bpm, points, degrees or the records' unit, in `_ks` Kolmogorov-Smirnov statistics. `failed_share` is that of records whose
        waves could not be delineated. `limb_residual`, without a ceiling, is there for a set that was prepared from files with all limb
        leads alone: the median of `leads.limb_residual`. Memorisation is that of all synthetic records, and all
        training records are compared with those held out, half of them for its floor.
        Low and high, the 95 % interval, are there for all but `mmd2`, which has a p-value, `mmd_p`. A distance is missing where no
        record could be measured.
        Views: view, kind (`real`, `synthetic`), rhythm, x, y.

    Raises:
        EcgforgeError: the sets differ in what a record is, or no rhythm has enough records in all of them.
    """
    _check_comparable(real_train, real_test, synthetic)
    embedding, samples = _draw(real_train, real_test, synthetic, settings, classifier)
    reference, others = samples["reference"], {name: samples[name] for name in ("value", "floor", "ceiling")}
    scores = {name: _scores(reference, sample, settings) for name, sample in others.items()}
    training, held_out = (_embedded(records, embedding) for records in (real_train, real_test))
    strangers, rhythms = held_out[::2], real_test.records["rhythm"].to_numpy()
    judged = {
        "value": (_embedded(synthetic, embedding), synthetic.records["rhythm"].to_numpy()),
        "floor": (held_out[1::2], rhythms[1::2]),
        "ceiling": (samples["ceiling"].features, samples["ceiling"].rhythms),
    }
    near = {
        name: memorisation.nearness(*one, training, strangers, rhythms[::2])
        for name, one in {**judged, "strangers": (strangers, rhythms[::2])}.items()
    }
    for name, (features, _) in judged.items():
        found = memorisation.scores(near[name], near["strangers"])
        found["authenticity"] = memorisation.authenticity(training, features)
        found["membership_auc"] = memorisation.membership_auc(training, strangers, features)
        scores[name] |= {(ALL, metric): value for metric, value in found.items()}
    with config_context(assume_finite=True, skip_parameter_validation=True):  # most of the time of a small Fréchet distance
        limits = _intervals(reference, samples["value"], scores["value"], settings.seed)
    for metric in ("copied_share", "authenticity"):
        limits[ALL, metric] = intervals.wilson(scores["value"][ALL, metric], len(synthetic), CONFIDENCE)
    limits[ALL, "membership_auc"] = intervals.hanley_mcneil(
        scores["value"][ALL, "membership_auc"], len(training), len(strangers), CONFIDENCE
    )
    sides = [near["value"], near["strangers"]]
    limits[ALL, "nearest_ratio"] = intervals.percentile(memorisation.ratio, sides, CONFIDENCE, RESAMPLES, settings.seed)
    made, recorded = coherence.limb_residuals(synthetic), coherence.limb_residuals(real_test)
    if len(made):
        key = (ALL, "limb_residual")
        scores["value"][key], scores["ceiling"][key] = float(np.median(made)), np.nan
        scores["floor"][key] = float(np.median(recorded)) if len(recorded) else np.nan
        limits[key] = intervals.percentile(np.median, [made], CONFIDENCE, RESAMPLES, settings.seed)
    rows = [
        (*key, value, *limits.get(key, (np.nan, np.nan)), scores["floor"][key], scores["ceiling"][key])
        for key, value in scores["value"].items()
    ]
    table = pd.DataFrame(rows, columns=["rhythm", "metric", "value", "low", "high", "floor", "ceiling"])
    return table, _views(reference, samples["value"], settings)


def _check_comparable(real_train: RecordSet, real_test: RecordSet, synthetic: RecordSet) -> None:
    for other in (real_test, synthetic):
        for name in ("sampling_rate", "samples", "units"):
            ours, theirs = getattr(real_train.about, name), getattr(other.about, name)
            if ours != theirs:
                raise EcgforgeError(
                    f"{other.folder} cannot be compared with {real_train.folder}: {name} is {theirs} there and {ours} here; "
                    "prepare both with the same parameters"
                )


def _draw(
    real_train: RecordSet, real_test: RecordSet, synthetic: RecordSet, settings: Quality, classifier: Embed | None
) -> tuple[distribution.Embedding, dict[str, Sample]]:
    rng = np.random.default_rng(settings.seed)
    real = _shuffled([real_test, real_train], rng)
    generated = _shuffled([synthetic], rng)
    sizes = _sizes(real, generated, settings.records)
    if not sizes:
        raise EcgforgeError(
            f"{synthetic.folder} and {real_train.folder} have no rhythm with {2 * FEWEST} real patients and {FEWEST} synthetic records: "
            "quality needs more records of a rhythm"
        )
    by_rhythm = {rhythm: real[real["rhythm"] == rhythm] for rhythm in sizes}
    first = pd.concat([by_rhythm[rhythm].head(size) for rhythm, size in sizes.items()])
    last = pd.concat([by_rhythm[rhythm].tail(size) for rhythm, size in sizes.items()])
    made = pd.concat([generated[generated["rhythm"] == rhythm].head(size) for rhythm, size in sizes.items()])
    real_sets, about = [real_test, real_train], real_train.about
    reference, other = _load(real_sets, first), _load(real_sets, last)
    embedding = distribution.Embedding.fit(reference, settings.seed)
    beatless = distribution.surrogates(other, rng)
    noise = other.std(axis=-1, keepdims=True) * rng.standard_normal(other.shape, dtype=np.float32)
    judged = _load([synthetic], made)
    drawn = {
        "reference": (first, reference, reference),
        "value": (made, judged, judged),
        "floor": (last, other, other),
        "ceiling": (last, beatless, noise),
    }
    return embedding, {
        name: Sample(
            table["patient"].to_numpy(),
            table["rhythm"].to_numpy(),
            _measures(signals, for_spectra, about),
            embedding(signals),
            classifier(signals) if classifier else None,
            spectrum.log_psd(for_spectra, about.sampling_rate),
            coherence.correlations(for_spectra),
        )
        for name, (table, signals, for_spectra) in drawn.items()
    }


def _measures(signals: np.ndarray, for_spectra: np.ndarray, about: About) -> pd.DataFrame:
    parts = [
        physiology.measure(signals, about.sampling_rate),
        waves.measure(signals, about.sampling_rate, about.units),
        spectrum.band_power(for_spectra, about.sampling_rate),
    ]
    return pd.concat([part.reset_index(drop=True) for part in parts], axis=1)


def _shuffled(sets: list[RecordSet], rng: np.random.Generator) -> pd.DataFrame:
    """The sets' tables, each in random order, one after the other, with one record of each patient."""
    tables = [records.records.assign(set=number, row=np.arange(len(records))) for number, records in enumerate(sets)]
    table = pd.concat([part.iloc[rng.permutation(len(part))] for part in tables], ignore_index=True)
    table["patient"] = table["patient"].fillna(table["id"])
    return table.drop_duplicates("patient")


def _sizes(real: pd.DataFrame, generated: pd.DataFrame, records: int) -> dict[str, int]:
    """Records of each rhythm in a sample: an equal share of `records`, or fewer where there are no more."""
    most = np.minimum(real["rhythm"].value_counts() // 2, generated["rhythm"].value_counts()).dropna().astype(int)
    enough = most[most >= FEWEST].sort_index()
    return {rhythm: min(size, max(FEWEST, records // len(enough))) for rhythm, size in enough.items()}


def _load(sets: list[RecordSet], table: pd.DataFrame) -> np.ndarray:
    """Signals of the rows of `table`, in its order, `[records, 8, samples]`."""
    signals = np.empty((len(table), *sets[0].signals(slice(0, 0)).shape[1:]), dtype=np.float32)
    for number, records in enumerate(sets):
        mine = (table["set"] == number).to_numpy()
        signals[mine] = records.signals(table["row"].to_numpy()[mine])
    return signals


def _embedded(records: RecordSet, embedding: distribution.Embedding) -> np.ndarray:
    """All records embedded, `[records, features]`, read part by part."""
    starts = range(0, len(records), PART)
    return np.concatenate([embedding(records.signals(slice(start, start + PART))) for start in starts])


def _scores(reference: Sample, judged: Sample, settings: Quality) -> dict[tuple[str, str], float]:
    """Values by rhythm and metric."""
    values: dict[tuple[str, str], float] = {}
    for rhythm, chosen in _selections(reference):
        real, other = reference.measures[chosen], judged.measures[chosen]
        for measure in (*BY_RHYTHM, *(OVERALL if rhythm == ALL else ())):
            values[rhythm, f"{measure}_w1"] = physiology.wasserstein(real[measure].to_numpy(), other[measure].to_numpy())
            if rhythm == ALL and measure not in spectrum.POWERS:
                values[rhythm, f"{measure}_ks"] = waves.ks(real[measure].to_numpy(), other[measure].to_numpy())
        values[rhythm, "undetected_share"] = float(physiology.undetected(other).mean())
        values[rhythm, "failed_share"] = float(other["failed"].mean())
        values[rhythm, "psd_db"] = spectrum.distance(reference.spectra[chosen], judged.spectra[chosen])
        values[rhythm, "correlation_error"] = coherence.error(reference.correlations[chosen], judged.correlations[chosen])
        values[rhythm, "mmd2"], values[rhythm, "mmd_p"] = distribution.mmd(
            reference.features[chosen],
            judged.features[chosen],
            reference.rhythms[chosen],
            settings.permutations,
            np.random.default_rng(settings.seed),
        )
    values[ALL, "correlation_w1"] = coherence.w1(reference.correlations, judged.correlations)
    values |= {(ALL, name): distribution.frechet(*pair) for name, pair in _embeddings(reference, judged).items()}
    values |= {(ALL, metric): value for metric, value in manifold.scores(reference.features, judged.features).items()}
    patients = np.concatenate([reference.patients, judged.patients])
    values[ALL, "c2st_accuracy"] = two_sample.accuracy(reference.features, judged.features, patients, settings.seed)
    return values


def _embeddings(reference: Sample, judged: Sample) -> dict[str, list[np.ndarray]]:
    """Both samples in the first components of the reference's embeddings, by the name of the Fréchet distance that is taken there."""
    pairs = {"frechet": (reference.features, judged.features)}
    if reference.judged is not None and judged.judged is not None:
        pairs["frechet_classifier"] = (reference.judged, judged.judged)
    axes = {name: PCA(min(COMPONENTS, *real.shape), svd_solver="full").fit(real) for name, (real, _) in pairs.items()}
    return {name: [axes[name].transform(one) for one in pair] for name, pair in pairs.items()}


def _intervals(
    reference: Sample, judged: Sample, scores: dict[tuple[str, str], float], seed: int
) -> dict[tuple[str, str], tuple[float, float]]:
    """Low and high by rhythm and metric, of the metrics that have an interval."""

    def spread(statistic: intervals.Statistic, first: np.ndarray, second: np.ndarray, strata: np.ndarray) -> tuple[float, float]:
        return intervals.bootstrap(statistic, first, second, strata, CONFIDENCE, RESAMPLES, seed)

    found = {}
    for rhythm, chosen in _selections(reference):
        strata, count = reference.rhythms[chosen], int(chosen.sum())
        for measure in (*BY_RHYTHM, *(OVERALL if rhythm == ALL else ())):
            first, second = (sample.measures.loc[chosen, measure].to_numpy() for sample in (reference, judged))
            found[rhythm, f"{measure}_w1"] = spread(physiology.wasserstein, first, second, strata)
            if rhythm == ALL and measure not in spectrum.POWERS:
                found[rhythm, f"{measure}_ks"] = spread(waves.ks, first, second, strata)
        for metric in ("undetected_share", "failed_share"):
            found[rhythm, metric] = intervals.wilson(scores[rhythm, metric], count, CONFIDENCE)
        found[rhythm, "psd_db"] = spread(spectrum.distance, reference.spectra[chosen], judged.spectra[chosen], strata)
        leads = (reference.correlations[chosen], judged.correlations[chosen])
        found[rhythm, "correlation_error"] = spread(coherence.error, *leads, strata)
    strata, count = reference.rhythms, len(judged.rhythms)
    found[ALL, "correlation_w1"] = spread(coherence.w1, reference.correlations, judged.correlations, strata)
    for name, (real, made) in _embeddings(reference, judged).items():
        found[ALL, name] = spread(distribution.frechet, real, made, strata)
    densities = manifold.densities(reference.features, judged.features)
    found[ALL, "density"] = intervals.percentile(lambda sample: float(sample.mean()), [densities], CONFIDENCE, RESAMPLES, seed)
    for metric in SHARES:
        found[ALL, metric] = intervals.wilson(scores[ALL, metric], count, CONFIDENCE)
    found[ALL, "c2st_accuracy"] = intervals.wilson(scores[ALL, "c2st_accuracy"], 2 * count, CONFIDENCE)
    return found


def _selections(sample: Sample) -> list[tuple[str, np.ndarray]]:
    rhythms = pd.unique(sample.rhythms)
    return [(ALL, np.full(len(sample.rhythms), True)), *((rhythm, sample.rhythms == rhythm) for rhythm in rhythms)]


def _views(reference: Sample, generated: Sample, settings: Quality) -> pd.DataFrame:
    flat = views.flatten(np.concatenate([reference.features, generated.features]), settings.seed, tuple(settings.views))
    kind = np.repeat(["real", "synthetic"], len(reference.rhythms))
    rhythm = np.concatenate([reference.rhythms, generated.rhythms])
    index = flat.pop("record").to_numpy()
    return flat.assign(kind=kind[index], rhythm=rhythm[index])[["view", "kind", "rhythm", "x", "y"]]
