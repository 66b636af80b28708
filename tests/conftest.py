"""What all tests share: the order of the files, and one empty MLflow database for all workers.

The longest files come first, so that no worker is left with one of them alone at the end.
"""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import diskcache
import pytest

# Tests interrupt what they start; a shell that runs them in the background would have that ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A test process takes one core. The forks of a process that used more threads could wait for ever.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Trio comes with selenium, and its plugin for hypothesis would have all garbage collected.
os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"

# Each command of DVC's would start a process that reports it to DVC's makers.
os.environ["DVC_NO_ANALYTICS"] = "1"

LONGEST = (
    "test_study",
    "test_mlflow_browser",
    "test_promotion",
    "test_generators",
    "test_lineage",
    "test_dag",
    "test_quality",
    "test_cells",
    "test_sanity",
    "test_tuning",
    "test_trust",
    "test_tracking",
    "test_report",
    "test_cli",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
        )
    )


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk() -> Iterator[None]:
    """Have no write wait until it is on the disk, in this process and its forks: only a crash of
    the machine, which no test causes, could lose one. SQLite's databases are MLflow's and Optuna's
    (by SQLAlchemy, which they import later), and DVC's (by diskcache).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setitem(diskcache.DEFAULT_SETTINGS, "sqlite_synchronous", 0)
        if not {"mlflow", "optuna"} & sys.modules.keys():
            yield
            return
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        def opened(connection: object, _: object) -> None:
            if isinstance(connection, sqlite3.Connection):
                connection.execute("PRAGMA synchronous = OFF")

        event.listen(Engine, "connect", opened)
        yield
        event.remove(Engine, "connect", opened)


gc.disable()  # until all modules are imported


def pytest_collection_finish() -> None:
    """Have the garbage collector leave out what the imports made: a million objects, each time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # a tenth of the time is the collector's otherwise
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def tables_are_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have MLflow run its sixty migrations for the first database of all workers alone, and copy
    the tables for those after it.

    Other processes, forked ones too, still make their own.
    """
    if "mlflow" not in sys.modules:
        yield
        return
    from filelock import FileLock
    from mlflow.store.db import utils

    folder, create, here = tmp_path_factory.getbasetemp(), utils._initialize_tables, os.getpid()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    template = shared / "tables.db"

    def initialise(engine: Any) -> None:
        if not (
            engine.dialect.name == "sqlite"
            and engine.url.database
            and utils._is_empty_database(engine)
            and os.getpid() == here
        ):
            create(engine)
            return
        with FileLock(f"{template}.lock"):
            known = template.exists()
            if not known:
                create(engine)
            with (
                closing(sqlite3.connect(template)) as kept,
                closing(sqlite3.connect(engine.url.database)) as new,
            ):
                kept.backup(new) if known else new.backup(kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", initialise)
        yield
