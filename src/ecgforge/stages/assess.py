"""Score a synthetic record set."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pandas as pd
from rich.table import Table
from threadpoolctl import threadpool_limits

import ecgforge.quality
from ecgforge import console, outputs
from ecgforge.classifiers.common import registry as classifiers
from ecgforge.classifiers.common.base import embed
from ecgforge.files import md5, whole
from ecgforge.params import Params
from ecgforge.quality import assess as scores
from ecgforge.quality.flags import beyond_floor, flags, judged
from ecgforge.quality.samples import ALL
from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.inputs import digests, record_inputs
from ecgforge.tracking import runs


def quality(params: Params, dataset: str, generator: str, real: Path, synthetic: Path, trained: Path, out: Path) -> None:
    """Write scores.csv and views.csv to `out`: the synthetic training records against real test records, with floors and ceilings.

    Args:
        trained: where the classifiers of the real records are; the features of the first are one of the embeddings.
    """
    classifier = trained / f"seed-{params.active.study.seeds[0]}"
    records, generated = RecordSet.open(real), RecordSet.open(synthetic)
    settings = params.active.quality
    cell = runs.Cell("quality", dataset, settings.seed, records.about.origin == "simulated", generator=generator)
    inputs = record_inputs([("real", records), ("synthetic", generated)])
    given = digests(inputs) | {"classifier": md5(classifier)}
    identity = runs.identity(cell, settings.model_dump(), given, [ecgforge.quality, beats])
    features = partial(embed, classifiers.load(classifier))
    # Two stages side by side with as many threads as there are cores each take four times as long as alone.
    threads = threadpool_limits(params.active.compute.threads)
    with threads, runs.tracked(cell, identity=identity, params=settings.model_dump(), inputs=inputs) as run:
        found, views = scores.assess(records.split("train"), records.split("test"), generated.split("train"), settings, features)
        overall = found[found["rhythm"] == ALL]
        for row in overall.dropna(subset="value").to_dict("records"):
            beside = {name: row[name] for name in ("low", "high", "floor", "ceiling") if pd.notna(row[name])}
            run.summary({row["metric"]: row["value"]} | {f"{row['metric']}_{name}": value for name, value in beside.items()})
        run.summary({"beyond_floor_share": float(beyond_floor(overall)[judged(overall)].mean())})
        run.text(found.to_csv(index=False, float_format="%.6g"), "scores.csv")
    with whole(out) as scratch:
        scratch.mkdir()
        (scratch / "cell.txt").write_text(identity + "\n")
        for name, table in (("scores", found), ("views", views)):
            keyed = table.assign(dataset=dataset, generator=generator)[["dataset", "generator", *table.columns]]
            keyed.to_csv(scratch / f"{name}.csv", index=False, float_format="%.6g")


def score(params: Params, real: Path, synthetic: Path, out: Path | None) -> None:
    """Print the scores of any two record sets over all rhythms, and write all of them to the CSV `out`; nothing is tracked."""
    if out:
        outputs.check_file(out, ".csv", re.compile(rb"rhythm,metric,value,"), [real, synthetic])
    records, generated = RecordSet.open(real), RecordSet.open(synthetic)
    with threadpool_limits(params.active.compute.threads):
        found, _ = scores.assess(records.split("train"), records.split("test"), generated.split("train"), params.active.quality)
    if out:
        with whole(out) as scratch:
            found.to_csv(scratch, index=False, float_format="%.6g")
    found["beyond"] = beyond_floor(found)
    table = Table("score", title=f"{synthetic} against {real}")
    for heading in ("value", "95 % interval", "floor: real", "ceiling: wrong"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in found[found["rhythm"] == ALL].to_dict("records"):
        interval = "" if pd.isna(row["low"]) else f"{row['low']:.3g} to {row['high']:.3g}"
        mark = "▲" if row["beyond"] else ""
        table.add_row(row["metric"], f"{row['value']:.3g}", interval, f"{row['floor']:.3g}", f"{row['ceiling']:.3g}", mark)
    console.out.print(table)
    for flag in flags(found):
        print(flag)
    rows = found[judged(found)].groupby("rhythm", sort=False)["beyond"]
    counts = ", ".join(f"{rhythm} {part.sum()} of {len(part)}" for rhythm, part in rows)
    print(f"▲ Further from its floor than chance explains: {counts} scores.")
    left_out = [rhythm for rhythm in records.about.rhythms if rhythm not in set(found["rhythm"])]
    if left_out:
        print(f"Not scored, for want of records of it in one of the sets: {', '.join(left_out)}.")
