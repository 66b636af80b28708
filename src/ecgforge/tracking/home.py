"""Where MLflow's SQLite database lies, as it says itself:

MLflow keeps absolute addresses of files, so a project that is moved or copied would lose its files,
or write to those of the original. They follow the database.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ecgforge import console
from ecgforge.files import remove

ARTIFACTS = "mlruns"  # the folder of files next to the database
# a table of ours: the folder of the database, and MLflow's schema when that was noted
NOTE = "ecgforge_home"
ADDRESSES = (  # every column of MLflow's that holds an address of files
    "experiments.artifact_location",
    "runs.artifact_uri",
    "logged_models.artifact_location",
    "model_versions.storage_location",
    "model_versions.source",
    "trace_tags.value",
)


def note(connection: sqlite3.Connection, folder: Path) -> None:
    """Write down MLflow's schema and, where none is known yet, the folder: by the addresses that
    are there, or else `folder`.
    """
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {NOTE} (folder TEXT NOT NULL, schema TEXT NOT NULL)"
    )
    before = connection.execute(f"SELECT folder FROM {NOTE}").fetchone()
    known = before[0] if before else _derived(connection) or str(folder)
    connection.execute(f"DELETE FROM {NOTE}")
    connection.execute(f"INSERT INTO {NOTE} SELECT ?, version_num FROM alembic_version", [known])


def _derived(connection: sqlite3.Connection) -> str | None:
    """The folder that the database was made in, by where its oldest experiment that was given no
    place of its own keeps its files.
    """
    for number, name, address in connection.execute(
        "SELECT experiment_id, name, artifact_location FROM experiments ORDER BY experiment_id"
    ):
        path = local(address or "")
        if path and path.parent.name == ARTIFACTS and path.name in (str(number), name):
            return str(path.parents[1])
    return None


def same_schema(connection: sqlite3.Connection) -> bool:
    """Whether MLflow's schema is the one that was noted."""
    return (
        connection.execute(
            f"SELECT 1 FROM {NOTE} JOIN alembic_version ON schema = version_num"
        ).fetchone()
        is not None
    )


def known(database: Path) -> bool:
    """Whether the database lies where it says."""
    with closing(sqlite3.connect(database)) as connection:
        return _same(Path(_noted(connection)), database.parent)


def _noted(connection: sqlite3.Connection) -> str:
    return str(connection.execute(f"SELECT folder FROM {NOTE}").fetchone()[0])


def _same(one: Path, other: Path) -> bool:
    """Whether two paths mean one folder, as the paths of a link and of what it leads to do."""
    try:
        return one == other or one.samefile(other)
    except OSError:  # it is not there, or may not be looked into
        return False


def follow(database: Path) -> None:
    """Where the database was moved or copied, let the addresses of files below its former folder
    lead below its present one, and say so. Addresses elsewhere, such as those of experiments that
    were given a place of their own, stay.
    """
    folder = database.parent
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        former = Path(_noted(connection))
        if _same(former, folder):
            return

        def moved(address: str) -> str:
            path = local(address)
            return (
                str(folder / path.relative_to(former))
                if path and path.is_relative_to(former)
                else address
            )

        connection.create_function("moved", 1, moved, deterministic=True)
        connection.execute("BEGIN IMMEDIATE")
        for table, column in (one.split(".") for one in ADDRESSES):
            which = " AND key = 'mlflow.artifactLocation'" if table == "trace_tags" else ""
            connection.execute(
                f"UPDATE {table} SET {column} = moved({column}) WHERE {column} IS NOT NULL AND "
                f"moved({column}) != {column}{which}"
            )
        connection.execute(f"UPDATE {NOTE} SET folder = ?", [str(folder)])
        connection.execute("COMMIT")
    missing = not _holds_files(folder) and _holds_files(former)
    console.err.print(
        f"{database.name} came from {former}: its runs and models now have their files in "
        f"{folder / ARTIFACTS}"
        + (f", which is not there yet: copy {former / ARTIFACTS} to it" if missing else "")
    )


def _holds_files(folder: Path) -> bool:
    try:
        return (folder / ARTIFACTS).exists()
    except OSError:  # it may not be looked into
        return False


def local(address: str) -> Path | None:
    """The path behind an address of MLflow's, None where it is no folder of this machine."""
    if address.startswith("/"):
        return Path(address)
    parts = urlsplit(address)
    return (
        Path(url2pathname(parts.path))
        if parts.scheme == "file" and parts.netloc in ("", "localhost")
        else None
    )


def files(database: Path | None, address: str, owner: str) -> Path | None:
    """Return the folder of files of a run or a model, None where it does not lie among those of
    this database: the database of a copy may name the original's, and anyone with write access can
    name any folder.
    """
    path = local(address)
    if database is None or path is None or path.parts[-2:] != (owner, "artifacts"):
        return None
    folder = (database.parent / ARTIFACTS).resolve()
    return (
        path
        if folder.is_relative_to(database.parent.resolve())
        and path.resolve().is_relative_to(folder)
        else None
    )


def keeps(database: Path | None, address: str, owner: str) -> bool:
    """Whether the files of a run or a model are the store's to remove: those of a server are the
    server's.
    """
    return database is None or files(database, address, owner) is not None


def free(database: Path | None, address: str, owner: str) -> None:
    """Remove the files of a run or a model, if they lie among those of this database."""
    # `mlflow gc` would do this too, and more: all that anyone ever deleted, where it is given no
    # ids of a kind.
    folder = files(database, address, owner)
    if folder:
        remove(folder)
        with suppress(OSError):  # something else lies next to it
            folder.parent.rmdir()
