"""Records in other formats than WFDB, which optional packages read: EDF and DICOM.

A record `ward/a` is then one file, `ward/a.edf` or `ward/a.dcm`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TypeVar

import numpy as np

from ecgforge.records.exclusions import BadRecord, Reason
from ecgforge.records.leads import STANDARD_LEADS

T = TypeVar("T")
ENDINGS = (".edf", ".dcm")
KNOWN = {lead.upper(): lead for lead in STANDARD_LEADS}


@dataclass(frozen=True)
class Leads:
    """The standard leads of a file.

    Attributes:
        signals: float64 `[leads, samples]`, the start of the record, in `units`.
        sampling_rate: Hz.
        names: of the leads.
        units: of each lead, such as mV.
        seconds: length of the full record.
    """

    signals: np.ndarray
    sampling_rate: float
    names: list[str]
    units: list[str]
    seconds: float


def file_of(folder: Path, path: str) -> Path | None:
    """Return the EDF or DICOM file of a record; None if it is in WFDB format, or missing, or if the
    path leaves the folder.
    """
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
        return None
    if (folder / f"{path}.hea").is_file():
        return None
    files = (folder / f"{path}{ending}" for ending in ENDINGS)
    return next((file for file in files if file.is_file()), None)


def read(file: Path, seconds: float) -> Leads:
    """Read the standard leads of an EDF or DICOM file.

    Args:
        file: the file.
        seconds: to keep at least, from the start.

    Raises:
        BadRecord: the file is damaged, its kind is not supported, or the package that reads it is
            not installed.
    """
    leads: Leads = _quietly(lambda: _reader(file).read(file, seconds))
    return leads


def comments(file: Path) -> dict[str, str]:
    """Return what an EDF or DICOM file says of its patient and rhythm: patient, age (years), sex
    and rhythm, if known; nothing for a file that cannot be read.
    """
    try:
        found: dict[str, str] = _quietly(lambda: _reader(file).comments(file))
        return found
    except BadRecord:  # reading the record gives the reason
        return {}


def _reader(file: Path) -> ModuleType:
    if file.suffix == ".edf":
        from ecgforge.wfdb_io import edf

        return edf
    from ecgforge.wfdb_io import dicom

    return dicom


def _quietly(work: Callable[[], T]) -> T:
    """Call a reader without its warnings; its errors become the reason of the record."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return work()
        except (BadRecord, OSError, MemoryError):
            raise
        except ModuleNotFoundError as error:
            raise BadRecord(
                Reason.NOT_SUPPORTED,
                f"{error.name} is not installed, which reads this format: run "
                "`pip install edfio pydicom`",
            ) from None
        except Exception as error:  # these packages raise errors of many types
            raise BadRecord(
                Reason.UNREADABLE_FILE, f"{type(error).__name__}: {str(error)[:100]}"
            ) from None
