"""The layout of Chapman-Shaoxing-Ningbo on PhysioNet (ecg-arrhythmia 1.0.0): lists of records,
headers and SNOMED CT codes.

Zheng et al., A 12-lead electrocardiogram database for arrhythmia research covering more than 10,000
patients. Sci Data 7, 48 (2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.sources.codes import other_rhythms, rhythm_codes

RHYTHM_CODES = rhythm_codes("snomed")
OTHER_RHYTHMS = other_rhythms("snomed")

LIST = "RECORDS"
TABLES: tuple[str, ...] = (LIST,)
COMPANIONS: tuple[str, ...] = ("ConditionNames_SNOMED-CT.csv",)
LONGEST = 1000  # letters of a path in a list
LARGEST = 1_000_000  # bytes of a header that are read; real ones have a few thousand


def catalogue(folder: Path) -> pd.DataFrame:
    """Read the lists of records and the headers' comment lines in `folder`; no signal file is
    opened.

    Each record is its own patient. A listed record without a header has no codes.

    Returns:
        A row per record: id ("JS00001"), patient (same), codes (SNOMED CT), age in years or NaN,
            sex ("male", "female", ""), fold (NaN: none is published), path, withdrawn (False).

    Raises:
        EcgforgeError: a list of records is missing.
    """
    return pd.DataFrame(
        [_row(folder, path) for path in record_paths(folder)],
        columns=["id", "patient", "codes", "age", "sex", "fold", "path", "withdrawn"],
    )


def record_paths(folder: Path) -> list[str]:
    """List all records, relative to `folder`.

    RECORDS lists records, or folders (with a slash) with their own RECORDS.

    Raises:
        EcgforgeError: a list is missing, or has a path outside `folder`.
    """
    paths: list[str] = []
    for entry in _entries(folder, ""):
        paths += (
            [entry + name for name in _entries(folder, entry)] if entry.endswith("/") else [entry]
        )
    return paths


def listed(folder: Path) -> Iterator[list[str]]:
    """Yield the further metadata files: the lists of folders, then all headers."""
    yield [f"{entry}{LIST}" for entry in _entries(folder, "") if entry.endswith("/")]
    yield [f"{path}.hea" for path in record_paths(folder)]


def files(path: str, sampling_rate: int) -> list[str]:  # noqa: ARG001
    """Return the files of the record at `path`; 500 Hz is the only sampling rate."""
    return [f"{path}.hea", f"{path}.mat"]


def restrict(folder: Path, chosen: pd.DataFrame) -> None:
    """Rewrite the list of records in `folder` with those of the `chosen` part of its catalogue."""
    (folder / LIST).write_text("".join(f"{path}\n" for path in chosen["path"]), encoding="utf-8")


def _entries(folder: Path, below: str) -> list[str]:
    file = folder / below / LIST
    try:
        text = _decoded(file.read_bytes())
    except FileNotFoundError:
        raise EcgforgeError(
            f"{file} is missing: {folder} is not a complete copy of ecg-arrhythmia 1.0.0"
        ) from None
    except OSError as error:
        raise EcgforgeError(
            f"{file} cannot be read: {error.strerror or 'the disk does not give it'}"
        ) from None
    entries = [line.strip() for line in text.splitlines() if line.strip()]
    for entry in entries:
        if entry.startswith("/") or ".." in PurePosixPath(entry).parts:
            raise EcgforgeError(f"{file} names {entry[:80]!r}, which lies outside the data set")
        if not entry.isprintable() or not PurePosixPath(entry).name or len(entry) > LONGEST:
            raise EcgforgeError(
                f"{file} names {entry[:80]!r}, which is not a valid name of a record or a folder"
            )
    return entries


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _row(folder: Path, path: str) -> tuple[str, str, list[str], float, str, float, str, bool]:
    comments = _comments(folder / f"{path}.hea")
    name = PurePosixPath(path).name
    codes = [code.strip() for code in comments.get("Dx", "").split(",") if code.strip()]
    sex = comments.get("Sex", "").lower()
    return (
        name,
        name,
        codes,
        _age(comments.get("Age", "")),
        sex if sex in ("male", "female") else "",
        float("nan"),
        path,
        False,
    )


def _comments(header: Path) -> dict[str, str]:
    try:
        with header.open("rb") as file:
            text = _decoded(file.read(LARGEST))
    except OSError:  # preparation reports the reason
        return {}
    pairs = (line.lstrip("# ").partition(":") for line in text.splitlines() if line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def _age(text: str) -> float:
    try:
        age = float(text)
    except ValueError:
        return float("nan")
    return age if math.isfinite(age) else float("nan")
