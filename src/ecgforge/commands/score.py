"""Score any two record sets, without tracking."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from rich.table import Table
from threadpoolctl import threadpool_limits

from ecgforge import console, outputs
from ecgforge.files import atomic_write
from ecgforge.params import Params
from ecgforge.quality import assess as scores
from ecgforge.quality.flags import ALL, beyond_baseline, flags, judged
from ecgforge.records.record_set import RecordSet


def score(params: Params, real: Path, synthetic: Path, out: Path | None) -> None:
    """Print the quality scores of two record sets over all rhythms, without tracking.

    Args:
        params: the parameters; `quality` applies.
        real: folder of the real record set.
        synthetic: folder of the synthetic record set.
        out: CSV file for all scores, also by rhythm.
    """
    if out:
        outputs.check_file(out, ".csv", re.compile(rb"rhythm,metric,value,"), [real, synthetic])
    records, generated = RecordSet.open(real), RecordSet.open(synthetic)
    with threadpool_limits(params.active.compute.threads):
        found, _ = scores.assess(
            records.split("train"),
            records.split("test"),
            generated.split("train"),
            params.active.quality,
        )
    if out:
        with atomic_write(out) as scratch:
            found.to_csv(scratch, index=False, float_format="%.6g")
    found["beyond"] = beyond_baseline(found)
    table = Table("score", title=f"{synthetic} against {real}")
    for heading in ("value", "95 % interval", "baseline: real", "negative control: wrong"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in found[found["rhythm"] == ALL].to_dict("records"):
        interval = "" if pd.isna(row["low"]) else f"{row['low']:.3g} to {row['high']:.3g}"
        mark = "▲" if row["beyond"] else ""
        table.add_row(
            row["metric"],
            f"{row['value']:.3g}",
            interval,
            f"{row['baseline']:.3g}",
            f"{row['negative_control']:.3g}",
            mark,
        )
    console.out.print(table)
    for flag in flags(found):
        print(flag)
    console.report(
        real=real,
        synthetic=synthetic,
        scores=found.to_dict("records"),
        flags=list(flags(found)),
    )
    rows = found[judged(found)].groupby("rhythm", sort=False)["beyond"]
    counts = ", ".join(f"{rhythm} {part.sum()} of {len(part)}" for rhythm, part in rows)
    print(f"▲ Farther from the real-vs-real baseline than chance explains: {counts} scores.")
    left_out = [rhythm for rhythm in records.about.rhythms if rhythm not in set(found["rhythm"])]
    console.report(not_scored=left_out)
    if left_out:
        print(f"Not scored, since one of the sets has too few records: {', '.join(left_out)}.")
