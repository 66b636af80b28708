"""From raw WFDB folders to one record set: every record of the catalogues is in it, or in excluded.csv with its reason."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from ecgforge.errors import EcgforgeError
from ecgforge.params import Preparation, Preprocessing
from ecgforge.records import splits, wfdb_files
from ecgforge.records.exclusions import DAMAGE, BadRecord, Reason
from ecgforge.records.leads import LEADS
from ecgforge.records.preprocessing import prepare_recording
from ecgforge.records.record_set import SPLITS, About, RecordSetWriter, write_record_set
from ecgforge.records.rhythms import RHYTHMS, rhythm_of
from ecgforge.workers import obey

CHUNK = 32  # records that a worker handles at a time: 1 MB of signals, a fraction of a second
LIMB_LEADS = "limb_leads.csv"
Chunk = tuple[np.ndarray, list[tuple[str, str]], list[float]]  # see `prepared_chunks`
CATALOGUE_COLUMNS = ("id", "patient", "age", "sex", "fold", "path")
EXCLUDED_COLUMNS = ("id", "dataset", "path", "rhythm", "reason", "detail")


@dataclass(frozen=True)
class RawSource:
    """Raw WFDB records of one dataset, and what a layout's reader made of them.

    Attributes:
        folder: the raw folder; nothing outside of it is read.
        catalogue: a row a record: id, patient, codes, age, sex, fold, path and, where known, withdrawn.
        rhythm_codes: from a published code to a rhythm of the vocabulary.
        other_rhythms: codes of rhythms outside the vocabulary.
        simulated: whether these are simulated patients.
    """

    folder: Path
    catalogue: pd.DataFrame
    rhythm_codes: Mapping[str, str]
    other_rhythms: Set[str]
    simulated: bool

    @property
    def origin(self) -> str:
        return "simulated" if self.simulated else "real"


def prepare(raws: Mapping[str, RawSource], out: Path, preprocessing: Preprocessing, preparation: Preparation, workers: int = 1) -> About:
    """Prepare the records of one dataset, or of several merged, into a record set at `out`, with excluded.csv in it, and limb_leads.csv
    with the `leads.limb_residual` of the records that came with all limb leads.

    Merged sets prefix ids and patients with "<dataset>-". Splits are assigned within each dataset before that, so that a
    record is in the same split alone and merged. Signals pass through in chunks: memory doesn't grow with their number.
    The bytes written don't depend on `workers`.

    Args:
        raws: from a dataset's name to its raw records.
        workers: processes that read and filter, at most; 1 does it in this one, and so does a set of a single chunk.

    Returns:
        What holds for the set; `made` counts its records by rhythm and split, and the excluded ones by reason.

    Raises:
        EcgforgeError: more files are damaged than `preparation.max_damaged` allows, no record is left, or a worker died.
    """
    table = _merge_catalogues(raws)
    samples = round(preprocessing.duration * preprocessing.sampling_rate)
    origins = {raw.origin for raw in raws.values()}
    about = About(
        sampling_rate=preprocessing.sampling_rate,
        samples=samples,
        units=preparation.amplitude,
        rhythms=(),
        origin=origins.pop() if len(origins) == 1 else "mixed",
        made={},
    )
    with write_record_set(out, about) as writer, tempfile.TemporaryFile(dir=writer.folder) as spool:
        _spool_signals(raws, table, spool, preprocessing, preparation.amplitude, workers)
        _refuse_damage(table, preparation.max_damaged)
        _exclude_rare(table, preparation.min_records)
        if not (table["reason"] == "").any():
            raise EcgforgeError(f"no record of {', '.join(raws)} is left after preparation: {_told(_reason_counts(table))}")
        kept = table["reason"] == ""
        for _, group in table[kept].groupby("dataset"):
            table.loc[group.index, "split"] = splits.assign(group)
        if len(raws) > 1:
            for column in ("id", "patient"):
                table[column] = table["dataset"] + "-" + table[column]
        _write_kept(table, spool, samples, writer)
        csv = {"index": False, "lineterminator": "\n", "float_format": "%.6g"}
        table.loc[~kept, list(EXCLUDED_COLUMNS)].to_csv(writer.folder / "excluded.csv", **csv)
        table.loc[kept & table["residual"].notna(), ["id", "residual"]].to_csv(writer.folder / LIMB_LEADS, **csv)
        found = set(table.loc[kept, "rhythm"])
        rhythms = tuple(rhythm for rhythm in RHYTHMS if rhythm in found)
        writer.about = replace(about, rhythms=rhythms, made=_made(table, rhythms, preprocessing, preparation))
    return writer.about


def _merge_catalogues(raws: Mapping[str, RawSource]) -> pd.DataFrame:
    """Return the catalogues' rows below each other, with dataset, origin, rhythm, and reason and detail where labels exclude them."""
    tables = []
    for dataset, raw in raws.items():
        catalogue = raw.catalogue.reset_index(drop=True)
        withdrawn = catalogue["withdrawn"] if "withdrawn" in catalogue else [False] * len(catalogue)
        marks = zip(catalogue["codes"], withdrawn, catalogue["id"].duplicated(), strict=True)
        labels = pd.DataFrame([_label(raw, *mark) for mark in marks], columns=["rhythm", "reason", "detail"], dtype=str)
        tables.append(catalogue[list(CATALOGUE_COLUMNS)].assign(dataset=dataset, origin=raw.origin).join(labels))
    return pd.concat(tables, ignore_index=True)


def _label(raw: RawSource, codes: list[str], withdrawn: bool, duplicate: bool) -> tuple[str, str, str]:
    try:
        rhythm, reason, detail = rhythm_of(codes, raw.rhythm_codes, raw.other_rhythms), "", ""
    except BadRecord as bad:
        rhythm, reason, detail = "", str(bad.reason), bad.detail
    if withdrawn:
        reason, detail = Reason.WITHDRAWN, ""
    elif duplicate:
        reason, detail = Reason.DUPLICATE_ID, "an earlier row of the catalogue has this id"
    return rhythm, reason, detail


def _spool_signals(
    raws: Mapping[str, RawSource], table: pd.DataFrame, spool: IO[bytes], preprocessing: Preprocessing, amplitude: str, workers: int
) -> None:
    """Append the prepared signals of every usable record to `spool`, in the table's order; mark the others in the table.

    Which rhythms are kept and who is in which split depends on which records can be read, so signals wait here until all are.
    """
    todo = table.index[table["reason"] == ""]
    chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
    folders = {dataset: raw.folder for dataset, raw in raws.items()}
    files = ([(folders[dataset], path) for dataset, path in table.loc[chunk, ["dataset", "path"]].to_numpy()] for chunk in chunks)
    prepared = prepared_chunks(files, preprocessing, amplitude, min(workers, len(chunks)))
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"preparing {', '.join(raws)}", total=len(todo))
        for chunk, (signals, verdicts, residuals) in zip(chunks, prepared, strict=True):
            spool.write(signals.data)
            table.loc[chunk, ["reason", "detail"]] = verdicts
            table.loc[chunk, "residual"] = residuals
            progress.advance(task, len(chunk))


def prepared_chunks(
    chunks: Iterable[list[tuple[Path, str]]], preprocessing: Preprocessing, amplitude: str, workers: int
) -> Iterator[Chunk]:
    """Read and prepare chunks of records, given as folders and paths in them, on several processes, with few chunks in memory.

    Yields:
        For each chunk, in order: the good records' signals, `[good, 8, samples]` float32; and for every record of the chunk its
        reason and detail, empty for a good one, and its `leads.limb_residual`.

    Raises:
        EcgforgeError: a process died.
    """
    return _in_order(((chunk, preprocessing, amplitude) for chunk in chunks), workers)


def _prepare_chunk(records: list[tuple[Path, str]], preprocessing: Preprocessing, amplitude: str) -> Chunk:
    signals, verdicts, residuals = [], [], []
    for folder, path in records:
        reason, detail, residual = "", "", np.nan
        try:
            recording = wfdb_files.read(folder, path)
            signals.append(prepare_recording(recording, preprocessing, amplitude))
            residual = recording.limb_residual
        except BadRecord as bad:
            reason, detail = str(bad.reason), bad.detail
        verdicts.append((reason, detail))
        residuals.append(residual)
    return np.array(signals, dtype="<f4"), verdicts, residuals


def _in_order(jobs: Iterator[tuple[Any, ...]], workers: int) -> Iterator[Chunk]:
    """Yield `_prepare_chunk` of each job, in order, with at most two jobs a worker in flight."""
    if workers <= 1:
        for job in jobs:
            yield _prepare_chunk(*job)
        return
    # Spawned: a fork would copy locks that other threads of this process hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=obey) as pool:
        pending: deque[Future[Chunk]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(_prepare_chunk, *job))
                if len(pending) == 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise EcgforgeError("a process that prepares records died, perhaps for want of memory; run again") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _refuse_damage(table: pd.DataFrame, allowed: float) -> None:
    damaged = table[table["reason"].isin(DAMAGE)]
    if len(damaged) > allowed * len(table):
        first = damaged.iloc[0]
        raise EcgforgeError(
            f"{len(damaged)} of {len(table)} records are damaged, the first {first['dataset']}/{first['path']}: {first['reason']} "
            f"({first['detail']}); fetch them again, or raise preparation.max_damaged, {allowed:g}, to set them aside"
        )


def _exclude_rare(table: pd.DataFrame, min_records: int) -> None:
    usable = table["reason"] == ""
    table["spooled"] = usable
    counts = table.loc[usable, "rhythm"].value_counts()
    for rhythm in counts.index[counts < min_records]:
        rare = usable & (table["rhythm"] == rhythm)
        table.loc[rare, "reason"] = Reason.RARE_RHYTHM
        table.loc[rare, "detail"] = f"{counts[rhythm]} of {rhythm}, and {min_records} are needed"


def _write_kept(table: pd.DataFrame, spool: IO[bytes], samples: int, writer: RecordSetWriter) -> None:
    spooled = table[table["spooled"]]
    spool.seek(0)
    for start in range(0, len(spooled), CHUNK):
        part = spooled.iloc[start : start + CHUNK]
        signals = np.fromfile(spool, dtype="<f4", count=len(part) * len(LEADS) * samples).reshape(len(part), len(LEADS), samples)
        kept = (part["reason"] == "").to_numpy()
        writer.append(signals[kept], part[kept])


def _made(table: pd.DataFrame, rhythms: tuple[str, ...], preprocessing: Preprocessing, preparation: Preparation) -> dict[str, Any]:
    kept = table[table["reason"] == ""]
    by_rhythm = pd.crosstab(kept["rhythm"], kept["split"]).reindex(index=list(rhythms), columns=list(SPLITS), fill_value=0)
    by_dataset = pd.DataFrame({"catalogue": table["dataset"].value_counts(sort=False), "records": kept["dataset"].value_counts()})
    by_dataset = by_dataset.fillna(0).astype(int)
    reasons = _reason_counts(table)
    assert len(table) == len(kept) + sum(reasons.values()), "every record of the catalogues is kept or has a reason"
    return {
        "catalogue": len(table),
        "records": len(kept),
        "excluded": sum(reasons.values()),
        "by_dataset": by_dataset.to_dict("index"),
        "by_rhythm": by_rhythm.to_dict("index"),
        "by_reason": reasons,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "preparation": preparation.model_dump(mode="json"),
    }


def _reason_counts(table: pd.DataFrame) -> dict[str, int]:
    counts = table["reason"].value_counts()
    return {str(reason): int(counts[reason]) for reason in Reason if reason in counts}


def _told(counts: dict[str, int]) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in counts.items()) or "the catalogue is empty"
