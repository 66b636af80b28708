"""Score the synthetic records of a generator."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from ecgforge import artifacts
from ecgforge.classifiers.common import registry as classifiers
from ecgforge.classifiers.common.base import embed
from ecgforge.files import atomic_write, md5
from ecgforge.params import Params
from ecgforge.quality import assess as scores
from ecgforge.quality.flags import ALL, beyond_baseline, judged
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.common.tracked import Stage, tracked
from ecgforge.tracking import runs

# the scores that MLflow shows as metrics, each with its baseline; scores.csv has all
SHOWN = (
    *("c2st_accuracy", "recall", "precision", "coverage", "density"),
    *("heart_rate_w1", "rr_cv_w1", "qrs_duration_w1", "qtc_w1", "p_share_w1", "qrs_constancy"),
    *("psd_db", "correlation_error", "frechet", "mmd2"),
    *("copied_share", "authenticity", "membership_auc", "dcr_ratio"),
)


def quality(
    params: Params,
    dataset: str,
    generator: str,
    real: Path,
    synthetic: Path,
    trained: Path,
    out: Path,
) -> None:
    """Write scores.csv and views.csv to `out`: the synthetic training records against real test
    records, with baselines and negative controls.

    Args:
        trained: where the classifiers of the real records are; the features of the first are one of
            the embeddings.
    """
    classifier = trained / f"seed-{params.active.study.seeds[0]}"
    records, generated = RecordSet.open(real), RecordSet.open(synthetic)
    settings = params.active.quality
    key = runs.RunKey(
        "quality", dataset, settings.seed, records.about.origin == "simulated", generator=generator
    )
    stage = Stage("quality", params, {"dataset": dataset, "generator": generator})
    sets, decides = [("real", records), ("synthetic", generated)], {"classifier": md5(classifier)}
    features = partial(embed, classifiers.load(classifier))
    # Two stages side by side with as many threads as there are cores each take four times as long
    # as alone.
    threads = threadpool_limits(params.active.compute.threads)
    opened = tracked(stage, key, settings.model_dump(), sets, decides)
    with threads, opened as tracked_run:
        run = tracked_run.run
        found, views = scores.assess(
            records.split("train"),
            records.split("test"),
            generated.split("train"),
            settings,
            features,
        )
        run.summary(_summary(found[found["rhythm"] == ALL]))
        run.files(artifacts.of_quality(found, views))
    with atomic_write(out) as scratch:
        scratch.mkdir()
        (scratch / "fingerprint.txt").write_text(tracked_run.fingerprint + "\n")
        for name, table in (("scores", found), ("views", views)):
            keyed = table.assign(dataset=dataset, generator=generator)[
                ["dataset", "generator", *table.columns]
            ]
            keyed.to_csv(scratch / f"{name}.csv", index=False, float_format="%.6g")
    tracked_run.remove_checkpoints()


def _summary(overall: pd.DataFrame) -> dict[str, float]:
    """Return the metrics of a run: the shown scores over all rhythms, with their baselines."""
    found = overall.set_index("metric").reindex(SHOWN)
    values = {
        f"{section}/{metric}": value
        for section, column in (("quality", "value"), ("quality_baseline", "baseline"))
        for metric, value in found[column].dropna().items()
    }
    share = float(beyond_baseline(overall)[judged(overall)].mean())
    return {"quality/beyond_baseline_share": share, **values}
