"""The layouts that records come in.

A new public data set is one file like `ptbxl.py` and its line in `PUBLISHED`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pandas as pd

from ecgforge.sources import chapman, folder, ptbxl


class Layout(Protocol):
    """What reads a raw folder: a module with these names.

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
        TABLES: files without which there is no catalogue.
        COMPANIONS: files to take along where the mirror has them.
    """

    TABLES: tuple[str, ...]
    COMPANIONS: tuple[str, ...]

    def listed(self, folder: Path, /) -> Iterator[list[str]]:
        """Yield, list by list, further files that the catalogue needs; those of a list must be in
        `folder` before the next.
        """

    def files(self, path: str, sampling_rate: int, /) -> list[str]:
        """Name the files of the record at `path` that serve `sampling_rate`, in Hz."""

    def restrict(self, folder: Path, chosen: pd.DataFrame, /) -> None:
        """Make the metadata in `folder` name the `chosen` part of its catalogue only."""


PUBLISHED: dict[str, PublishedLayout] = {"ptbxl": ptbxl, "chapman": chapman}
LAYOUTS: dict[str, Layout] = {**PUBLISHED, "folder": folder}
