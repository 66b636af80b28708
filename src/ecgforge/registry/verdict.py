"""The result of the gates for a version."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ecgforge.model_versions.versions import Version
from ecgforge.provenance.lineage import Node
from ecgforge.registry.gates import Gate


@dataclass(frozen=True)
class Verdict:
    """The result of the gates for a version.

    Attributes:
        champion: number of the champion in the comparison; empty if there is none.
        against: description of the champion or the baselines.
        test: digest of the record set with the test records, their number by rhythm, and their
            origin.
        metrics: of the version with intervals: rows of `study.statistics.interval`, or a
            generator's scores with baselines.
        lineage: of the version.
    """

    version: Version
    champion: str
    against: str
    test: dict[str, str]
    gates: list[Gate]
    metrics: pd.DataFrame
    lineage: Node

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> list[str]:
        return [gate.name for gate in self.gates if not gate.passed]
