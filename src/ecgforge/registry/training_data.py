"""The real record sets that a version learned from."""

from __future__ import annotations

from io import BytesIO

import pandas as pd

from ecgforge.files import read_csv
from ecgforge.provenance import lineage
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.provenance.lineage import Node

TEXT = {"id": str, "patient": str, "dataset": str}


def tables(traced: Node, content: DvcStore) -> dict[str, pd.DataFrame | None]:
    """Return records.csv of each real set that trained a version, by name and digest.

    None stands for a set that is no longer available.
    """
    return {
        f"{node.name} {node.digest[:8]}": table(node, content) if node.real else None
        for node in lineage.trained_on(traced)
    }


def table(node: Node, content: DvcStore) -> pd.DataFrame | None:
    """Return records.csv of a record set; None if it is no longer available."""
    found = content.read(node.digest, "records.csv", node.path)
    return read_csv(BytesIO(found), dtype=TEXT, keep_default_na=False) if found else None


def keys(table: pd.DataFrame, column: str) -> set[str]:
    """Return ids or patients as `<dataset>-<id>`, as in a merged set, so that sets compare."""
    return {
        key(dataset, name)
        for dataset, name in zip(table["dataset"], table[column], strict=True)
        if name
    }


def key(dataset: str, name: str) -> str:
    return f"{dataset}-{name.removeprefix(f'{dataset}-')}"
