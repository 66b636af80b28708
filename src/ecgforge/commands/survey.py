"""What a folder of a user's own records has, read as the stage `prepare` reads it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ecgforge import console
from ecgforge.params import FolderSource, Preprocessing
from ecgforge.preparation import twins
from ecgforge.preparation.prepare import CHUNK, prepared_chunks
from ecgforge.quality.samples import FEWEST
from ecgforge.records.exclusions import DAMAGE, BadRecord, Reason
from ecgforge.records.leads import LEADS
from ecgforge.records.rhythms import RHYTHMS
from ecgforge.sources import folder, found, own_table
from ecgforge.wfdb_io import formats, header
from ecgforge.wfdb_io.files import MILLIVOLTS
from ecgforge.workers import for_records

PATIENTS = 3  # of a rhythm: one for each split
# records of a rhythm: a twentieth of all records, from 5 to the 15 of the profile `sample`
LEAST, MOST, SHARE = 5, 15, 20
NAMED = 5  # records, labels or patients in a line


@dataclass(frozen=True)
class Survey:
    """The records of a folder.

    Attributes:
        settings: how to read the folder, with the map of its labels.
        labels: of the records.
        table: a row per record: record, patient, rhythm, reason and detail of its exclusion, and
            from its header: rate in Hz (0 if unknown), leads, units; and its length in seconds.
        repeated: rows of the CSV for a record of an earlier row.
        unlisted: headers that the CSV does not name.
    """

    settings: FolderSource
    labels: list[found.Label]
    table: pd.DataFrame
    repeated: int
    unlisted: int

    @property
    def usable(self) -> pd.DataFrame:
        """The rows of the records that are not excluded."""
        return self.table[self.table["reason"] == ""]

    @property
    def damaged(self) -> float:
        """The share of records with damaged files."""
        return float(self.table["reason"].isin(DAMAGE).mean())

    @property
    def amplitude(self) -> str:
        """The unit of the study: mV, unless a record has another unit than volts."""
        return _amplitude(self.table)

    @property
    def least(self) -> int:
        """The smallest number of records of a rhythm in the study."""
        return min(MOST, max(LEAST, len(self.usable) // SHARE))

    @property
    def counts(self) -> dict[str, int]:
        """The number of usable records of each rhythm that has some."""
        counts = self.usable["rhythm"].value_counts()
        return {one: int(counts[one]) for one in RHYTHMS if one in counts}

    @property
    def kept(self) -> dict[str, int]:
        """The number of records of each rhythm of the study."""
        return {one: count for one, count in self.counts.items() if count >= self.least}

    @property
    def obstacle(self) -> str:
        """Why no study of the records can run; empty if one can."""
        found = self.usable.groupby("rhythm")["patient"].nunique()
        patients = {rhythm: int(found[rhythm]) for rhythm in self.kept}
        if sum(number >= PATIENTS for number in patients.values()) < 2:
            needs = f"two rhythms with {self.least} records of {PATIENTS} patients each"
        elif max(patients.values()) < 2 * FEWEST:
            needs = f"{2 * FEWEST} patients of one rhythm"
        else:
            return ""
        there = self.usable["rhythm"].value_counts().to_dict()
        counts = ", ".join(f"{number} of {rhythm}" for rhythm, number in there.items())
        return f"a study needs {needs}, and there are {counts or 'no usable records'}"


def survey(home: Path, table: str | None, preprocessing: Preprocessing) -> Survey:
    """Read all records of the folder `home`.

    Raises:
        EcgforgeError: see `sources.found.source`.
    """
    settings = found.source(home, table)
    cells = own_table.read(home, settings)
    paths = list(folder.record_paths(cells["record"], home))
    first = ~pd.Series(paths).duplicated()
    labels = found.labels(cells["rhythm"][first.to_numpy()].tolist())
    chosen = {one.text: one.code or None for one in labels if not one.is_code}
    settings = settings.model_copy(update={"map": chosen})
    codes = own_table.codes(cells["rhythm"], chosen)
    rows = folder.labelled(codes).assign(record=paths, patient=folder.one_patient(cells["patient"]))
    rows = rows[first.to_numpy()].reset_index(drop=True)
    rows = rows.join(pd.DataFrame([_header(home, path) for path in rows["record"]]))
    _read(home, rows, preprocessing)
    unlisted = len(set(own_table.headers(home)) - set(paths))
    return Survey(settings, labels, rows, int((~first).sum()), unlisted)


def _header(home: Path, path: str) -> dict[str, object]:
    try:
        if file := formats.file_of(home, path):
            other = formats.read(file, 1)
            rate, named = other.sampling_rate, other.units
        else:
            parsed = header.parse(home / f"{path}.hea")
            rate, named = parsed.sampling_rate, [signal.units for signal in parsed.signals]
    except (BadRecord, OSError):  # reading the record gives the reason
        return {"rate": 0.0, "leads": 0, "units": ""}
    units = set(named)
    unusual = min(units - set(MILLIVOLTS), default="") or min(units, default="")
    return {"rate": rate, "leads": len(named), "units": unusual}


def _amplitude(rows: pd.DataFrame) -> str:
    return "mV" if rows["units"].isin(["", *MILLIVOLTS]).all() else "per_lead_std"


def _read(home: Path, rows: pd.DataFrame, preprocessing: Preprocessing) -> None:
    """Set reason, detail and seconds of the rows, in place; find records that are the same."""
    chunks = [rows.index[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    files = ([(home, path) for path in rows.loc[chunk, "record"]] for chunk in chunks)
    workers = for_records(len(rows))
    rows["seconds"] = np.nan
    usable: list[int] = []
    with tempfile.TemporaryFile() as spool:
        read = prepared_chunks(files, preprocessing, _amplitude(rows), workers)
        every = console.track(zip(chunks, read, strict=True), "reading records", len(chunks))
        for chunk, (signals, verdicts) in every:
            spool.write(signals.data)
            for row, verdict in zip(chunk, verdicts, strict=True):
                rows.loc[row, "seconds"] = verdict.seconds
                if verdict.reason:
                    rows.loc[row, ["reason", "detail"]] = verdict.reason, verdict.detail
                else:
                    usable.append(row)
        if usable:
            spool.flush()
            packed = np.memmap(spool, "<f4", "r").reshape(len(usable), len(LEADS), -1)
            parts = [(len(usable), lambda part: np.asarray(packed[part]))]
            for group in twins.groups(parts):
                _exclude(rows, [usable[place] for place in group])


def _exclude(rows: pd.DataFrame, same: Sequence[int]) -> None:
    """Keep the first of the records that are the same, or none if their rhythms differ."""
    there = rows.loc[list(same)]
    there = there[there["reason"] == ""]
    differ = there["rhythm"].nunique() > 1
    out = there.index if differ else there.index[1:]
    reason = Reason.CONTRADICTORY_RHYTHMS if differ else Reason.SAME_RECORDING
    rows.loc[out, "reason"] = str(reason)
    rows.loc[out, "detail"] = f"the same recording as {', '.join(there['record'][:NAMED])}"


def lines(survey: Survey, duration: float) -> Iterator[str]:
    """Yield what the folder has, for display."""
    rows, settings = survey.table, survey.settings
    used = f"the table {settings.table}" if settings.table else "the comments of the headers"
    yield f"{console.counted(len(rows), 'record')} in {settings.path}, described by {used}"
    if settings.columns:
        columns = ", ".join(f"{name}: '{column}'" for name, column in settings.columns.items())
        yield f"columns: {columns}"
    if survey.repeated:
        repeated = console.counted(survey.repeated, "row")
        yield f"ignored, the record of an earlier row: {repeated}"
    if survey.unlisted:
        unlisted = console.counted(survey.unlisted, "record")
        yield f"ignored, not in the table: {unlisted} of the folder"
    yield from _patients(survey)
    yield from _labels(survey.labels)
    yield f"sampling rates: {_counts(rows.loc[rows['rate'] > 0, 'rate'], 'Hz')}"
    leads = _counts(rows.loc[rows["leads"] > 0, "leads"], "leads")
    yield f"leads: {leads}; needed: {', '.join(LEADS)}"
    seconds = rows["seconds"].dropna()
    if len(seconds):
        yield f"lengths: {seconds.min():g} s to {seconds.max():g} s"
    if longer := int((seconds >= duration + 1).sum()):
        yield f"cut to the first {duration:g} s: {console.counted(longer, 'record')}"
    for reason, part in rows[rows["reason"] != ""].groupby("reason", sort=False):
        yield f"excluded, {reason}: {len(part)} ({_words(part['record'])})"
    kept, counts = survey.kept, survey.counts
    few = {rhythm: number for rhythm, number in counts.items() if rhythm not in kept}
    if few:
        yield f"left out, too few records: {_of_rhythms(few)}"
    yield (
        f"records of the study: {_of_rhythms(kept) or 'none'}; a rhythm needs {survey.least} "
        "records"
    )


def _of_rhythms(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {rhythm}" for rhythm, number in counts.items())


def _labels(labels: Sequence[found.Label]) -> Iterator[str]:
    known: dict[str, list[found.Label]] = {}
    for label in labels:
        if label.code:
            known.setdefault(own_table.RHYTHM_CODES.get(label.code, label.code), []).append(label)
    for rhythm, group in known.items():
        outside = "" if rhythm in RHYTHMS else ", outside the study"
        texts = _words([repr(label.text) for label in group])
        records = console.counted(sum(label.records for label in group), "record")
        yield f"{rhythm}{outside}: {records}, from {texts}"
    unknown = [label for label in labels if not label.code]
    for label in unknown[: 2 * NAMED]:
        records = console.counted(label.records, "record")
        yield f"unknown label {label.text!r}: {records}; {label.question}"
    if len(unknown) > 2 * NAMED:
        yield console.counted(len(unknown) - 2 * NAMED, "more unknown label")


def _patients(survey: Survey) -> Iterator[str]:
    rows, columns = survey.table, survey.settings.columns
    if survey.settings.table and columns.get("patient") == columns.get("record", "record"):
        yield (
            "no column names the patients, so each record counts as its own patient: add a column "
            "`patient` if a patient has several records, or the results will be too good"
        )
        return
    shared = rows.groupby("patient")["record"].apply(list)
    shared = shared[shared.map(len) > 1]
    also = f"; {len(shared)} of them with several records: " if len(shared) else ""
    groups = [f"{patient} ({_words(records)})" for patient, records in shared.items()]
    yield f"{console.counted(rows['patient'].nunique(), 'patient')}{also}{_words(groups)}"


def _counts(values: pd.Series, unit: str) -> str:
    counts = Counter(values)
    return ", ".join(f"{value:g} {unit} ({counts[value]})" for value in sorted(counts)) or "unknown"


def _words(words: Sequence[str]) -> str:
    shown = [str(word)[:100] for word in list(words)[:NAMED]]
    more = len(list(words)) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
