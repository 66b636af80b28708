"""Prepare raw WFDB folders as one record set.

Every record of the catalogues is in the set, or in excluded.csv with a reason.
"""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.params import Preparation, Preprocessing
from ecgforge.preparation import splits, twins
from ecgforge.preparation.preprocessing import prepare_recording
from ecgforge.records.exclusions import DAMAGE, BadRecord, Reason
from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import (
    FOLDS,
    LIMB_LEADS,
    About,
    RecordSetWriter,
    write_record_set,
)
from ecgforge.records.rhythms import RHYTHMS, rhythm_of
from ecgforge.wfdb_io import files as wfdb_files
from ecgforge.workers import init_worker

CHUNK = 32  # records of a job: 1 MB of signals, a fraction of a second
DETAIL_LENGTH = 300  # characters
CATALOGUE_COLUMNS = ("id", "patient", "age", "sex", "fold", "path")
EXCLUDED_COLUMNS = ("id", "dataset", "path", "rhythm", "reason", "detail")


class Verdict(NamedTuple):
    """The result for a record: the reason and detail of its exclusion, empty for a good record; its
    `leads.limb_residual`; its length in seconds.
    """

    reason: str
    detail: str
    residual: float = np.nan
    seconds: float = np.nan


# the signals of the good records, `[good, 8, samples]` float32, and the verdict on each record
Chunk = tuple[np.ndarray, list[Verdict]]


@dataclass(frozen=True)
class RawSource:
    """Raw WFDB records of one dataset with their catalogue.

    Attributes:
        folder: the raw folder; nothing outside it is read.
        catalogue: a row per record: id, patient, codes, age, sex, fold, path and, if known,
            withdrawn.
        rhythm_codes: maps published codes to rhythms of the vocabulary.
        other_rhythms: codes of rhythms outside the vocabulary.
        simulated: whether the patients are simulated.
        withdrawn: patients whose records are excluded.
    """

    folder: Path
    catalogue: pd.DataFrame
    rhythm_codes: Mapping[str, str]
    other_rhythms: Set[str]
    simulated: bool
    withdrawn: Collection[str] = ()

    @property
    def origin(self) -> str:
        return "simulated" if self.simulated else "real"


def prepare(
    raws: Mapping[str, RawSource],
    out: Path,
    preprocessing: Preprocessing,
    preparation: Preparation,
    workers: int = 1,
    accept: Callable[[About], None] = lambda _: None,
) -> About:
    """Prepare one dataset, or several as a merged one, as a record set at `out`.

    The set also has excluded.csv, and limb_leads.csv with the `leads.limb_residual` of records with
    all limb leads. Merged sets prefix ids and patients with "<dataset>-". Splits are assigned
    within each dataset, so that a record has the same split alone and merged. Signals are processed
    in chunks, in constant memory. The written bytes do not depend on `workers`.

    Args:
        raws: raw records by dataset.
        out: the new folder.
        preprocessing: parameters of the signals.
        preparation: parameters of the selection.
        workers: the maximum number of processes; 1 means this process.
        accept: checks the new set; if it raises, an older set stays.

    Returns:
        The description of the set; `made` counts its records by rhythm and split, and the excluded
        ones by reason.

    Raises:
        EcgforgeError: more files are damaged than `preparation.max_damaged` allows, no record is
            left, or a worker was killed.
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
        table["spooled"] = table["reason"] == ""
        found = _twins(table, spool, samples)
        _exclude_twins(
            table, [group for group in found if table.loc[group, "dataset"].nunique() == 1]
        )
        rare = _exclude_rare(table, preparation.min_records)
        kept = table["reason"] == ""
        for _, group in table[kept].groupby("dataset"):
            table.loc[group.index, "split"] = splits.assign(group)
        # After the splits, so that a record has the same split alone and merged.
        _exclude_twins(
            table, [group for group in found if table.loc[group, "dataset"].nunique() > 1]
        )
        kept = table["reason"] == ""
        if not kept.any():
            raise EcgforgeError(_nothing_left(raws, table, rare, preparation.min_records))
        if len(raws) > 1:
            for column in ("id", "patient"):
                table[column] = table["dataset"] + "-" + table[column]
        _write_kept(table, spool, samples, writer)
        csv = {"index": False, "lineterminator": "\n", "float_format": "%.6g"}
        table.loc[~kept, list(EXCLUDED_COLUMNS)].to_csv(writer.folder / "excluded.csv", **csv)
        table.loc[kept & table["residual"].notna(), ["id", "residual"]].to_csv(
            writer.folder / LIMB_LEADS, **csv
        )
        published = kept & table["fold"].notna()
        if published.any():
            table.loc[published, ["id", "fold"]].to_csv(writer.folder / FOLDS, **csv)
        there = set(table.loc[kept, "rhythm"])
        rhythms = tuple(rhythm for rhythm in RHYTHMS if rhythm in there)
        made = _made(table, rhythms, preprocessing, preparation) | (
            {"below_min_records": rare} if rare else {}
        )
        writer.about = replace(about, rhythms=rhythms, made=made)
        accept(writer.about)
    report_cut(table.loc[kept, "seconds"], preprocessing.duration)
    return writer.about


def report_cut(seconds: Iterable[float], duration: float) -> None:
    """Print how many records are longer than the used duration."""
    longer = [length for length in seconds if length >= duration + 1]
    if longer:
        count = "1 record is" if len(longer) == 1 else f"{len(longer)} records are"
        longest = f"{max(longer) / 60:.3g} min" if max(longer) >= 120 else f"{max(longer):.3g} s"
        console.err.print(
            f"{count} longer than {duration:g} s, up to {longest}: the first {duration:g} s are "
            "used."
        )


def _merge_catalogues(raws: Mapping[str, RawSource]) -> pd.DataFrame:
    """Concatenate the catalogues; add dataset, origin, rhythm, and reason and detail of records
    that their labels exclude.
    """
    tables = []
    for dataset, raw in raws.items():
        catalogue = raw.catalogue.reset_index(drop=True)
        reasons = _withdrawn(catalogue, raw.withdrawn)
        marks = zip(catalogue["codes"], reasons, catalogue["id"].duplicated(), strict=True)
        labels = pd.DataFrame(
            [_label(raw, *mark) for mark in marks],
            columns=["rhythm", "reason", "detail"],
            dtype=str,
        )
        tables.append(
            catalogue[list(CATALOGUE_COLUMNS)]
            .assign(dataset=dataset, origin=raw.origin)
            .join(labels)
        )
    return pd.concat(tables, ignore_index=True)


def _withdrawn(catalogue: pd.DataFrame, patients: Collection[str]) -> np.ndarray:
    """Return the reason why each record is withdrawn; empty if it is not."""
    published = catalogue.get("withdrawn", False)
    of_patient = catalogue["patient"].isin(list(patients))
    reasons = np.where(published, str(Reason.WITHDRAWN), "")
    return np.where(of_patient, str(Reason.PATIENT_WITHDRAWN), reasons)


def _label(
    raw: RawSource, codes: list[str], withdrawn: str, duplicate: bool
) -> tuple[str, str, str]:
    try:
        rhythm, reason, detail = rhythm_of(codes, raw.rhythm_codes, raw.other_rhythms), "", ""
    except BadRecord as bad:
        rhythm, reason, detail = "", str(bad.reason), bad.detail
    if withdrawn:
        reason, detail = withdrawn, ""
    elif duplicate:
        reason, detail = Reason.DUPLICATE_ID, "an earlier row of the catalogue has this id"
    return rhythm, reason, detail


def _spool_signals(
    raws: Mapping[str, RawSource],
    table: pd.DataFrame,
    spool: IO[bytes],
    preprocessing: Preprocessing,
    amplitude: str,
    workers: int,
) -> None:
    """Append the prepared signals of each usable record to `spool`, in the table's order; mark the
    others in the table.

    The signals are spooled since the kept rhythms and the splits depend on all readable records.
    """
    todo = table.index[table["reason"] == ""]
    table["residual"] = table["seconds"] = np.nan
    folders = {dataset: raw.folder for dataset, raw in raws.items()}
    # the table is read and written once, since pandas takes longer for a part of a larger table
    paths = table.loc[todo, ["dataset", "path"]].to_numpy()
    files = [(folders[dataset], path) for dataset, path in paths]
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    prepared = prepared_chunks(chunks, preprocessing, amplitude, min(workers, len(chunks)))
    found: list[Verdict] = []
    with console.progress() as progress:
        task = progress.add_task(f"preparing {', '.join(raws)}", total=len(todo))
        for chunk, (signals, verdicts) in zip(chunks, prepared, strict=True):
            spool.write(signals.data)
            found.extend(verdicts)
            progress.advance(task, len(chunk))
    if found:
        table.loc[todo, ["reason", "detail"]] = [verdict[:2] for verdict in found]
        table.loc[todo, ["residual", "seconds"]] = [verdict[2:] for verdict in found]


def prepared_chunks(
    chunks: Iterable[list[tuple[Path, str]]],
    preprocessing: Preprocessing,
    amplitude: str,
    workers: int,
) -> Iterator[Chunk]:
    """Read and prepare chunks of records on several processes, with few chunks in memory.

    Args:
        chunks: records as folders and paths in them.
        preprocessing: parameters of the signals.
        amplitude: see `preprocessing.prepare_recording`.
        workers: the maximum number of processes.

    Yields:
        A `Chunk` for each of `chunks`, in order.

    Raises:
        EcgforgeError: a process was killed.
    """
    return _in_order(((chunk, preprocessing, amplitude) for chunk in chunks), workers)


def _prepare_chunk(
    records: list[tuple[Path, str]], preprocessing: Preprocessing, amplitude: str
) -> Chunk:
    signals, verdicts = [], []
    for folder, path in records:
        try:
            recording = wfdb_files.read(folder, path, preprocessing.duration)
            signals.append(prepare_recording(recording, preprocessing, amplitude))
            verdicts.append(Verdict("", "", recording.limb_residual, recording.seconds))
        except BadRecord as bad:
            verdicts.append(
                Verdict(
                    str(bad.reason), console.shown(" ".join(bad.detail.split()))[:DETAIL_LENGTH]
                )
            )
        except Exception:  # an unexpected record must not stop the others
            logging.getLogger(__name__).debug("%s in %s", path, folder, exc_info=True)
            verdicts.append(
                Verdict(str(Reason.UNREADABLE_FILE), "its header or samples make no sense together")
            )
    return np.array(signals, dtype="<f4"), verdicts


def _in_order(jobs: Iterator[tuple[Any, ...]], workers: int) -> Iterator[Chunk]:
    """Yield `_prepare_chunk` of each job, in order, with at most two pending jobs per worker."""
    if workers <= 1:
        for job in jobs:
            yield _prepare_chunk(*job)
        return
    # Spawn, since a fork would copy locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=init_worker) as pool:
        pending: deque[Future[Chunk]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(_prepare_chunk, *job))
                if len(pending) == 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise EcgforgeError(
                "a process that prepares records was killed, perhaps for lack of memory; run again"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _refuse_damage(table: pd.DataFrame, allowed: float) -> None:
    damaged = table[table["reason"].isin(DAMAGE)]
    if len(damaged) > allowed * len(table):
        first = damaged.iloc[0]
        raise EcgforgeError(
            f"{len(damaged)} of {len(table)} records are damaged, the first "
            f"{first['dataset']}/{first['path']}: {first['reason']} "
            f"({first['detail']}); fetch or copy them again, or raise preparation.max_damaged "
            f"({allowed:g}) to exclude them"
        )


def _twins(table: pd.DataFrame, spool: IO[bytes], samples: int) -> list[list[int]]:
    """Return groups of rows of the table that are the same recording."""
    rows = table.index[table["spooled"]]

    # not a memory map, whose pages would count as memory of this process
    def read(part: slice) -> np.ndarray:
        return _spooled(spool, part.start, part.stop - part.start, samples)

    return [[int(rows[place]) for place in group] for group in twins.groups([(len(rows), read)])]


def _spooled(spool: IO[bytes], start: int, count: int, samples: int) -> np.ndarray:
    """Return `count` records of the spool, `[count, 8, samples]`."""
    record = len(LEADS) * samples
    spool.seek(start * record * 4)
    return np.fromfile(spool, dtype="<f4", count=count * record).reshape(count, len(LEADS), samples)


def _exclude_twins(table: pd.DataFrame, groups: list[list[int]]) -> None:
    """Keep the record with the lowest id of each group, or none if their rhythms differ."""
    many = table["dataset"].nunique() > 1
    for group in groups:
        there = table.loc[group].sort_values(["id", "dataset"])
        there = there[there["reason"] == ""]
        names = (there["dataset"] + "-" + there["id"] if many else there["id"]).tolist()
        rhythms = sorted(set(there["rhythm"]), key=RHYTHMS.index)
        if len(rhythms) > 1:
            table.loc[there.index, "reason"] = Reason.CONTRADICTORY_RHYTHMS
            detail = (
                f"{', '.join(rhythms)}, of the same recording as "
                f"{', '.join(names[:5])}{' and others' if len(names) > 5 else ''}"
            )
            table.loc[there.index, "detail"] = detail
        elif len(there) > 1:
            table.loc[there.index[1:], "reason"] = Reason.SAME_RECORDING
            table.loc[there.index[1:], "detail"] = f"the same recording as {names[0]}"


def _exclude_rare(table: pd.DataFrame, min_records: int) -> dict[str, int]:
    """Exclude rhythms with few records; return their numbers of records."""
    usable = table["reason"] == ""
    counts = table.loc[usable, "rhythm"].value_counts()
    few = {
        rhythm: int(counts[rhythm]) for rhythm in RHYTHMS if 0 < counts.get(rhythm, 0) < min_records
    }
    for rhythm, count in few.items():
        rare = usable & (table["rhythm"] == rhythm)
        table.loc[rare, "reason"] = Reason.RARE_RHYTHM
        table.loc[rare, "detail"] = f"{count} of {rhythm}, and {min_records} are needed"
    return few


def few_records(rare: Mapping[str, int], min_records: int) -> str:
    """Describe the rhythms with fewer records than `preparation.min_records`; empty without any."""
    counts = ", ".join(f"{count} of {rhythm}" for rhythm, count in rare.items())
    return f"preparation.min_records is {min_records}, and there are {counts}" if rare else ""


def _nothing_left(
    raws: Iterable[str], table: pd.DataFrame, rare: Mapping[str, int], min_records: int
) -> str:
    parts = [
        f"no record of {', '.join(raws)} is left after preparation: "
        f"{_listed(_reason_counts(table))}",
        few_records(rare, min_records),
    ]
    if len(table) and not rare:
        first = table.iloc[0]
        parts.append(f"the first, {first['path']}: {first['reason']} ({first['detail']})")
    return "; ".join(part for part in parts if part)


def _write_kept(
    table: pd.DataFrame, spool: IO[bytes], samples: int, writer: RecordSetWriter
) -> None:
    spooled = table[table["spooled"]]
    for start in range(0, len(spooled), CHUNK):
        part = spooled.iloc[start : start + CHUNK]
        signals = _spooled(spool, start, len(part), samples)
        kept = (part["reason"] == "").to_numpy()
        writer.append(signals[kept], part[kept])


def _made(
    table: pd.DataFrame,
    rhythms: tuple[str, ...],
    preprocessing: Preprocessing,
    preparation: Preparation,
) -> dict[str, Any]:
    kept = table[table["reason"] == ""]
    by_dataset = pd.DataFrame(
        {
            "catalogue": table["dataset"].value_counts(sort=False),
            "records": kept["dataset"].value_counts(),
        }
    )
    by_dataset = by_dataset.fillna(0).astype(int)
    reasons = _reason_counts(table)
    assert len(table) == len(kept) + sum(reasons.values()), (
        "every record of the catalogues is kept or has a reason"
    )
    return {
        "catalogue": len(table),
        "records": len(kept),
        "excluded": sum(reasons.values()),
        "by_dataset": by_dataset.to_dict("index"),
        "by_rhythm": splits.by_rhythm(kept, rhythms),
        "by_reason": reasons,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "preparation": preparation.model_dump(mode="json"),
    }


def _reason_counts(table: pd.DataFrame) -> dict[str, int]:
    counts = table["reason"].value_counts()
    return {str(reason): int(counts[reason]) for reason in Reason if reason in counts}


def _listed(counts: dict[str, int]) -> str:
    return (
        "; ".join(f"{reason}: {count}" for reason, count in counts.items())
        or "the catalogue is empty"
    )
