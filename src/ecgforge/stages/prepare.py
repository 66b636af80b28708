"""Turn raw folders into a record set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ecgforge.errors import EcgforgeError
from ecgforge.outputs import refuse
from ecgforge.params import Params
from ecgforge.preparation.prepare import RawSource, few_records
from ecgforge.preparation.prepare import prepare as prepare_records
from ecgforge.records.record_set import SPLITS, About
from ecgforge.sources.folder import MARKS
from ecgforge.sources.layouts import LAYOUTS
from ecgforge.workers import for_records


def prepare(params: Params, raw: Sequence[Path], out: Path) -> None:
    """Write the record set of one raw folder, or of several merged, to `out`; a folder is named
    like its source.

    Raises:
        EcgforgeError: see `records.prepare.prepare`; no classifier can be trained and tested on the
            set, which is not kept then; or `out` overlaps a raw folder, or is there and is no
            record set.
    """
    refuse(out, raw)
    raws = {}
    for folder in raw:
        layout = LAYOUTS[params.source(folder.name).layout]
        simulated = any(os.path.lexists(folder / mark) for mark in MARKS)  # a broken link, too
        raws[folder.name] = RawSource(
            folder,
            layout.catalogue(folder),
            layout.RHYTHM_CODES,
            layout.OTHER_RHYTHMS,
            simulated,
            params.withdrawn.get(folder.name, ()),
        )
    accept = partial(_refuse_useless, ", ".join(raws), params.active.preparation.min_records)
    records = sum(len(source.catalogue) for source in raws.values())
    preparation, workers = params.active.preparation, for_records(records)
    prepare_records(raws, out, params.preprocessing, preparation, workers, accept)


def _refuse_useless(names: str, min_records: int, about: About) -> None:
    """Refuse a set of one rhythm, or with nobody to stop a training by or to test on: trainings
    would fail on it much later.
    """
    counts = about.made["by_rhythm"]
    empty = [split for split in SPLITS if not any(by_split[split] for by_split in counts.values())]
    if len(counts) >= 2 and not empty:
        return
    counted = "; ".join(
        f"{rhythm}: " + ", ".join(f"{by_split[split]} {split}" for split in SPLITS)
        for rhythm, by_split in counts.items()
    )
    lack = f"no {' and no '.join(empty)} records" if empty else "one rhythm alone"
    few = few_records(about.made.get("below_min_records", {}), min_records)
    raise EcgforgeError(
        f"{names}: {lack} ({counted}{f'; {few}' if few else ''}); a study needs two rhythms or "
        "more, and records in every split: "
        "add records, of three patients or more of each rhythm (or of every published fold), or "
        "lower preparation.min_records"
    )
