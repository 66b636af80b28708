"""Turn raw folders into a record set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ecgforge.params import Params
from ecgforge.records.prepare import RawSource
from ecgforge.records.prepare import prepare as prepare_records
from ecgforge.sources.folder import MARKS
from ecgforge.sources.layouts import LAYOUTS


def prepare(params: Params, raw: Sequence[Path], out: Path) -> None:
    """Write the record set of one raw folder, or of several merged, to `out`; a folder is named like its source."""
    raws = {}
    for folder in raw:
        layout = LAYOUTS[params.source(folder.name).layout]
        simulated = any((folder / mark).exists() for mark in MARKS)
        raws[folder.name] = RawSource(folder, layout.catalogue(folder), layout.RHYTHM_CODES, layout.OTHER_RHYTHMS, simulated)
    prepare_records(raws, out, params.preprocessing, params.active.preparation, workers=os.cpu_count() or 1)
