"""One file with everything that MLflow keeps of a study: the database, and the files of its runs
and models.

Run ids and version numbers stay the same, so histories, verdicts and signatures stay valid.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

from filelock import FileLock

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.tracking import home, mlflow_internals, store
from ecgforge.tracking.home import ARTIFACTS
from ecgforge.tracking.store import DATABASE

ABOUT = "ecgforge_study.json"  # the first file of an archive
WROTE = re.compile(rb"PK\x03\x04.{26}" + ABOUT.encode(), re.DOTALL)  # its first bytes
CHUNK = 2**20  # bytes
# tables that have rows in a database without content
SET_UP = {
    "alembic_version",
    "workspaces",
    "experiments",
    "scheduler_leases",
    "job_locks",
    home.NOTE,
}


@dataclass(frozen=True)
class About:
    """What an archive has.

    Attributes:
        mlflow: the version of MLflow that wrote the database.
        schema: of the database.
        runs, versions: their numbers.
    """

    mlflow: str
    schema: str
    runs: int
    versions: int


def write(file: Path, database: Path) -> tuple[About, list[str]]:
    """Write the content of a SQLite store to a new archive.

    Returns:
        What the archive has, and the addresses of runs and models whose files it lacks, as they
        are not next to the database.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / DATABASE
        with (
            closing(sqlite3.connect(database, timeout=store.BUSY)) as whole,
            closing(sqlite3.connect(copy)) as target,
        ):
            whole.backup(target)
        about, folder = _about(copy), database.parent / ARTIFACTS
        with (
            atomic_write(file) as partial,
            ZipFile(partial, "w", ZIP_DEFLATED, strict_timestamps=False) as archive,
        ):
            archive.writestr(ABOUT, json.dumps(asdict(about)))
            archive.write(copy, DATABASE)
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            for path in console.track(paths, "writing"):
                archive.write(path, f"{ARTIFACTS}/{path.relative_to(folder).as_posix()}")
        return about, home.elsewhere(copy)


def read(file: Path, database: Path) -> About:
    """Make the content of an archive the content of a SQLite store that has none.

    The database appears last, by rename. If the process is killed before, the next call starts
    again.

    Raises:
        EcgforgeError: the archive is damaged, a newer MLflow wrote it, or the store has content.
    """
    if database.exists():
        store.initialise()  # a damaged database has its own message
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"), _opened(file) as archive:
        about = _checked(file, archive)
        _refuse_used(database)
        _refuse_foreign(database.parent / ARTIFACTS, archive)
        with atomic_write(database) as scratch:
            _extract(archive, DATABASE, scratch)
            store.adopt(scratch)
            with atomic_write(database.parent / ARTIFACTS) as folder:
                folder.mkdir()
                for name in console.track(_artifacts(archive), "reading"):
                    _extract(archive, f"{ARTIFACTS}/{name}", folder / name)
    return about


def _about(database: Path) -> About:
    with closing(sqlite3.connect(database)) as connection:

        def first(query: str) -> object:
            return connection.execute(query).fetchone()[0]

        return About(
            store.version("mlflow"),
            str(first("SELECT version_num FROM alembic_version")),
            int(str(first("SELECT count(*) FROM runs"))),
            int(str(first("SELECT count(*) FROM model_versions"))),
        )


@contextmanager
def _opened(file: Path) -> Iterator[ZipFile]:
    try:
        with ZipFile(file) as archive:
            yield archive
    except (BadZipFile, zlib.error, EOFError, sqlite3.DatabaseError, KeyError) as error:
        raise EcgforgeError(
            f"{file} is damaged, or `ecgforge export` did not write it "
            f"({' '.join(str(error).split())})"
        ) from error


def _checked(file: Path, archive: ZipFile) -> About:
    """Return what an archive has, after a check of its names and of its version of MLflow."""
    odd = [
        one
        for one in archive.namelist()
        if one not in (ABOUT, DATABASE)
        and not (one.startswith(f"{ARTIFACTS}/") and store.inside(one))
    ]
    try:
        about = About(**json.loads(archive.read(ABOUT)))
    except (ValueError, TypeError):
        odd.append(ABOUT)
    if odd:
        raise BadZipFile(f"unexpected content: {console.shown(odd[0])}")
    if not mlflow_internals.schema_known(str(about.schema)):
        raise EcgforgeError(
            f"{file} was written with MLflow {about.mlflow}, which is newer than the installed "
            f"{store.version('mlflow')}: install that version"
        )
    return about


def _refuse_used(database: Path) -> None:
    if not database.exists():
        return
    with closing(sqlite3.connect(database, timeout=store.BUSY)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        rows = {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            for (name,) in tables
        }
    experiments = rows.pop("experiments", 0)
    if experiments > 1 or any(number for name, number in rows.items() if name not in SET_UP):
        raise EcgforgeError(
            f"{database} has {rows.get('runs', 0)} runs and {rows.get('model_versions', 0)} "
            "versions, and importing does not merge studies: import into a new clone, or set "
            "MLFLOW_TRACKING_URI=sqlite:////path/to/a/new/folder/mlflow.db"
        )


def _refuse_foreign(folder: Path, archive: ZipFile) -> None:
    """Check that a folder has only files of the archive, as an import that was killed leaves it."""
    known = {name: archive.getinfo(f"{ARTIFACTS}/{name}") for name in _artifacts(archive)}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        found = known.get(name)
        if found is None or path.stat().st_size != found.file_size or _crc(path) != found.CRC:
            raise EcgforgeError(
                f"{path} exists, and is not a file of the archive: move the folder {folder} away"
            )


def _artifacts(archive: ZipFile) -> list[str]:
    """Return the paths of the files of runs and models, relative to their folder."""
    start = f"{ARTIFACTS}/"
    return [name.removeprefix(start) for name in archive.namelist() if name.startswith(start)]


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _extract(archive: ZipFile, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)
