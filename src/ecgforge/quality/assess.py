"""All quality scores of a synthetic record set, each between its floor, real against real, and a ceiling, plainly wrong records."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ecgforge.params import Quality
from ecgforge.quality import coherence, distribution, intervals, views
from ecgforge.quality.memorisation import Embedded, Memory, near, ratio
from ecgforge.quality.samples import ALL, FEWEST, Embed, Sample, Samples
from ecgforge.quality.scores import CONFIDENCE, RESAMPLES, compare, limits
from ecgforge.records.record_set import RecordSet

PART = 256  # records read at a time

Key = tuple[str, str]  # rhythm or `ALL`, metric
Rows = dict[Key, float]
Limits = dict[Key, tuple[float, float]]


def assess(
    real_train: RecordSet, real_test: RecordSet, synthetic: RecordSet, settings: Quality, classifier: Embed | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score `synthetic` against real records, of all rhythms and of each, and two other sets by the same scores: real records of other
    patients, and plainly wrong ones. What is sampled of them is told in `samples`.

    Args:
        classifier: an embedding by a classifier of real records, for a second Fréchet distance.

    Returns:
        Scores: rhythm (`all` or one), metric, value, low, high, floor, ceiling. Names that end in `_w1` are Wasserstein distances, in
        ms, bpm, points, degrees or the records' unit, in `_ks` Kolmogorov-Smirnov statistics. `failed_share` is that of records whose
        waves could not be delineated. `limb_residual`, without a ceiling, is there for a set that was prepared from files with all limb
        leads alone: the median of `leads.limb_residual`. Memorisation is that of all synthetic records, and all training records are
        compared with those held out, half of them for its floor; it is missing in rhythms with fewer than `FEWEST` of these.
        Low and high, the 95 % interval, are there for all but `mmd2`, which has a p-value, `mmd_p`. A distance is missing where no
        record could be measured.
        Views: view, kind (`real`, `synthetic`), rhythm, x, y.

    Raises:
        EcgforgeError: the sets differ in what a record is, or no rhythm has enough records in all of them.
    """
    samples = Samples(real_train, real_test, synthetic, settings, classifier)
    reference, made = samples.reference, samples.synthetic()
    further, wrong = samples.bounds()
    value, floor, ceiling = (_compared(reference, sample, settings) for sample in (made, further, wrong))
    bounds: Limits = {}
    for (rhythm, real), (_, other) in zip(reference.by_rhythm(), made.by_rhythm(), strict=True):
        told = {metric: number for (where, metric), number in value.items() if where == rhythm}
        bounds |= {(rhythm, metric): found for metric, found in limits(real, other, told, settings.seed).items()}
    training, held_out = (_embedded(records, samples.embedding) for records in (real_train, real_test))
    strangers, others = _every_second(held_out, 0), _every_second(held_out, 1)
    own = Memory.measure(_embedded(synthetic, samples.embedding), training, strangers)
    value |= _remembered(own)
    floor |= _remembered(Memory.measure(others, training, strangers))
    ceiling |= _remembered(Memory.measure((wrong.features, wrong.rhythms), training, strangers))
    bounds |= _limits_of_memory(own, settings.seed)
    value |= _limb_residuals(synthetic)
    if any(metric == "limb_residual" for _, metric in value):
        floor |= _limb_residuals(real_test)
        bounds |= _limits_of_limb_residuals(synthetic, settings.seed)
    rows = [
        (*key, number, *bounds.get(key, (np.nan, np.nan)), floor.get(key, np.nan), ceiling.get(key, np.nan))
        for key, number in value.items()
    ]
    table = pd.DataFrame(rows, columns=["rhythm", "metric", "value", "low", "high", "floor", "ceiling"])
    return table, _views(reference, made, settings)


def overall(real_train: RecordSet, real_test: RecordSet, synthetic: RecordSet, settings: Quality) -> dict[str, float]:
    """Return the scores of `assess` over all rhythms alone, by metric, without intervals, floors and ceilings, in a tenth of its time."""
    samples = Samples(real_train, real_test, synthetic, settings)
    training, held_out = (_embedded(records, samples.embedding) for records in (real_train, real_test))
    own = Memory.measure(_embedded(synthetic, samples.embedding), training, _every_second(held_out, 0))
    return compare(samples.reference, samples.synthetic(), settings) | own.scores(near(own.strange))


def _compared(reference: Sample, judged: Sample, settings: Quality) -> Rows:
    found: Rows = {}
    for (rhythm, real), (_, other) in zip(reference.by_rhythm(), judged.by_rhythm(), strict=True):
        found |= {(rhythm, metric): value for metric, value in compare(real, other, settings).items()}
    return found


def _embedded(records: RecordSet, embedding: distribution.Embedding) -> Embedded:
    """All records embedded, read part by part, and their rhythms."""
    starts = range(0, len(records), PART)
    features = np.concatenate([embedding(records.signals(slice(start, start + PART))) for start in starts])
    return features, records.records["rhythm"].to_numpy()


def _every_second(records: Embedded, first: int) -> Embedded:
    return records[0][first::2], records[1][first::2]


def _memories(memory: Memory) -> dict[str, Memory]:
    """That of all rhythms, and of those that have records enough."""
    parts = {rhythm: memory.of(rhythm) for rhythm in pd.unique(memory.rhythms)}
    return {ALL: memory, **{rhythm: part for rhythm, part in parts.items() if part.fewest() >= FEWEST}}


def _remembered(memory: Memory) -> Rows:
    threshold = near(memory.strange)
    return {(rhythm, metric): value for rhythm, part in _memories(memory).items() for metric, value in part.scores(threshold).items()}


def _limits_of_memory(memory: Memory, seed: int) -> Limits:
    found: Limits = {}
    for rhythm, part in _memories(memory).items():
        values, count = part.scores(near(memory.strange)), len(part.own)
        for metric in ("copied_share", "authenticity"):
            found[rhythm, metric] = intervals.wilson(values[metric], count, CONFIDENCE)
        told = len(part.members), len(part.outsiders)
        found[rhythm, "membership_auc"] = intervals.hanley_mcneil(values["membership_auc"], *told, CONFIDENCE)
        found[rhythm, "nearest_ratio"] = intervals.percentile(ratio, [part.own, part.strange], CONFIDENCE, RESAMPLES, seed)
    return found


def _residuals(records: RecordSet) -> dict[str, np.ndarray]:
    """`coherence.limb_residuals` of all rhythms and of each; none of a rhythm that has none."""
    found = coherence.limb_residuals(records)
    parts = {ALL: found, **{rhythm: found[found.index == rhythm] for rhythm in pd.unique(found.index)}}
    return {rhythm: part.to_numpy() for rhythm, part in parts.items() if len(part)}


def _limb_residuals(records: RecordSet) -> Rows:
    return {(rhythm, "limb_residual"): float(np.median(part)) for rhythm, part in _residuals(records).items()}


def _limits_of_limb_residuals(records: RecordSet, seed: int) -> Limits:
    return {
        (rhythm, "limb_residual"): intervals.percentile(np.median, [part], CONFIDENCE, RESAMPLES, seed)
        for rhythm, part in _residuals(records).items()
    }


def _views(reference: Sample, generated: Sample, settings: Quality) -> pd.DataFrame:
    flat = views.flatten(np.concatenate([reference.features, generated.features]), settings.seed, tuple(settings.views))
    kind = np.repeat(["real", "synthetic"], len(reference.rhythms))
    rhythm = np.concatenate([reference.rhythms, generated.rhythms])
    index = flat.pop("record").to_numpy()
    return flat.assign(kind=kind[index], rhythm=rhythm[index])[["view", "kind", "rhythm", "x", "y"]]
