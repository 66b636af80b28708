"""Score a synthetic record set."""

from __future__ import annotations

from pathlib import Path

from threadpoolctl import threadpool_limits

import ecgforge.quality
from ecgforge.files import whole
from ecgforge.params import Params
from ecgforge.quality import assess as scores
from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.inputs import digests, record_inputs
from ecgforge.tracking import runs


def quality(params: Params, dataset: str, generator: str, real: Path, synthetic: Path, out: Path) -> None:
    """Write scores.csv and views.csv to `out`: the synthetic training records against real test records, with floors."""
    records, generated = RecordSet.open(real), RecordSet.open(synthetic)
    settings = params.active.quality
    cell = runs.Cell("quality", dataset, settings.seed, records.about.origin == "simulated", generator=generator)
    inputs = record_inputs([("real", records), ("synthetic", generated)])
    identity = runs.identity(cell, settings.model_dump(), digests(inputs), [ecgforge.quality, beats])
    # Two stages side by side with as many threads as there are cores each take four times as long as alone.
    threads = threadpool_limits(params.active.compute.threads)
    with threads, runs.tracked(cell, identity=identity, params=settings.model_dump(), inputs=inputs) as run:
        found, views = scores.assess(records.split("train"), records.split("test"), generated.split("train"), settings)
        overall = found[found["rhythm"] == scores.ALL]
        for row in overall.dropna(subset="value").to_dict("records"):
            run.summary({row["metric"]: row["value"], f"{row['metric']}_floor": row["floor"]})
    with whole(out) as scratch:
        scratch.mkdir()
        (scratch / "cell.txt").write_text(identity + "\n")
        for name, table in (("scores", found), ("views", views)):
            keyed = table.assign(dataset=dataset, generator=generator)[["dataset", "generator", *table.columns]]
            keyed.to_csv(scratch / f"{name}.csv", index=False, float_format="%.6g")
