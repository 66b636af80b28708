"""All quality scores of a synthetic record set, each beside its real-against-real floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.params import Quality
from ecgforge.quality import distribution, manifold, memorisation, physiology, two_sample, views
from ecgforge.records.record_set import RecordSet

FEWEST = 5  # records of a rhythm in each sample, below which the rhythm is left out
PART = 256  # records read at a time
CONFIDENCE = 0.95
RESAMPLES = 200  # of a Wasserstein distance; enough for the spread that its interval shows
ALL = "all"
SHARES = ("precision", "recall", "coverage", "copied_share")  # of as many records as a sample has


@dataclass(frozen=True)
class Sample:
    """Records drawn for comparison, with what is measured of them.

    Attributes:
        patients: `[records]`.
        rhythms: `[records]`, equal to those of every sample it is compared with.
        rhythm_measures: `physiology.measure` of the records.
        features: `[records, features]`.
    """

    patients: np.ndarray
    rhythms: np.ndarray
    rhythm_measures: pd.DataFrame
    features: np.ndarray


def assess(real_train: RecordSet, real_test: RecordSet, synthetic: RecordSet, settings: Quality) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score `synthetic` against real records, and real records against real records of other patients by the same scores.

    Three samples of equal size are drawn, one record a patient and as many of each rhythm in all three, since a different mix of
    rhythms alone would tell sets apart: the reference, of held-out real records, topped up from training records where those are
    too few; the floor's other side, of further real training records; and the synthetic one. Rhythms with fewer than `FEWEST`
    records for each sample are left out.

    Returns:
        Scores: rhythm (`all` or one), metric, value, low, high, floor. The metrics are `heart_rate_w1` (bpm), `rr_variation_w1`
        (percentage points), `undetected_share`, `mmd2`, `mmd_p`, `c2st_accuracy`, those of `manifold.scores`, and those of
        `memorisation.scores`, which compares all training records with those that were held out, half of them for its floor. Low and
        high, the 95 % interval, are there where the metric is a share or a distance in bpm or points. A distance is missing where no
        record has enough beats.
        Views: view (`pca`, `tsne`), kind (`real`, `synthetic`), rhythm, x, y.

    Raises:
        EcgforgeError: the sets differ in what a record is, or no rhythm has enough records in all of them.
    """
    _check_comparable(real_train, real_test, synthetic)
    reference, other, generated, embedding = _draw(real_train, real_test, synthetic, settings)
    scores, floors = _scores(reference, generated, settings), _scores(reference, other, settings)
    training, held_out = (_embedded(records, embedding) for records in (real_train, real_test))
    strangers, floor = held_out[::2], held_out[1::2]
    for judged, values in ((generated.features, scores), (floor, floors)):
        values |= {(ALL, metric): value for metric, value in memorisation.scores(training, strangers, judged).items()}
    intervals = _intervals(reference, generated, scores, settings.seed)
    rows = [(*key, value, *intervals.get(key, (np.nan, np.nan)), floors[key]) for key, value in scores.items()]
    table = pd.DataFrame(rows, columns=["rhythm", "metric", "value", "low", "high", "floor"])
    return table, _views(reference, generated, settings.seed)


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
    real_train: RecordSet, real_test: RecordSet, synthetic: RecordSet, settings: Quality
) -> tuple[Sample, Sample, Sample, distribution.Embedding]:
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

    real_sets, rate = [real_test, real_train], real_train.about.sampling_rate
    reference = _load(real_sets, first)
    embedding = distribution.Embedding.fit(reference, settings.seed)
    signals = (reference, _load(real_sets, last), _load([synthetic], made))
    samples = [
        Sample(table["patient"].to_numpy(), table["rhythm"].to_numpy(), physiology.measure(x, rate), embedding(x))
        for table, x in zip((first, last, made), signals, strict=True)
    ]
    return samples[0], samples[1], samples[2], embedding


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
    values = {}
    for rhythm, chosen in _selections(reference):
        real, other = reference.rhythm_measures[chosen], judged.rhythm_measures[chosen]
        for measure in physiology.MEASURES:
            values[rhythm, f"{measure}_w1"] = physiology.wasserstein(real[measure].to_numpy(), other[measure].to_numpy())
        values[rhythm, "undetected_share"] = float(physiology.undetected(other).mean())
    rng = np.random.default_rng(settings.seed)
    values[ALL, "mmd2"], values[ALL, "mmd_p"] = distribution.mmd(reference.features, judged.features, settings.permutations, rng)
    values |= {(ALL, metric): value for metric, value in manifold.scores(reference.features, judged.features).items()}
    patients = np.concatenate([reference.patients, judged.patients])
    values[ALL, "c2st_accuracy"] = two_sample.accuracy(reference.features, judged.features, patients, settings.seed)
    return values


def _intervals(
    reference: Sample, judged: Sample, scores: dict[tuple[str, str], float], seed: int
) -> dict[tuple[str, str], tuple[float, float]]:
    """Low and high by rhythm and metric, of the metrics that have an interval."""
    rng = np.random.default_rng(seed)
    found = {}
    for rhythm, chosen in _selections(reference):
        for measure in physiology.MEASURES:
            first, second = (sample.rhythm_measures.loc[chosen, measure].to_numpy() for sample in (reference, judged))
            found[rhythm, f"{measure}_w1"] = physiology.wasserstein_interval(
                first, second, reference.rhythms[chosen], CONFIDENCE, RESAMPLES, rng
            )
        share = scores[rhythm, "undetected_share"]
        found[rhythm, "undetected_share"] = two_sample.wilson(share, int(chosen.sum()), CONFIDENCE)
    judgements = len(reference.rhythms) + len(judged.rhythms)
    for metric in SHARES:
        found[ALL, metric] = two_sample.wilson(scores[ALL, metric], len(judged.rhythms), CONFIDENCE)
    found[ALL, "c2st_accuracy"] = two_sample.wilson(scores[ALL, "c2st_accuracy"], judgements, CONFIDENCE)
    return found


def _selections(sample: Sample) -> list[tuple[str, np.ndarray]]:
    rhythms = pd.unique(sample.rhythms)
    return [(ALL, np.full(len(sample.rhythms), True)), *((rhythm, sample.rhythms == rhythm) for rhythm in rhythms)]


def _views(reference: Sample, generated: Sample, seed: int) -> pd.DataFrame:
    flat = views.flatten(np.concatenate([reference.features, generated.features]), seed)
    kind = np.repeat(["real", "synthetic"], len(reference.rhythms))
    rhythm = np.concatenate([reference.rhythms, generated.rhythms])
    index = flat.pop("record").to_numpy()
    return flat.assign(kind=kind[index], rhythm=rhythm[index])[["view", "kind", "rhythm", "x", "y"]]
