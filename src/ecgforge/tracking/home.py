"""The folder of MLflow's SQLite database, which the database records itself.

MLflow stores absolute addresses of files. In a moved or copied project they would lead to missing
files, or to the files of the original. Here they are updated to follow the database.
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
# table of ecgforge: the database's folder, and the version of MLflow's schema at that time
NOTE = "ecgforge_home"
ADDRESSES = (  # every column of MLflow that holds an address of files
    "experiments.artifact_location",
    "runs.artifact_uri",
    "logged_models.artifact_location",
    "model_versions.storage_location",
    "model_versions.source",
    "trace_tags.value",
)


def note(connection: sqlite3.Connection, folder: Path) -> None:
    """Record MLflow's schema and, if none is recorded yet, the folder.

    Args:
        folder: used if no address in the database shows its folder.
    """
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {NOTE} (folder TEXT NOT NULL, schema TEXT NOT NULL)"
    )
    before = connection.execute(f"SELECT folder FROM {NOTE}").fetchone()
    known = before[0] if before else _derived(connection) or str(folder)
    connection.execute(f"DELETE FROM {NOTE}")
    connection.execute(f"INSERT INTO {NOTE} SELECT ?, version_num FROM alembic_version", [known])


def _derived(connection: sqlite3.Connection) -> str | None:
    """Return the folder of the database, from its oldest experiment with a default location."""
    for number, name, address in connection.execute(
        "SELECT experiment_id, name, artifact_location FROM experiments ORDER BY experiment_id"
    ):
        path = local(address or "")
        if path and path.parent.name == ARTIFACTS and path.name in (str(number), name):
            return str(path.parents[1])
    return None


def same_schema(connection: sqlite3.Connection) -> bool:
    """Return whether MLflow's schema is the recorded one."""
    return (
        connection.execute(
            f"SELECT 1 FROM {NOTE} JOIN alembic_version ON schema = version_num"
        ).fetchone()
        is not None
    )


def known(database: Path) -> bool:
    """Return whether the database is in the folder that it records."""
    with closing(sqlite3.connect(database)) as connection:
        return _same(Path(_noted(connection)), database.parent)


def _noted(connection: sqlite3.Connection) -> str:
    return str(connection.execute(f"SELECT folder FROM {NOTE}").fetchone()[0])


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths are the same folder, also through links."""
    try:
        return one == other or one.samefile(other)
    except OSError:  # the folder is missing or not readable
        return False


def follow(database: Path) -> None:
    """Update the addresses of files after the database was moved or copied, and print a message."""
    folder, former = database.parent, relocate(database)
    if former is None:
        return
    missing = not _holds_files(folder) and _holds_files(former)
    console.err.print(
        f"{database.name} came from {former}: the files of its runs and models are now "
        f"expected in {folder / ARTIFACTS}"
        + (f", which does not exist yet: copy {former / ARTIFACTS} to it" if missing else "")
    )


def relocate(database: Path) -> Path | None:
    """Update the addresses of files to the folder of the database.

    Only addresses below the former folder change; experiments with their own location keep it.

    Returns:
        The former folder; None if it is the same.
    """
    folder = database.parent
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        former = Path(_noted(connection))
        if _same(former, folder):
            return None

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
    return former


def elsewhere(database: Path) -> list[str]:
    """Return the addresses of runs and models whose files are not next to the database."""
    with closing(sqlite3.connect(database)) as connection:
        folder = Path(_noted(connection)) / ARTIFACTS
        addresses = connection.execute(
            "SELECT artifact_uri FROM runs UNION SELECT artifact_location FROM logged_models"
        ).fetchall()
    return [
        address
        for (address,) in addresses
        if address and not ((path := local(address)) and path.is_relative_to(folder))
    ]


def _holds_files(folder: Path) -> bool:
    try:
        return (folder / ARTIFACTS).exists()
    except OSError:  # the folder is not readable
        return False


def local(address: str) -> Path | None:
    """Return the path of an MLflow address; None if it is not on this machine."""
    if address.startswith("/"):
        return Path(address)
    parts = urlsplit(address)
    return (
        Path(url2pathname(parts.path))
        if parts.scheme == "file" and parts.netloc in ("", "localhost")
        else None
    )


def files(database: Path | None, address: str, owner: str) -> Path | None:
    """Return the folder of a run's or model's files; None if it is outside of this store's folder.

    The database of a copy may name files of the original, and anyone with write access can name any
    folder.
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
    """Return whether this store may remove the files of a run or model.

    A server removes its own.
    """
    return database is None or files(database, address, owner) is not None


def free(database: Path | None, address: str, owner: str) -> None:
    """Remove the files of a run or model, if they are in this store's folder."""
    # `mlflow gc` would remove more: without ids of a kind, it removes everything that was deleted.
    folder = files(database, address, owner)
    if folder:
        remove(folder)
        with suppress(OSError):  # the folder is not empty
            folder.parent.rmdir()
