"""Score the synthetic records of a generator."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from ecgforge.classifiers.common import registry as classifiers
from ecgforge.classifiers.common.base import embed
from ecgforge.files import atomic_write, md5
from ecgforge.params import Params
from ecgforge.quality import assess as scores
from ecgforge.quality.flags import ALL, beyond_baseline, judged
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.common.tracked import Stage, tracked
from ecgforge.tracking import runs


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
        overall = found[found["rhythm"] == ALL]
        for row in overall.dropna(subset="value").to_dict("records"):
            context = {
                name: row[name]
                for name in ("low", "high", "baseline", "negative_control")
                if pd.notna(row[name])
            }
            run.summary(
                {row["metric"]: row["value"]}
                | {f"{row['metric']}_{name}": value for name, value in context.items()}
            )
        run.summary(
            {"beyond_baseline_share": float(beyond_baseline(overall)[judged(overall)].mean())}
        )
        run.text(found.to_csv(index=False, float_format="%.6g"), "scores.csv")
    with atomic_write(out) as scratch:
        scratch.mkdir()
        (scratch / "fingerprint.txt").write_text(tracked_run.fingerprint + "\n")
        for name, table in (("scores", found), ("views", views)):
            keyed = table.assign(dataset=dataset, generator=generator)[
                ["dataset", "generator", *table.columns]
            ]
            keyed.to_csv(scratch / f"{name}.csv", index=False, float_format="%.6g")
    tracked_run.remove_checkpoints()
