"""Links out of a folder of records are followed to records, and to nothing else: what they lead to
may be private.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ecgforge.records.exclusions import BadRecord
from ecgforge.wfdb_io import files as wfdb_files


def lead_out(folder: Path, names: Iterable[str]) -> bool:
    """Whether one of the files `names` in `folder` really lies outside of it."""
    home = folder.resolve()
    return not all((folder / name).resolve().is_relative_to(home) for name in names)


def refusal(folder: Path, record: str) -> str:
    """Say why what the links of `record` lead to is not known to be a record by its header's
    checksums; empty where it is.
    """
    try:
        wfdb_files.verify(folder, record)
    except BadRecord as bad:
        return f"{bad.reason}: {bad.detail}"
    except OSError as error:
        return error.strerror or "it cannot be read"
    return ""
