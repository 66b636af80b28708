"""Links out of a folder of records. They are followed only to records, since other targets can be
private.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ecgforge.records.exclusions import BadRecord
from ecgforge.wfdb_io import files as wfdb_files


def lead_out(folder: Path, names: Iterable[str]) -> bool:
    """Return whether one of the files `names` in `folder` resolves to a path outside it."""
    home = folder.resolve()
    return not all((folder / name).resolve().is_relative_to(home) for name in names)


def refusal(folder: Path, record: str) -> str:
    """Return the reason if the targets of a record's links fail the checksums of its header; empty
    if they pass.
    """
    try:
        wfdb_files.verify(folder, record)
    except BadRecord as bad:
        return f"{bad.reason}: {bad.detail}"
    except OSError as error:
        return error.strerror or "it cannot be read"
    return ""
