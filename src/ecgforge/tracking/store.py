"""Where runs are kept: a SQLite file in the project unless `MLFLOW_TRACKING_URI` says otherwise."""

from __future__ import annotations

import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode, urlsplit

from filelock import FileLock
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from ecgforge.errors import EcgforgeError
from ecgforge.files import whole

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
TIMEOUT = 3  # s, for a server to say that it is there

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # What a model is loaded from can then not execute: MLflow refuses archives that hold more than tensors.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # MLflow's own limits, 120 s and 7 retries, let a training wait for minutes on a server that has gone.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
}


def project_root() -> Path:
    """Return the nearest folder upwards that holds `params.yaml`, else the current one.

    `dvc exp run --temp` works in a copy below `.dvc/tmp/exps` that is removed when it ends; its runs belong to the project.
    """
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "params.yaml").exists()), here)
    for folder in root.parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return root


def git(root: Path, *arguments: str) -> str:
    """Return what git says in a folder, or nothing where it fails or is not installed."""
    try:
        found = subprocess.run(["git", "--no-optional-locks", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def configure() -> str:
    """Set MLflow's environment for this process and those it starts, and return the tracking URI. Does not import MLflow."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or SQLITE + DATABASE
    if uri.startswith(SQLITE):
        # A relative path would mean another file in every folder; `mlflow run` hands one down.
        uri = f"{SQLITE}{project_root() / uri.removeprefix(SQLITE)}"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    return uri


def local_database() -> Path | None:
    """Return the SQLite file that is the store, or None where a server is."""
    return _database(configure())


def initialise() -> None:
    """Create the SQLite database, or bring an older one to the schema of the installed MLflow; once, under a file lock.

    MLflow creates its tables on first use, and processes that do so at once leave a file that never works again. A database
    that is ready says so in its own header, which costs no import of MLflow to read; other stores look after themselves.

    Raises:
        EcgforgeError: the database can neither be created nor opened.
    """
    database = _database(configure())
    if database is None or _ready(database):
        return
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            if _ready(database):
                return
            if database.exists():
                _upgrade(database, database.parent)
            else:
                with whole(database) as scratch:
                    _upgrade(scratch, database.parent)
    except Exception as error:  # of the file system, SQLite, SQLAlchemy and Alembic
        raise _unusable(database, error) from error


def ensure_reachable() -> None:
    """Ask the tracking store whether it is there, within a few seconds; call it before work starts that would be lost.

    Raises:
        EcgforgeError: it is not; names the URI and what to do.
    """
    uri = configure()
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    database = _database(uri)
    try:
        if database is not None:
            initialise()
            _open(database)
        elif scheme in ("http", "https"):
            _ask_health(uri)
        elif scheme in PORTS:
            socket.create_connection((parts.hostname or "localhost", parts.port or PORTS[scheme]), TIMEOUT).close()
        elif scheme in ("", "file"):
            raise EcgforgeError(
                f"MLFLOW_TRACKING_URI is {uri}, but MLflow no longer keeps runs in plain folders; unset it to use {DATABASE}"
            )
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise EcgforgeError(
            f"MLflow's tracking server at {_without_password(uri)} cannot be reached ({reason}): start it, mend "
            f"MLFLOW_TRACKING_URI, or unset it to keep runs in {DATABASE}"
        ) from None
    except sqlite3.Error as error:
        raise _unusable(database, error) from None


def client() -> MlflowClient:
    """Return a client of the configured store, ready for use."""
    initialise()
    from mlflow import MlflowClient, set_tracking_uri

    # Parts of MLflow's registry look up the process-wide store, whatever client calls them.
    set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    return MlflowClient()


def serve(port: int, experiment: str, charts: dict[str, str]) -> None:
    """Run MLflow's server and UI on 127.0.0.1 until it is stopped, and say where in it the charts are.

    One worker and no job processes, which MLflow starts four of and eight: a person looking at runs needs neither.

    Args:
        experiment: the name of the study's experiment.
        charts: what they compare -> a filter of runs, in MLflow's words.
    """
    initialise()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    address = f"http://127.0.0.1:{port}"
    found = client().get_experiment_by_name(experiment)
    for title, words in charts.items() if found else ():
        print(
            f"{title}: {address}/#/experiments/{found.experiment_id}/runs?{urlencode({'searchFilter': words, 'compareRunsMode': 'CHART'})}"
        )
    print("In a chart view, `Group by` with a tag such as setting, generator or backbone draws the means of its groups.", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    subprocess.run([*command, "--backend-store-uri", configure()], check=False)


def artifact_location(experiment: str) -> str | None:
    """Return where a new experiment keeps its files: beside the SQLite database, or where a server decides (None)."""
    database = _database(configure())
    return None if database is None else str(database.parent / "mlruns" / experiment)


def _passing(error: BaseException) -> bool:
    # SQLite's «database is locked», and two processes that insert the same data set at once.
    return getattr(error, "error_code", None) in ("TEMPORARILY_UNAVAILABLE", "BAD_REQUEST")


@retry(retry=retry_if_exception(_passing), stop=stop_after_attempt(6), wait=wait_random_exponential(0.1, max=3), reraise=True)
def patiently(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a method of the client; where other processes were in the way, try again. For calls that may run twice."""
    return call(*args, **kwargs)


@contextmanager
def tolerating(*codes: str) -> Iterator[None]:
    """Leave the block, and go on after it, where MLflow refuses with one of these error codes."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in codes:
            raise


def run(run_id: str) -> Any:
    """Return a run, None where MLflow has it no more."""
    with tolerating("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return patiently(client().get_run, run_id)
    return None


def runs(words: str = "") -> list[Any]:
    """Return all runs for which a filter in MLflow's words holds, of all experiments, the newest first."""
    client()
    from mlflow import search_runs

    return search_runs(search_all_experiments=True, filter_string=words, output_format="list")


def absent(uri: str) -> bool:
    """Say whether `uri` is a SQLite file that does not exist, which asking MLflow for anything would create."""
    database = _database(uri)
    return database is not None and not database.exists()


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def _stamp() -> int:
    return zlib.crc32(version("mlflow").encode()) >> 1  # SQLite's user_version is a signed 32-bit number


def _open(database: Path) -> int:
    """Return the user version of the database, which must be writable."""
    if not os.access(database, os.W_OK):
        raise sqlite3.OperationalError("it is missing or cannot be written")
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _ready(database: Path) -> bool:
    return database.exists() and _open(database) == _stamp()


def _upgrade(database: Path, folder: Path) -> None:
    import logging

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    from mlflow.store.db.utils import _is_empty_database, _upgrade_db, create_sqlalchemy_engine
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = create_sqlalchemy_engine(f"{SQLITE}{database}")
    if not _is_empty_database(engine):
        _upgrade_db(engine)
    engine.dispose()
    SqlAlchemyStore(f"{SQLITE}{database}", str(folder / "mlruns")).engine.dispose()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA user_version = {_stamp()}")


def _ask_health(uri: str) -> None:
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=TIMEOUT, context=context).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # a server that wants to know who asks is there
            raise


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def _unusable(database: Path | None, error: Exception) -> EcgforgeError:
    return EcgforgeError(
        f"MLflow's database {database} cannot be used ({' '.join(str(error).split())[:300]}): move it away to start a new one, "
        "or set MLFLOW_TRACKING_URI to another place or a server"
    )
