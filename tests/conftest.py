"""The order of the files: the longest first, so that no worker is left with one of them alone at the end."""

from __future__ import annotations

import signal

import pytest

# Tests interrupt what they start; a shell that runs them in the background would have that ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("test_study", "test_sanity", "test_generators", "test_tuning", "test_promotion", "test_lineage", "test_quality", "test_serving")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
