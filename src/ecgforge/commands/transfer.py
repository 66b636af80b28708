"""Carry the runs and versions of a study to another clone of the project."""

from __future__ import annotations

from pathlib import Path

from ecgforge import console, outputs
from ecgforge.errors import EcgforgeError
from ecgforge.tracking import archive, runs, store


def export(file: Path) -> None:
    """Write everything that MLflow keeps of the study to one file.

    Raises:
        EcgforgeError: a run is in progress, the store is a server, or the file cannot be written.
    """
    database = store.local_database()
    if database is None:
        raise EcgforgeError(
            f"the runs are on the server {_address()}, so there is nothing to export: set "
            "MLFLOW_TRACKING_URI to this server in the other clone"
        )
    outputs.check_file(file, ".zip", archive.WROTE)
    if not database.exists():
        raise EcgforgeError(f"there are no runs to export: {database} does not exist")
    store.initialise()
    runs.end_killed()
    running = store.runs("attributes.status = 'RUNNING'")
    if busy := next((one.info.run_name for one in running if runs.at_work(one.info.run_id)), ""):
        raise EcgforgeError(f"the run '{busy}' is in progress: export when it has ended")
    about, elsewhere = archive.write(file, database)
    console.out.print(
        f"{file} has {about.runs} runs and {about.versions} versions "
        f"({file.stat().st_size / 1e6:.1f} MB). In another clone with the data of `dvc pull`: "
        f"ecgforge import {file.name}"
    )
    if elsewhere:
        console.err.print(
            f"warning: the files of {len(elsewhere)} runs or models are in other folders, such as "
            f"{elsewhere[0]}, and not in {file}"
        )


def import_(file: Path) -> None:
    """Take over the runs and versions that `export` wrote.

    Raises:
        EcgforgeError: the file is not one of `export`, the store has runs, or it is a server.
    """
    database = store.local_database()
    if database is None:
        raise EcgforgeError(
            f"MLFLOW_TRACKING_URI names the server {_address()}, which would give other numbers to "
            "runs and versions: unset it, or set it to a file, as in docs/how-to/share.md"
        )
    if not file.is_file():
        raise EcgforgeError(f"{file} does not exist: name a file that `ecgforge export` wrote")
    about = archive.read(file, database)
    console.out.print(f"{database} has {about.runs} runs and {about.versions} versions.")


def _address() -> str:
    return store.without_password(store.configure())
