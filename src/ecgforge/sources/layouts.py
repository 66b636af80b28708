"""The layouts of raw records.

A new public dataset needs a file like `ptbxl.py`, and a line in `PUBLISHED`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pandas as pd

from ecgforge.sources import chapman, folder, ptbxl


class Layout(Protocol):
    """A reader of raw folders: a module with these names.

    Attributes:
        RHYTHM_CODES: published code -> rhythm of the vocabulary.
        OTHER_RHYTHMS: codes of rhythms outside the vocabulary.
    """

    RHYTHM_CODES: dict[str, str]
    OTHER_RHYTHMS: set[str]

    def catalogue(self, folder: Path, /) -> pd.DataFrame:
        """Describe every record: id, patient, codes, age, sex, fold, path, withdrawn.

        Raises EcgforgeError.
        """


class PublishedLayout(Layout, Protocol):
    """A layout that can also be fetched from a mirror.

    Attributes:
        TABLES: files that the catalogue requires.
        COMPANIONS: optional files of the mirror that are also fetched.
    """

    TABLES: tuple[str, ...]
    COMPANIONS: tuple[str, ...]

    def listed(self, folder: Path, /) -> Iterator[list[str]]:
        """Yield lists of further files that the catalogue needs; the files of a list must be in
        `folder` before the next list.
        """

    def files(self, path: str, sampling_rate: int, /) -> list[str]:
        """Return the files of the record at `path` for `sampling_rate`, in Hz."""

    def restrict(self, folder: Path, chosen: pd.DataFrame, /) -> None:
        """Restrict the metadata in `folder` to the `chosen` part of its catalogue."""


PUBLISHED: dict[str, PublishedLayout] = {"ptbxl": ptbxl, "chapman": chapman}
LAYOUTS: dict[str, Layout] = {**PUBLISHED, "folder": folder}
