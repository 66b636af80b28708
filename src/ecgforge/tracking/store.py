"""Where runs are kept: a SQLite file in the project unless `MLFLOW_TRACKING_URI` says otherwise."""

from __future__ import annotations

import errno
import os
import re
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
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode, urlsplit

from filelock import FileLock
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.tracking import home, mlflow_internals
from ecgforge.tracking.home import ARTIFACTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
BUSY = 30  # s, for another process to let go of the database
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
TIMEOUT = 3  # s, for a server to say that it is there
DAMAGED = ("database disk image is malformed", "file is not a database", "disk I/O error")
FULL = ("No space left on device", "database or disk is full", "Disk quota exceeded")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNADDRESSABLE = re.compile(r"\?|%[0-9A-Fa-f]{2}|[\ud800-\udfff]")

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # What a model is loaded from can then not execute: MLflow refuses archives that hold more than
    # tensors.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # MLflow's own limits, 120 s and 7 retries, let a training wait for minutes on a server that has
    # gone.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
}


def project_root() -> Path:
    """Return the nearest folder upwards that holds `params.yaml`, else the current one.

    `dvc exp run --temp` works in a copy below `.dvc/tmp/exps` that is removed when it ends; its
    runs belong to the project.
    """
    root = checkout()
    for folder in root.parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return root


def checkout() -> Path:
    """Return `project_root`, or the copy of it in which `dvc exp run --temp` works."""
    here = Path.cwd()
    return next(
        (folder for folder in (here, *here.parents) if (folder / "params.yaml").exists()), here
    )


def git(root: Path, *arguments: str, needed: bool = False) -> str:
    """Return the output of a git command in a folder, or nothing where it fails or git is not
    installed.

    Args:
        needed: whether something would be lost if git's answer were missing.

    Raises:
        EcgforgeError: it is needed, and git does not give it; in git's words.
    """
    try:
        return _ask_git(root, *arguments).strip()
    except (OSError, subprocess.CalledProcessError) as error:
        if needed:
            words = " ".join((getattr(error, "stderr", "") or str(error)).split())
            raise EcgforgeError(f"git cannot be asked in {root} ({words})") from None
        return ""


def _ask_git(root: Path, *arguments: str) -> str:
    words = os.environ | {"LC_ALL": "C"}
    options: dict[str, Any] = {
        "capture_output": True,
        "encoding": "utf-8",
        "errors": "surrogateescape",
        "check": True,
    }
    return str(
        subprocess.run(
            ["git", "--no-optional-locks", *arguments], cwd=root, env=words, **options
        ).stdout
    )


def git_problem(root: Path | None = None) -> str:
    """Say in one line why git gives no answers about the project, and what to do; empty where it
    does, and where there is no repository.
    """
    root = root or checkout()
    repository = next(
        (folder for folder in (root, *root.parents) if (folder / ".git").exists()), None
    )
    try:
        _ask_git(root, "rev-parse", "--git-dir")
    except FileNotFoundError:
        return (
            f"git is not installed, and {repository} is a git repository: install git"
            if repository
            else ""
        )
    except (OSError, subprocess.CalledProcessError) as error:
        words = " ".join((getattr(error, "stderr", "") or str(error)).split())
        none = repository is None and "not a git repository" in words
        return "" if none else f"git refuses to work in {root}: {words}"
    return ""


def has_commit(root: Path, commit: str) -> bool:
    """Whether the repository has a commit, which a tag of MLflow's may name: nothing else than a
    digest is given to git.
    """
    return (
        bool(re.fullmatch(r"[0-9a-f]{40,64}", commit))
        and git(root, "cat-file", "-t", commit) == "commit"
    )


def configure() -> str:
    """Set MLflow's environment for this process and those it starts, and return the tracking URI.

    Does not import MLflow.

    Raises:
        EcgforgeError: no address of the database can be written, see `address`.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or SQLITE + DATABASE
    if uri.startswith(SQLITE):
        # A relative path would mean another file in every folder; `mlflow run` hands one down.
        uri = address(project_root() / uri.removeprefix(SQLITE))
    os.environ["MLFLOW_TRACKING_URI"] = uri
    return uri


def address(database: Path) -> str:
    """Return the URI of a SQLite file.

    Raises:
        EcgforgeError: its path holds what SQLAlchemy or MLflow would read as something else, and
            keep runs in another place.
    """
    odd = _UNADDRESSABLE.search(str(database))
    if odd:
        raise EcgforgeError(
            f"runs cannot be kept in {database}: MLflow misreads '{console.shown(odd[0])}' in the "
            "path of its database; "
            "rename the folder, or set MLFLOW_TRACKING_URI to another place or a server"
        )
    return f"{SQLITE}{database}"


def local_database() -> Path | None:
    """Return the SQLite file that is the store, or None where a server is."""
    return _database(configure())


def is_own() -> bool:
    """Whether the store is a SQLite file in the project, which no other project uses."""
    database = local_database()
    return database is not None and database.resolve().is_relative_to(project_root().resolve())


def initialise() -> None:
    """Create the SQLite database, or bring an older one to the schema of the installed MLflow, or
    to a project that was moved or copied; once, under a file lock.

    MLflow creates its tables on first use, and processes that do so at once leave a file that never
    works again. A database that is ready says so itself, which costs no import of MLflow to read;
    other stores look after themselves.

    Raises:
        EcgforgeError: the database can neither be created nor opened.
    """
    database = _database(configure())
    if database is None:
        return
    try:
        if _ready(database):
            return
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            if _ready(database):
                return
            if not database.exists():
                with atomic_write(database) as scratch:
                    _upgrade(scratch, database.parent)
                return
            if not _current(database):
                _refuse_newer(database)
                _upgrade(database, database.parent)
            home.follow(database)
    except EcgforgeError:
        raise
    except Exception as error:  # of the file system, SQLite, SQLAlchemy and Alembic
        raise _unusable(database, error) from error


def ensure_reachable() -> None:
    """Ask the tracking store whether it is there, within a few seconds; call it before work starts
    that would be lost.

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
        elif scheme in ("http", "https"):
            _ask_health(uri)
        elif scheme in PORTS:
            socket.create_connection(
                (parts.hostname or "localhost", parts.port or PORTS[scheme]), TIMEOUT
            ).close()
        elif scheme in ("", "file"):
            raise EcgforgeError(
                f"MLFLOW_TRACKING_URI is {uri}, but MLflow no longer keeps runs in plain folders; "
                f"unset it to use {DATABASE}"
            )
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise EcgforgeError(
            f"MLflow's tracking server at {_without_password(uri)} cannot be reached ({reason}): "
            "start it, mend "
            f"MLFLOW_TRACKING_URI, or unset it to keep runs in {DATABASE}"
        ) from None


def client() -> MlflowClient:
    """Return a client of the configured store, ready for use."""
    initialise()
    from mlflow import MlflowClient, set_tracking_uri

    _quieten()
    # Parts of MLflow's registry look up the process-wide store, whatever client calls them.
    set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    return MlflowClient()


def serve(port: int, experiment: str, charts: dict[str, str]) -> None:
    """Run MLflow's server and UI on 127.0.0.1 until it is stopped, and say where in it the charts
    are.

    One worker and no job processes, which MLflow starts four of and eight: a person looking at runs
    needs neither.

    Args:
        experiment: the name of the study's experiment.
        charts: what they compare -> a filter of runs, in MLflow's words.
    """
    initialise()
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except OSError as error:
            raise EcgforgeError(
                f"port {port} cannot be used ({error.strerror}): name another with --port"
            ) from None
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    address = f"http://127.0.0.1:{port}"
    found = client().get_experiment_by_name(experiment)
    check_active(found)
    for title, words in charts.items() if found else ():
        console.out.print(
            f"{title}: {address}/#/experiments/{found.experiment_id}/runs?"
            + urlencode({"searchFilter": words, "compareRunsMode": "CHART"})
        )
    console.out.print(
        "In a chart view, `Group by` with a tag such as setting, generator or backbone draws the "
        "means of its groups."
    )
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    code = subprocess.run([*command, "--backend-store-uri", configure()], check=False).returncode
    if code > 0:
        raise EcgforgeError(f"MLflow's server ended with exit code {code}, see above")


def check_active(experiment: Any) -> None:
    """Check that an experiment of MLflow's, if there is one, was not deleted: its name is taken,
    and no run can be made in it.

    Raises:
        EcgforgeError: it was.
    """
    if experiment is not None and experiment.lifecycle_stage != "active":
        raise EcgforgeError(
            f"MLflow's experiment '{experiment.name}' was deleted: "
            f"`MLFLOW_TRACKING_URI='{_without_password(configure())}' mlflow experiments restore "
            f"-x {experiment.experiment_id}` restores it"
        )


def artifact_location(experiment: str) -> str | None:
    """Return where a new experiment keeps its files: beside the SQLite database, or where a server
    decides (None).
    """
    database = _database(configure())
    return None if database is None else str(database.parent / ARTIFACTS / experiment)


def _passing(error: BaseException) -> bool:
    # SQLite's «database is locked», and two processes that insert the same data set at once.
    return not out_of_space(error) and getattr(error, "error_code", None) in (
        "TEMPORARILY_UNAVAILABLE",
        "BAD_REQUEST",
    )


@retry(
    retry=retry_if_exception(_passing),
    stop=stop_after_attempt(6),
    wait=wait_random_exponential(0.1, max=3),
    reraise=True,
)
def with_retry(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a method of the client; where other processes were in the way, try again.

    For calls that may run twice.

    Raises:
        EcgforgeError: the database is damaged in a part that was not looked at before.
    """
    try:
        return call(*args, **kwargs)
    except Exception as error:
        database = local_database()
        if database is not None and any(words in str(error) for words in DAMAGED):
            raise _unusable(database, error) from error
        raise


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
        return with_retry(client().get_run, run_id)
    return None


def runs(words: str = "") -> list[Any]:
    """Return all runs for which a filter in MLflow's words holds, of all experiments, the newest
    first.
    """
    client()
    from mlflow import search_runs

    return with_retry(
        search_runs, search_all_experiments=True, filter_string=words, output_format="list"
    )


def absent(uri: str) -> bool:
    """Say whether `uri` is a SQLite file that does not exist, which asking MLflow for anything
    would create.
    """
    database = _database(uri)
    return database is not None and not database.exists()


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def _stamp() -> int:
    # SQLite's user_version is a signed 32-bit number
    return zlib.crc32(version("mlflow").encode()) >> 1


def _check_writable(database: Path) -> None:
    if database.is_dir():
        raise sqlite3.OperationalError("it is a folder")
    for path, which in ((database, "it"), (database.parent, "its folder")):
        if not os.access(path, os.W_OK):
            raise sqlite3.OperationalError(f"{which} is read-only")
    if not database.stat().st_size and any((database.parent / ARTIFACTS).glob("*/*")):
        raise sqlite3.OperationalError(f"it is empty, and {ARTIFACTS} is not")


def _ready(database: Path) -> bool:
    return database.exists() and _current(database) and home.known(database)


def _current(database: Path) -> bool:
    """Whether the database has the schema of the installed MLflow, as `_upgrade` noted."""
    _check_writable(database)
    with closing(sqlite3.connect(database, timeout=BUSY)) as connection:
        return int(
            connection.execute("PRAGMA user_version").fetchone()[0]
        ) == _stamp() and home.same_schema(connection)


def _refuse_newer(database: Path) -> None:
    """Check that the installed MLflow knows the schema of a database, which a newer one may have
    written.
    """
    with closing(sqlite3.connect(database, timeout=BUSY)) as connection:
        tables = connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
        ).fetchone()
        found = (
            ", ".join(
                one for (one,) in connection.execute("SELECT version_num FROM alembic_version")
            )
            if tables
            else ""
        )
    if found and not mlflow_internals.schema_known(found):
        raise EcgforgeError(
            f"MLflow's database {database} was written by a newer MLflow than the "
            f"{version('mlflow')} here (its schema is {found}): "
            "install that version, or set MLFLOW_TRACKING_URI to another place or a server"
        )


def _upgrade(database: Path, folder: Path) -> None:
    _quieten()
    mlflow_internals.create_or_upgrade(address(database), folder / ARTIFACTS)
    with closing(sqlite3.connect(database, timeout=BUSY)) as connection, connection:
        home.note(connection, folder)
        connection.execute(f"PRAGMA user_version = {_stamp()}")


def _quieten() -> None:
    """Silence what MLflow and its libraries log of errors that they raise as well, with statements
    of up to a thousand lines.
    """
    import logging

    for name in mlflow_internals.LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _ask_health(uri: str) -> None:
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        urllib.request.urlopen(
            f"{uri.rstrip('/')}/health", timeout=TIMEOUT, context=context
        ).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # a server that wants to know who asks is there
            raise


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def reason(error: BaseException) -> str:
    """Return the words of an error in one line, without the statement, values, hints and names of
    classes that SQLAlchemy puts there.
    """
    words = str(error).partition("[SQL:")[0].partition("(Background on this error")[0]
    words = re.sub(r"\(raised as a result of [^)]*\)|\([\w.]+Error\)", "", words)
    return " ".join(words.split())[:300] or type(error).__name__


def out_of_space(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes from, says that a disk is full."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(words in str(error) for words in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unusable(database: Path, error: Exception) -> EcgforgeError:
    words = reason(error)
    remedy = (
        "move it away to start a new one, or set MLFLOW_TRACKING_URI to another place or a server"
    )
    if out_of_space(error):
        remedy = "make room and start again"
    elif "locked" in words:
        remedy = "another process is writing to it; try again when that has ended"
    elif "read-only" in words or "readonly" in words or isinstance(error, PermissionError):
        remedy = "make it writable, or set MLFLOW_TRACKING_URI to another place or a server"
    return EcgforgeError(f"MLflow's database {database} cannot be used ({words}): {remedy}")


def inside(path: str) -> bool:
    """Whether a path that a record, a listing or MLflow names stays, as it is written, in the
    folder that it is relative to.
    """
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and "\0" not in path
