"""Carry a study to another clone of the project: data by DVC, and what MLflow keeps by a file."""

from __future__ import annotations

import logging
from pathlib import Path

from ecgforge import console, outputs
from ecgforge.dvc import internals, lock
from ecgforge.errors import EcgforgeError
from ecgforge.tracking import archive, runs, store


def pull() -> None:
    """Fetch the data, models and results in dvc.lock from DVC's remote, as `dvc pull` does.

    Raises:
        EcgforgeError: there is no dvc.lock or no remote, or the remote lacks outputs.
    """
    from dvc.exceptions import CheckoutError, DvcException

    if not Path(lock.LOCK).is_file():
        raise EcgforgeError(
            f"there is no {lock.LOCK}, so no outputs are known: commit it where the study ran"
        )
    for logger in ("dvc", "dvc_data"):  # a line for each missing file
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        with internals.locked_repo() as repo:
            repo.cloud.get_remote_odb()
            found = repo.pull()
    except internals.no_remote_error():
        raise EcgforgeError(
            "this clone has no DVC remote: name the one of the other clone with `dvc remote add -d "
            "NAME ADDRESS`, or run the study with `ecgforge repro`"
        ) from None
    except CheckoutError as error:
        missing = sorted(map(str, error.target_infos))
        raise EcgforgeError(
            f"the remote lacks {len(missing)} outputs of this commit, such as {missing[0]}: run "
            "`dvc push` where the study ran, or run their stages with `ecgforge repro`"
        ) from None
    except (DvcException, ImportError) as error:  # an ImportError names the missing package
        words = store.reason(error).replace("Use `--force` to force.", "`dvc pull --force` does:")
        raise EcgforgeError(words) from error
    changed = len(found["added"]) + len(found["modified"])
    console.out.print(
        f"{found['stats']['fetched']} files fetched, {changed} outputs added or changed."
    )


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
        f"({file.stat().st_size / 1e6:.1f} MB). In another clone: ecgforge pull && ecgforge import "
        f"{file.name}"
    )
    if elsewhere:
        console.err.print(
            f"warning: {file} lacks the files of {len(elsewhere)} runs or models, which are at "
            f"other addresses, such as {elsewhere[0]}"
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
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise EcgforgeError(f"{file} {problem}: name a file that `ecgforge export` wrote")
    about = archive.read(file, database)
    console.out.print(f"{database} has {about.runs} runs and {about.versions} versions.")


def _address() -> str:
    return store.without_password(store.configure())
