"""A round of cross-fitting: the records of a prepared dataset, with the splits of the round."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.files import read_csv
from ecgforge.preparation import splits
from ecgforge.records.record_set import FOLDS, FURTHER, SPLITS, RecordSet, write_record_set
from ecgforge.rounds import Round

CHUNK = 256  # records


def write_round(records: RecordSet, chosen: Round, out: Path) -> None:
    """Write the record set of a round to `out`.

    All rounds of a dataset deal its patients into the same groups. Groups are dealt within each
    source, so that a patient has the same group alone and merged.

    Args:
        records: the prepared dataset.
        chosen: the round.
        out: the new folder.

    Raises:
        EcgforgeError: a split of the round would have no records.
    """
    table = records.records.assign(fold=_published(records))
    merged = table["dataset"].nunique() > 1
    groups = pd.Series(0, index=table.index)
    for dataset, part in table.groupby("dataset"):
        alone = part.assign(
            patient=part["patient"].str.removeprefix(f"{dataset}-" if merged else "")
        )
        groups[part.index] = splits.deal(alone, chosen.count)
    table = table.assign(split=splits.in_round(groups, chosen.number, chosen.count))
    if empty := set(SPLITS) - set(table["split"]):
        raise EcgforgeError(
            f"{chosen.name}: no {min(empty)} records; {records.folder} has too few patients for "
            f"{chosen.count} rounds: lower `folds`"
        )
    counts = splits.by_rhythm(table, records.about.rhythms)
    made = records.about.made | {"by_rhythm": counts, "round": chosen.name}
    with write_record_set(out, replace(records.about, made=made)) as writer:
        for start in range(0, len(table), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(table)))
            writer.append(records.signals(rows), table.iloc[rows])
        for name in FURTHER:
            if (records.folder / name).exists():
                shutil.copyfile(records.folder / name, writer.folder / name)


def _published(records: RecordSet) -> pd.Series:
    """Return the published fold of each record; NaN where there is none."""
    file = records.folder / FOLDS
    if not file.exists():
        return pd.Series(np.nan, index=records.records.index)
    folds = read_csv(file, dtype={"id": str}, keep_default_na=False).set_index("id")["fold"]
    return records.records["id"].map(folds)
