"""Record sets: folders of ECG records with a table, for real, simulated and synthetic records.

A folder has these files:

- signals.npy: float32 `[records, 8, samples]`, leads in the order of `leads.LEADS`; memory-mapped.
- records.csv: a row per record: id, patient, dataset, rhythm, split, age, sex, origin.
- about.json: sampling rate in Hz, leads, units, rhythms (the classes, in order), provenance.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write, read_csv
from ecgforge.outputs import foreign, refuse
from ecgforge.params import Preprocessing, checked
from ecgforge.records import rows
from ecgforge.records.leads import LEADS

T = TypeVar("T")
FILES = ("about.json", "records.csv", "signals.npy")
FURTHER = ("excluded.csv", "limb_leads.csv", "folds.csv")  # further files of a prepared set
COLUMNS = ("id", "patient", "dataset", "rhythm", "split", "age", "sex", "origin")
SPLITS = ("train", "validation", "test")
FOLDS = "folds.csv"  # published folds, only if the catalogue has them: see `preparation.splits`
LIMB_LEADS = "limb_leads.csv"  # only if the raw files have all limb leads: see `quality.coherence`


@dataclass(frozen=True)
class About:
    """The description of a record set.

    Attributes:
        sampling_rate: Hz.
        samples: per lead.
        units: `mV`, or `per_lead_std` if each lead of a record was divided by its standard
            deviation.
        rhythms: the classes, in the order of their indices.
        origin: `real`, `simulated`, `synthetic`, or `mixed`; in a mixed set, the table has the
            origin of each record.
        made: provenance: counts, parameters and inputs.
    """

    sampling_rate: int
    samples: int
    units: str
    rhythms: tuple[str, ...]
    origin: str
    made: dict[str, Any]


@dataclass(frozen=True)
class RecordSet:
    """Records of one folder, or a selection of them.

    Attributes:
        folder: the folder of the set.
        about: the description of the set.
        records: the table of the selected records.
        rows: `[records]`, the selected rows of signals.npy.
    """

    folder: Path
    about: About
    records: pd.DataFrame
    rows: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> RecordSet:
        """Open the set in `folder` without loading its signals.

        Raises:
            EcgforgeError: the folder is not a complete record set.
        """
        folder = Path(folder)
        about, table, shape = (
            _part(folder, name, read)
            for name, read in (
                ("about.json", _about),
                ("records.csv", _table),
                ("signals.npy", _shape),
            )
        )
        if shape != (len(table), len(LEADS), about.samples):
            raise EcgforgeError(
                f"{folder}: signals.npy has shape {shape}, unlike the table and about.json"
            )
        if unknown := set(table["rhythm"]) - set(about.rhythms):
            raise EcgforgeError(
                f"{folder}: records.csv has rhythms that are not in about.json: "
                f"{', '.join(sorted(unknown))[:300]}"
            )
        return cls(folder, about, table[list(COLUMNS)], np.arange(len(table)))

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, mask: np.ndarray | pd.Series) -> RecordSet:
        """Return the records at `mask`, a boolean or index array over this selection."""
        index = np.flatnonzero(mask) if np.asarray(mask).dtype == bool else np.asarray(mask)
        return replace(
            self, records=self.records.iloc[index].reset_index(drop=True), rows=self.rows[index]
        )

    def split(self, name: str) -> RecordSet:
        """Return the records of one of `SPLITS`."""
        if name not in SPLITS:
            raise ValueError(f"'{name}' is not one of {', '.join(SPLITS)}")
        return self.select((self.records["split"] == name).to_numpy())

    def signals(self, index: np.ndarray | slice | None = None) -> np.ndarray:
        """Return signals of the selection, or of its part at `index`: `[records, 8, samples]`
        float32 in `about.units`.
        """
        file = self.folder / "signals.npy"
        packed = np.load(file, mmap_mode="r", allow_pickle=False)
        with file.open("rb") as opened:
            return rows.read(opened, packed, self.rows if index is None else self.rows[index])

    @property
    def labels(self) -> np.ndarray:
        """Class indices into `about.rhythms`, `[records]` int64."""
        return pd.Categorical(
            self.records["rhythm"], categories=list(self.about.rhythms)
        ).codes.astype(np.int64)

    def counts(self) -> dict[str, int]:
        """Records per rhythm, in class order."""
        found = self.records["rhythm"].value_counts()
        return {rhythm: int(found.get(rhythm, 0)) for rhythm in self.about.rhythms}


class _Tree(BaseModel):
    """The types of about.json."""

    model_config = ConfigDict(strict=True)

    sampling_rate: Annotated[int, Field(ge=1)]
    samples: Annotated[int, Field(ge=1)]
    units: str
    rhythms: list[str]
    origin: str
    made: dict[str, Any]


def _part(folder: Path, name: str, read: Callable[[Path], T]) -> T:
    """Read a file of a record set; turn any error into an `EcgforgeError` of one line."""
    again = "run `dvc repro` or `dvc pull`"
    try:
        return read(folder / name)
    except FileNotFoundError:
        raise EcgforgeError(
            f"{folder} is not a record set: {folder / name} is missing; {again}"
        ) from None
    except OSError as error:
        raise EcgforgeError(
            f"{folder / name} cannot be read: {error.strerror or 'the disk does not give it'}"
        ) from None
    except EcgforgeError as error:
        raise EcgforgeError(
            f"{folder} is a damaged record set: {str(error)[:300]}; {again}"
        ) from None
    # json, pandas and numpy raise exceptions of many types
    except Exception as error:
        raise EcgforgeError(
            f"{folder} is a damaged record set: {name} has invalid content; {again}"
        ) from error


def _about(file: Path) -> About:
    tree = checked(_Tree, json.loads(file.read_text(encoding="utf-8")), file.name)
    if "preprocessing" in tree.made:
        checked(Preprocessing, tree.made["preprocessing"], f"{file.name}, preprocessing")
    return About(**{**dict(tree), "rhythms": tuple(tree.rhythms)})


def _table(file: Path) -> pd.DataFrame:
    # Only ages can be missing: an id or a patient can have the name NA.
    types = {column: float if column == "age" else str for column in COLUMNS}
    with warnings.catch_warnings():
        # rows with more cells than columns
        warnings.simplefilter("error", pd.errors.ParserWarning)
        table = read_csv(
            file, index_col=False, dtype=types, keep_default_na=False, na_values={"age": [""]}
        )[list(COLUMNS)]
    if table.drop(columns="age").isna().any(axis=None):
        raise EcgforgeError(f"{file.name} has a row with fewer cells than columns")
    if unknown := set(table["split"]) - set(SPLITS):
        raise EcgforgeError(
            f"{file.name} has the split {min(unknown)[:80]!r}, not one of {', '.join(SPLITS)}"
        )
    return table


def _shape(file: Path) -> tuple[int, ...]:
    packed = np.load(file, mmap_mode="r", allow_pickle=False)
    if packed.dtype != np.dtype("<f4"):
        raise EcgforgeError(f"{file.name} has the type {packed.dtype}, not float32")
    if not packed.flags.c_contiguous:
        raise EcgforgeError(f"{file.name} is not in C order")
    shape: tuple[int, ...] = packed.shape
    return shape


def aligned(records: RecordSet, rhythms: tuple[str, ...]) -> RecordSet:
    """Return only the records of `rhythms`, with these as the classes, to combine them with a set
    that has the same classes.
    """
    kept = records.select(records.records["rhythm"].isin(rhythms).to_numpy())
    return replace(kept, about=replace(kept.about, rhythms=rhythms))


class RecordSetWriter:
    """Appends chunks of records to a new set; `write_record_set` returns it.

    Attributes:
        folder: the temporary folder of the set; it can get further files.
        about: the description; it can be replaced until the block of `write_record_set` ends.
    """

    def __init__(self, folder: Path, about: About) -> None:
        self.folder = folder
        self.about = about
        self._shape = (0, len(LEADS), about.samples)
        self._signals = (folder / "signals.npy").open("wb")
        self._tables: list[pd.DataFrame] = []
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads the header, so that a larger count later fits in the same bytes.
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        self._signals.seek(0)
        np.lib.format.write_array_header_1_0(self._signals, header)

    def append(self, signals: np.ndarray, table: pd.DataFrame) -> None:
        """Append `signals`, `[records, 8, samples]`, and their rows; the table needs all
        `COLUMNS`.
        """
        if signals.shape != (len(table), *self._shape[1:]):
            raise ValueError(f"{len(table)} rows and signals of shape {signals.shape}")
        if not np.isfinite(signals).all():
            raise ValueError("signals of a record set must be finite")
        self._signals.write(np.ascontiguousarray(signals, dtype="<f4").data)
        self._tables.append(table[list(COLUMNS)])
        self._shape = (self._shape[0] + len(table), *self._shape[1:])

    def finish(self) -> None:
        self._write_header()
        table = (
            pd.concat(self._tables, ignore_index=True)
            if self._tables
            else pd.DataFrame(columns=list(COLUMNS))
        )
        table.to_csv(self.folder / "records.csv", index=False, lineterminator="\n")
        tree = {"leads": LEADS, **asdict(self.about)}
        (self.folder / "about.json").write_text(json.dumps(tree, indent=2) + "\n")

    def close(self) -> None:
        self._signals.close()


@contextmanager
def write_record_set(folder: Path, about: About) -> Iterator[RecordSetWriter]:
    """Write a record set in chunks; it replaces `folder` when the block ends without an error.

    Raises:
        EcgforgeError: `folder` exists and is not a record set, or has further files.
    """
    refuse(folder)
    if (more := foreign(folder, [*FILES, *FURTHER])) or (
        foreign(folder, ()) and not all((folder / name).exists() for name in FILES)
    ):
        raise EcgforgeError(
            f"{folder} exists and is not a record set{f' (it has {more[0]})' if more else ''}: "
            "name another folder"
        )
    with atomic_write(folder) as scratch:
        scratch.mkdir()
        with closing(RecordSetWriter(scratch, about)) as writer:
            yield writer
            writer.finish()
