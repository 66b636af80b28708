"""Digests of folders from earlier runs: DVC would look up the digest of each file in a folder,
which takes seconds for a hundred thousand raw files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ecgforge.files import atomic_write

KEPT = Path(".ecgforge/folders.json")
IGNORED = Path(".dvcignore")  # its patterns decide which files count

Digests = dict[str, tuple[str, dict[str, str]]]  # state of a folder and its digest, by path


@contextmanager
def kept(root: Path) -> Iterator[Digests]:
    """Yield the digests of the project in `root`; changed ones are written at the end."""
    try:
        before = json.loads((root / KEPT).read_text(encoding="utf-8"))
        known = {path: (str(state), dict(digest)) for path, (state, digest) in before.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # a damaged file has no digests
        known = {}
    changed = dict(known)
    yield changed
    if changed != known:
        with suppress(OSError), atomic_write(root / KEPT) as scratch:  # a disk that is full
            scratch.write_text(json.dumps(changed, indent=1), encoding="utf-8")


def state(folder: str) -> str:
    """Return a digest of the names, sizes, times and inodes of a folder's files; by these DVC also
    recognises a file that has not changed.

    Raises:
        OSError: a file cannot be examined.
    """
    found = hashlib.blake2b(digest_size=16)
    if IGNORED.exists():
        found.update(IGNORED.read_bytes())
    _add(folder, found)
    return found.hexdigest()


def _add(folder: str, found: hashlib.blake2b) -> None:
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir():
            _add(entry.path, found)
            continue
        facts = entry.stat()
        line = f"{entry.path}\0{facts.st_size} {facts.st_mtime_ns} {facts.st_ino}\n"
        found.update(os.fsencode(line))
