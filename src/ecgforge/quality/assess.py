"""All quality scores of a synthetic record set, each with its real-vs-real baseline and its
negative control.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd

from ecgforge.params import Quality
from ecgforge.quality import coherence, intervals, views
from ecgforge.quality.flags import ALL
from ecgforge.quality.memorisation import Embedded, NearestNeighbours, near, ratio
from ecgforge.quality.samples import FEWEST, Embed, Sample, Samples
from ecgforge.quality.scores import CONFIDENCE, RESAMPLES, compare, limits
from ecgforge.records.record_set import RecordSet

Key = tuple[str, str]  # rhythm or `ALL`, metric
Rows = dict[Key, float]
Limits = dict[Key, tuple[float, float]]


def assess(
    real_train: RecordSet,
    real_test: RecordSet,
    synthetic: RecordSet,
    settings: Quality,
    classifier: Embed | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute all quality scores of `synthetic`, over all rhythms and for each rhythm.

    The baseline and the negative control are the same scores of real records of other patients, and
    of records that are wrong on purpose; see `samples`.

    Args:
        real_train: real training records.
        real_test: held-out real records.
        synthetic: synthetic records.
        settings: parameters of the scores.
        classifier: features of a classifier of real records, for a second Fréchet distance.

    Returns:
        Scores: rhythm (`all` or one), metric, value, low, high, baseline, negative_control. Names
            that end in `_w1` are Wasserstein distances in ms, bpm, points, degrees or the records'
            unit; names that end in `_ks` are Kolmogorov-Smirnov statistics. `failed_share` is the
            share of records without delineated waves. `limb_residual` is the median of
            `leads.limb_residual`; it exists only for sets from files with all limb leads, without a
            negative control. Memorisation scores use all synthetic and training records, and half
            of the held-out records for the value and for the baseline; they are missing for rhythms
            with fewer than `FEWEST` records in a half. `low` and `high` are the 95 % interval; only
            `mmd2`, with the p-value `mmd_p`, and missing distances have none.
        Views: view, kind (`real`, `synthetic`), rhythm, x, y.

    Raises:
        EcgforgeError: the sets have different formats of records, or no rhythm has enough records
            in all sets.
    """
    samples = Samples(real_train, real_test, synthetic, settings, classifier)
    reference, made = samples.reference, samples.synthetic()
    further, wrong = samples.bounds()
    of_reference, of_made = list(reference.by_rhythm()), list(made.by_rhythm())
    value, baseline, negative_control = (
        _compared(of_reference, parts, settings)
        for parts in (of_made, further.by_rhythm(), wrong.by_rhythm())
    )
    bounds: Limits = {}
    for (rhythm, real), (_, other) in zip(of_reference, of_made, strict=True):
        of_rhythm = {metric: number for (where, metric), number in value.items() if where == rhythm}
        bounds |= {
            (rhythm, metric): found
            for metric, found in limits(real, other, of_rhythm, settings.seed).items()
        }
    holdout, test = _halves(real_test, samples.test)
    sets = [samples.made, test, (wrong.features, wrong.rhythms)]
    neighbours = NearestNeighbours.measure_all(sets, samples.train, holdout)
    rhythms = [
        rhythm
        for rhythm in pd.unique(holdout[1])
        if min(one.of(rhythm).fewest() for one in neighbours[:2]) >= FEWEST
    ]
    for scored, one in zip((value, baseline, negative_control), neighbours, strict=True):
        scored |= _memorisation(one, rhythms)
    bounds |= _memorisation_limits(neighbours[0], rhythms, settings.seed)
    residuals, recorded = _residuals(synthetic), _residuals(real_test)
    for rhythm, part in residuals.items():
        key = (rhythm, "limb_residual")
        value[key], baseline[key] = (
            float(np.median(part)),
            float(np.median(recorded.get(rhythm, np.nan))),
        )
        bounds[key] = intervals.percentile(
            partial(np.median, axis=-1), [part], CONFIDENCE, RESAMPLES, settings.seed
        )
    rows = [
        (
            *key,
            number,
            *bounds.get(key, (np.nan, np.nan)),
            baseline.get(key, np.nan),
            negative_control.get(key, np.nan),
        )
        for key, number in value.items()
    ]
    table = pd.DataFrame(
        rows, columns=["rhythm", "metric", "value", "low", "high", "baseline", "negative_control"]
    )
    return table, _views(reference, made, settings)


def overall(
    real_train: RecordSet, real_test: RecordSet, synthetic: RecordSet, settings: Quality
) -> dict[str, float]:
    """Return only the scores of `assess` over all rhythms, by metric, without intervals, baselines
    and negative controls. This takes a third of the time.
    """
    samples = Samples(real_train, real_test, synthetic, settings)
    holdout, _ = _halves(real_test, samples.test)
    own = NearestNeighbours.measure(samples.made, samples.train, holdout)
    return compare(samples.reference, samples.synthetic(), settings) | own.scores(near(own.holdout))


def _compared(
    reference: Iterable[tuple[str, Sample]], judged: Iterable[tuple[str, Sample]], settings: Quality
) -> Rows:
    found: Rows = {}
    for (rhythm, real), (_, other) in zip(reference, judged, strict=True):
        found |= {
            (rhythm, metric): value for metric, value in compare(real, other, settings).items()
        }
    return found


def _halves(real_test: RecordSet, embedded: Embedded) -> tuple[Embedded, Embedded]:
    """Return two halves of the held-out records. The halves have alternate patients of each rhythm,
    with all their records.
    """
    features, rhythms = embedded
    patients = real_test.records["patient"].fillna(real_test.records["id"]).to_numpy()
    first = (
        pd.DataFrame({"patient": patients, "rhythm": rhythms})
        .drop_duplicates("patient")
        .set_index("patient")
    )
    half = pd.Series(patients).map(first.groupby("rhythm").cumcount() % 2).to_numpy()
    return (features[half == 0], rhythms[half == 0]), (features[half == 1], rhythms[half == 1])


def _parts(one: NearestNeighbours, rhythms: list[str]) -> dict[str, NearestNeighbours]:
    return {ALL: one, **{rhythm: one.of(rhythm) for rhythm in rhythms}}


def _memorisation(one: NearestNeighbours, rhythms: list[str]) -> Rows:
    threshold, parts = near(one.holdout), _parts(one, rhythms)
    return {
        (rhythm, metric): value
        for rhythm, part in parts.items()
        for metric, value in part.scores(threshold).items()
    }


def _memorisation_limits(one: NearestNeighbours, rhythms: list[str], seed: int) -> Limits:
    found: Limits = {}
    for rhythm, part in _parts(one, rhythms).items():
        values, count = part.scores(near(one.holdout)), len(part.query)
        for metric in ("copied_share", "authenticity"):
            found[rhythm, metric] = intervals.wilson(values[metric], count, CONFIDENCE)
        sizes = len(part.members), len(part.outsiders)
        found[rhythm, "membership_auc"] = intervals.hanley_mcneil(
            values["membership_auc"], *sizes, CONFIDENCE
        )
        found[rhythm, "dcr_ratio"] = intervals.percentile(
            ratio, [part.query, part.holdout], CONFIDENCE, RESAMPLES, seed
        )
    return found


def _residuals(records: RecordSet) -> dict[str, np.ndarray]:
    """Return `coherence.limb_residuals` of all rhythms, and of each with `FEWEST` records."""
    found = coherence.limb_residuals(records)
    parts = {
        ALL: found,
        **{rhythm: found[found.index == rhythm] for rhythm in pd.unique(found.index)},
    }
    return {rhythm: part.to_numpy() for rhythm, part in parts.items() if len(part) >= FEWEST}


def _views(reference: Sample, generated: Sample, settings: Quality) -> pd.DataFrame:
    flat = views.flatten(
        np.concatenate([reference.features, generated.features]),
        settings.seed,
        tuple(settings.views),
    )
    kind = np.repeat(["real", "synthetic"], len(reference.rhythms))
    rhythm = np.concatenate([reference.rhythms, generated.rhythms])
    index = flat.pop("record").to_numpy()
    return flat.assign(kind=kind[index], rhythm=rhythm[index])[["view", "kind", "rhythm", "x", "y"]]
