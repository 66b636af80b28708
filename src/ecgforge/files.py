"""Outputs that appear whole or not at all, and the digests DVC knows them by."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path` to write a file or a folder at; it takes the name `path` only on success.

    A scratch path left behind by a killed process is cleared on entry, and on an error nothing of the new output remains
    and an older output stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    remove(scratch)
    try:
        yield scratch
        remove(path)
        scratch.replace(path)
    finally:
        remove(scratch)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def md5(path: Path) -> str:
    """Return the digest that DVC 3 gives to the file or folder at `path`: md5, with `.dir` behind it for a folder.

    A folder's digest is the md5 of a JSON list of its files' relative paths and md5 sums, sorted by path.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    entries = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode()).hexdigest() + ".dir"
