"""Turn raw folders into a record set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ecgforge.params import Params
from ecgforge.records.prepare import RawSource
from ecgforge.records.prepare import prepare as prepare_records
from ecgforge.sources.layouts import LAYOUTS

SIMULATED = "SIMULATED.txt"  # the file by which a raw folder says that its patients are simulated


def prepare(params: Params, raw: Sequence[Path], out: Path) -> None:
    """Write the record set of one raw folder, or of several merged, to `out`; a folder is named like its source."""
    raws = {}
    for folder in raw:
        layout = LAYOUTS[params.source(folder.name).layout]
        simulated = (folder / SIMULATED).exists()
        raws[folder.name] = RawSource(folder, layout.catalogue(folder), layout.RHYTHM_CODES, layout.OTHER_RHYTHMS, simulated)
    prepare_records(raws, out, params.preprocessing, params.active.preparation, workers=os.cpu_count() or 1)
