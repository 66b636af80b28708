"""Real and synthetic ECGs of a rhythm on ECG paper, for the report and for MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import RecordSet
from ecgforge.report import ecg_paper

STRIP = 5.0  # s, what a strip shows of leads II and V1


def of_rhythm(dataset: str, rhythm: str, sets: Mapping[str, RecordSet]) -> dict[str, Any]:
    """Return a record of a rhythm from the real set and from each generator's set, as a strip of
    two leads and as a sheet of all leads.
    """
    ecgs = []
    for generator, records in sets.items():
        found = _example(records, rhythm)
        if found is not None:
            title = f"{dataset}, {rhythm}, {generator or found['origin']}: record {found['id']}"
            ecgs.append(
                {
                    "generator": generator,
                    "id": found["id"],
                    "origin": found["origin"],
                    **_drawings(records, found["signals"], title),
                }
            )
    return {"rhythm": rhythm, "ecgs": ecgs}


def _example(records: RecordSet, rhythm: str) -> dict[str, Any] | None:
    """Return the first record of the rhythm, from the test split if it has one."""
    rows = records.select((records.records["rhythm"] == rhythm).to_numpy())
    tested = rows.split("test")
    found = tested if len(tested) else rows
    if not len(found):
        return None
    return {**found.records.iloc[0].to_dict(), "signals": found.signals(slice(0, 1))[0]}


def _drawings(records: RecordSet, signals: np.ndarray, title: str) -> dict[str, str]:
    rate, units = records.about.sampling_rate, records.about.units
    leads = ("II", "V1")
    part = signals[[LEADS.index(lead) for lead in leads], : int(STRIP * rate)]
    return {
        "strip": ecg_paper.draw(part, rate, leads, f"{title}, leads II and V1", units=units),
        "sheet": ecg_paper.sheet(signals, rate, units, f"{title}, all leads"),
    }
