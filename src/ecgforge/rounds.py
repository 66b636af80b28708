"""Rounds of cross-fitting: in each, one group of patients is tested on.

A round is a dataset of its own, named like `ptbxl_2of5`: the records of `ptbxl` with other splits.
Each stage that takes a dataset takes a round, and so sees the training records of that round alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"(?P<dataset>[a-z][a-z0-9_]*)_(?P<number>[0-9]+)of(?P<count>[0-9]+)")


@dataclass(frozen=True)
class Round:
    """One round of several.

    Attributes:
        dataset: the dataset whose records it has.
        number: 1 to `count`; the group of patients that is tested on.
        count: the number of rounds.
    """

    dataset: str
    number: int
    count: int

    @property
    def name(self) -> str:
        """The name of the round, which is that of a dataset."""
        return f"{self.dataset}_{self.number}of{self.count}"


def rounds(dataset: str, count: int) -> list[Round]:
    """Return all rounds of a dataset."""
    return [Round(dataset, number, count) for number in range(1, count + 1)]


def parse(name: str) -> Round | None:
    """Return the round of this name, or None for the name of a dataset."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    return Round(found["dataset"], int(found["number"]), int(found["count"]))


def base(name: str) -> str:
    """Return the dataset of a round; the name itself for a dataset."""
    found = parse(name)
    return found.dataset if found else name
