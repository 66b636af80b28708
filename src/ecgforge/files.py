"""Atomic writes of files and folders, and their digests as in DVC."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ecgforge.errors import EcgforgeError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success, it is renamed to `path`.

    It can become a file or a folder. On an error, the new output is removed, and an older output
    does not change. Files are on disk before the rename, so neither a killed process nor a power
    failure leaves an incomplete output. Remains of a killed process are removed at the start.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch, former = (
        path.with_name(f".{path.name}.partial"),
        path.with_name(f".{path.name}.former.partial"),
    )
    remove(scratch)
    if former.exists() and not path.exists():  # killed between the two renames of `_replace`
        former.rename(path)
    remove(former)
    try:
        yield scratch
        _replace(scratch, path, former)
    finally:
        remove(scratch)


def _replace(scratch: Path, path: Path, former: Path) -> None:
    if scratch.is_file():
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder is at the path of the file", str(path))
        scratch.replace(path)
        return
    scratch.stat()  # fails if nothing was written
    if path.exists():  # a rename cannot replace a folder that is not empty
        path.rename(former)
    scratch.rename(path)
    remove(former)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_csv(file: Path | IO[Any], **options: Any) -> pd.DataFrame:
    """Return `pandas.read_csv` of `file`, with numbers parsed as in Python.

    The default parser of pandas rounds the last digit. It also crashes the process on a text such
    as 1e3147483648, which can be a digest.
    """
    import pandas as pd

    return pd.read_csv(file, float_precision="round_trip", **options)  # noqa: TID251


def stored_csv(file: Path, columns: Sequence[str], **options: Any) -> pd.DataFrame:
    """Read a CSV that a stage wrote.

    Args:
        columns: columns that it must have.
        options: of `read_csv`.

    Raises:
        EcgforgeError: it is missing or damaged.
    """
    try:
        found = read_csv(file, **options)
    except FileNotFoundError:
        raise EcgforgeError(f"{file} is missing: run `dvc repro` or `dvc pull`") from None
    # parser and decoder raise ValueErrors
    except (ValueError, OverflowError) as error:
        raise damaged(file, " ".join(str(error).split())[:100]) from None
    missing = [column for column in columns if column not in found]
    if missing:
        raise damaged(file, f"no column {', '.join(missing)}")
    return found


def damaged(file: Path, why: str) -> EcgforgeError:
    """Return the error for a damaged file of a stage."""
    return EcgforgeError(
        f"{file} is damaged ({why}): remove it and run `dvc checkout`, or `dvc repro`"
    )


def cached_md5(path: Path) -> str:
    """Return `md5` of a file or folder, computed again only after a change of its files' names,
    sizes or times.
    """
    path = path.absolute()
    stats = [(file, file.stat()) for file in (path, *sorted(path.rglob("*")))]
    return _md5_of(path, tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@functools.lru_cache(maxsize=256)
def _md5_of(path: Path, files: tuple[tuple[Path, int, int], ...]) -> str:  # noqa: ARG001 the key
    return md5(path)


def md5(path: Path) -> str:
    """Return DVC's digest of a file or folder: its md5, with the suffix `.dir` for a folder.

    A folder's digest is the md5 of a JSON list of its files' relative paths and md5 sums, sorted by
    path.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    entries = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode()).hexdigest() + ".dir"
