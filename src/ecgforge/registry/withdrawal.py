"""Which versions learned from withdrawn patients, directly or through a generator or tuning."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.model_versions.history import CHALLENGER, FORMER, WITHDRAWN
from ecgforge.model_versions.versions import Version, all_versions
from ecgforge.params import Params
from ecgforge.provenance import lineage
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.provenance.lineage import Node
from ecgforge.registry import training_data
from ecgforge.tracking.store import client, with_retry

SYNTHETIC = "synthetic"
TAG_LENGTH = 5000  # characters that MLflow accepts


@dataclass(frozen=True)
class Affected:
    """A version that learned from withdrawn patients, or perhaps did.

    Attributes:
        version: the version.
        why: the record sets and their numbers of withdrawn patients, as text.
        through: these record sets, and the nodes between them and the version: synthetic records,
            generators and tuned parameters.
    """

    version: Version
    why: str
    through: list[Node]


class Search:
    """Searches lineages for withdrawn patients; reads each record set once."""

    def __init__(self, patients: Set[str], content: DvcStore) -> None:
        self.patients, self.content = patients, content
        self._walker = lineage.Walker(content)
        self._counts: dict[tuple[str, str], int | None] = {}

    def all(self) -> Iterator[Affected]:
        """Yield all affected versions of the registry, the versions of a model oldest first."""
        for version in all_versions():
            traced = self._walker.version(version)
            if why := self.why(traced):
                yield Affected(version, why, [*self._between(traced)])

    def why(self, traced: Node) -> str:
        """Return from which record sets of a lineage a version learned withdrawn patients; empty
        if it learned from none.
        """
        found = []
        for node in {node.digest: node for node in lineage.trained_on(traced)}.values():
            count = self.count(node) if node.real else None
            name = f"{node.name} {node.digest[:8]}"
            if count is None:
                found.append(f"{name} is no longer available, so its patients are unknown")
            elif count:
                found.append(f"{count} withdrawn patient{'s' * (count > 1)} in {name}")
        return "; ".join(found) if self.patients else ""

    def count(self, node: Node) -> int | None:
        """Return the number of withdrawn patients in the training and validation records of a real
        set; None if the set is no longer available.
        """
        place = (node.path, node.digest)
        if place not in self._counts:
            table = training_data.table(node, self.content)
            self._counts[place] = None if table is None else len(self._learned(table))
        return self._counts[place]

    def _between(self, traced: Node) -> Iterator[Node]:
        for node in traced.all():
            tuned = node.kind == "file" and node.path.startswith(lineage.TUNED)
            learned = node.real and self.count(node) != 0
            if (
                learned
                or tuned
                or node.kind == "generator"
                or node.facts.get("origin") == SYNTHETIC
            ):
                yield node

    def _learned(self, table: pd.DataFrame) -> Set[str]:
        return self.patients & training_data.keys(table[table["split"] != "test"], "patient")


def patients(params: Params) -> set[str]:
    """Return the withdrawn patients of all sources, as `<source>-<patient>`."""
    return {
        training_data.key(source, name)
        for source, names in params.withdrawn.items()
        for name in names
    }


def refuse(version: Version, traced: Node, withdrawn: Set[str], content: DvcStore) -> None:
    """Refuse a version that learned from withdrawn patients.

    Raises:
        EcgforgeError: it did, or this is unknown.
    """
    if withdrawn and (why := Search(withdrawn, content).why(traced)):
        raise EcgforgeError(
            f"{version.label} cannot be promoted ({why}): run `ecgforge repro`, which trains "
            "versions without these patients"
        )


def refuse_marked(version: Version) -> None:
    """Refuse a version that `mark` marked.

    Raises:
        EcgforgeError: it is marked.
    """
    if why := version.tags.get(WITHDRAWN):
        raise EcgforgeError(
            f"{version.label} cannot become champion again ({why}): promote a version that "
            "`ecgforge repro` trained without these patients"
        )


def mark(found: Affected) -> None:
    """Tag a version with the reason why it is affected. A former champion and a challenger lose
    their alias, since they cannot be promoted.
    """
    version, registry, why = found.version, client(), found.why[:TAG_LENGTH]
    with_retry(registry.set_model_version_tag, version.name, version.number, WITHDRAWN, why)
    for alias in {FORMER, CHALLENGER} & {*version.aliases}:
        with_retry(registry.delete_registered_model_alias, version.name, alias)
