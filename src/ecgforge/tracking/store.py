"""The MLflow store: a SQLite file in the project, unless `MLFLOW_TRACKING_URI` is set."""

from __future__ import annotations

import errno
import getpass
import os
import re
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache, lru_cache
from importlib import metadata
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

version = cache(metadata.version)  # reads and parses a file, and each client needs it

DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
BUSY = 30  # s, waiting time for a lock of the database
UI_PORT = 5000  # the default of `ecgforge ui`
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
TIMEOUT = 3  # s, waiting time for a server's answer
DAMAGED = ("database disk image is malformed", "file is not a database", "disk I/O error")
FULL = ("No space left on device", "database or disk is full", "Disk quota exceeded")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNADDRESSABLE = re.compile(r"\?|%[0-9A-Fa-f]{2}|[\ud800-\udfff]")

TRAINING = {"workflowType": "machine_learning"}  # else, MLflow's UI is one for language models
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Loading a model can then not execute code: MLflow rejects pickled models.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # With MLflow's own limits, 120 s and 7 retries, a training waits minutes for a server that is
    # down.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
}


def project_root() -> Path:
    """Return the nearest parent folder with `params.yaml`, or else the current folder.

    `dvc exp run --temp` works in a copy below `.dvc/tmp/exps` and deletes it afterwards. Its runs
    belong to the project.
    """
    root = checkout()
    for folder in root.parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return root


def checkout() -> Path:
    """Return `project_root`, or the copy of it that `dvc exp run --temp` works in."""
    here = Path.cwd()
    return next(
        (folder for folder in (here, *here.parents) if (folder / "params.yaml").exists()), here
    )


def git(root: Path, *arguments: str, needed: bool = False) -> str:
    """Return the output of a git command in a folder; empty if it fails or git is not installed.

    Args:
        needed: raise an error instead of returning an empty answer.

    Raises:
        EcgforgeError: the answer is needed, and git fails; with git's message.
    """
    try:
        return _run_git(root, *arguments).strip()
    except (OSError, subprocess.CalledProcessError) as error:
        if needed:
            words = " ".join((getattr(error, "stderr", "") or str(error)).split())
            raise EcgforgeError(f"git failed in {root} ({words})") from None
        return ""


def _run_git(root: Path, *arguments: str) -> str:
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
    """Return why git does not work in the project, and what to do; empty if it works.

    Empty also if there is no repository.
    """
    root = root or checkout()
    repository = next(
        (folder for folder in (root, *root.parents) if (folder / ".git").exists()), None
    )
    try:
        _run_git(root, "rev-parse", "--git-dir")
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


def author() -> str:
    """Return the user name of git or of the operating system, or else the user's number."""
    try:
        return git(project_root(), "config", "user.name") or getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}"


def has_commit(root: Path, commit: str) -> bool:
    """Return whether the repository has a commit; only digests are passed to git.

    The name may come from a tag in MLflow, which is not trusted.
    """
    return (
        bool(re.fullmatch(r"[0-9a-f]{40,64}", commit))
        and git(root, "cat-file", "-t", commit) == "commit"
    )


def configure() -> str:
    """Set MLflow's environment variables for this process and its children.

    Return the tracking URI.

    Does not import MLflow.

    Raises:
        EcgforgeError: the database's path cannot be written as a URI, see `address`.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or SQLITE + DATABASE
    if uri.startswith(SQLITE):
        # A relative path, as passed on by `mlflow run`, would be another file in each folder.
        uri = address(project_root() / uri.removeprefix(SQLITE))
    os.environ["MLFLOW_TRACKING_URI"] = uri
    return uri


def address(database: Path) -> str:
    """Return the URI of a SQLite file.

    Raises:
        EcgforgeError: SQLAlchemy or MLflow would misread the path and use another file.
    """
    odd = _UNADDRESSABLE.search(str(database))
    if odd:
        raise EcgforgeError(
            f"the database cannot be {database}: MLflow misreads '{console.shown(odd[0])}' in "
            "its path; rename the folder, or set MLFLOW_TRACKING_URI to another file or a "
            "server"
        )
    return f"{SQLITE}{database}"


def local_database() -> Path | None:
    """Return the SQLite file of the store; None if the store is a server."""
    return _database(configure())


def is_own() -> bool:
    """Return whether the store is a SQLite file in the project, which no other project uses."""
    database = local_database()
    return database is not None and database.resolve().is_relative_to(project_root().resolve())


def initialise() -> None:
    """Create or upgrade the SQLite database, and update its addresses if the project was moved.

    Runs under a file lock, because MLflow's own creation on first use damages the database if two
    processes do it at once. A database that is up to date is recognised without importing MLflow.
    Servers need no preparation.

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
    # the file system, SQLite, SQLAlchemy and Alembic have many error classes
    except Exception as error:
        raise _unusable(database, error) from error


def adopt(database: Path) -> None:
    """Upgrade a database that another project wrote, and update its addresses to its folder."""
    if not _current(database):
        _upgrade(database, database.parent)
    home.relocate(database)


def check_project() -> None:
    """Check that there is a project, or a store to read, before a command makes a new database.

    Raises:
        EcgforgeError: there is neither.
    """
    root, database = project_root(), local_database()
    if database and not database.exists() and not (root / "params.yaml").exists():
        raise EcgforgeError(
            f"{root} has neither params.yaml nor {database.name}: run this in the project's folder"
        )


def ensure_reachable() -> None:
    """Check within seconds that the tracking store answers; call it before long work starts.

    Raises:
        EcgforgeError: it does not answer; names the URI and what to do.
    """
    uri = configure()
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    database = _database(uri)
    try:
        if database is not None:
            initialise()
        elif scheme in ("http", "https"):
            _check_health(uri)
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
            f"MLflow's tracking server at {without_password(uri)} cannot be reached "
            f"({reason}): start it, correct MLFLOW_TRACKING_URI, or unset it to keep runs in "
            f"{DATABASE}"
        ) from None


def client() -> MlflowClient:
    """Return a client of the configured store, ready for use.

    A database that was checked for the last client is not checked again.
    """
    file = _file(configure())
    _check_once(file) if file else initialise()
    from mlflow import MlflowClient, set_tracking_uri

    _quieten()
    # Parts of MLflow's registry use the process-wide store, even for calls of a client.
    set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    return MlflowClient()


def serve(port: int, experiment: str, charts: dict[str, str]) -> None:
    """Run MLflow's server and UI on 127.0.0.1 until it is stopped, and print links to the charts
    and to the registered models. If the store is a server, print the links to its UI.

    One worker without job processes is enough for one user; MLflow's default is four workers and
    eight job processes.

    Args:
        experiment: the name of the study's experiment.
        charts: title -> filter of runs, in MLflow's syntax.
    """
    uri = configure()
    check_project()
    ensure_reachable()
    if uri.startswith(("http://", "https://")):
        _print_links(without_user(uri).rstrip("/"), experiment, charts)
        return
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except OSError as error:
            raise EcgforgeError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from None
    # The links stay the last lines: notes and warnings of libraries at the start are left out.
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    _print_links(f"http://127.0.0.1:{port}", experiment, charts)
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
        "--uvicorn-opts",
        "--log-level warning",
        "--backend-store-uri",
        uri,
    ]
    code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    if code > 0:
        raise EcgforgeError(f"MLflow's server ended with exit code {code}, see above")


def _print_links(address: str, experiment: str, charts: dict[str, str]) -> None:
    found = client().get_experiment_by_name(experiment)
    check_active(found)
    for title, words in charts.items() if found else ():
        console.out.print(
            f"{title}: {address}/#/experiments/{found.experiment_id}/runs?"
            + urlencode({**TRAINING, "searchFilter": words, "compareRunsMode": "CHART"})
        )
    # The list of models ignores `TRAINING`: MLflow shows it with the menu for language models.
    console.out.print(f"Models: {address}/#/models")
    console.out.print(
        "In a chart view, `Group by` with a tag such as setting, generator or backbone shows "
        "the mean of each group."
    )


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the address of a run in the UI that `ecgforge ui` starts."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}?{urlencode(TRAINING)}"
    return f"http://127.0.0.1:{UI_PORT}/{page}"


def check_active(experiment: Any) -> None:
    """Check that an experiment, if it exists, was not deleted: no run can be added to it.

    Raises:
        EcgforgeError: it was deleted.
    """
    if experiment is not None and experiment.lifecycle_stage != "active":
        raise EcgforgeError(
            f"MLflow's experiment '{experiment.name}' was deleted: "
            f"`MLFLOW_TRACKING_URI='{without_password(configure())}' mlflow experiments restore "
            f"-x {experiment.experiment_id}` restores it"
        )


def artifact_location(experiment: str) -> str | None:
    """Return the artifact folder of a new experiment, next to the database; None for a server."""
    database = _database(configure())
    return None if database is None else str(database.parent / ARTIFACTS / experiment)


def _passing(error: BaseException) -> bool:
    # SQLite's «database is locked», and two processes that insert the same dataset at once.
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
    """Call a method of the client, and retry if other processes blocked it.

    The call must be safe to repeat.

    Raises:
        EcgforgeError: the database is damaged.
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
    """Suppress MLflow's errors with these error codes."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in codes:
            raise


def run(run_id: str) -> Any:
    """Return a run; None if MLflow no longer has it."""
    with tolerating("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return with_retry(client().get_run, run_id)
    return None


def runs(words: str = "") -> list[Any]:
    """Return the runs of all experiments that match a filter of MLflow, the newest first."""
    client()
    from mlflow import search_runs

    return with_retry(
        search_runs, search_all_experiments=True, filter_string=words, output_format="list"
    )


def log_files(run_id: str, files: Mapping[str, str | bytes]) -> None:
    """Store files as artifacts of a run.

    Args:
        files: contents by path.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            path = Path(scratch) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        with_retry(client().log_artifacts, run_id, scratch)


def read_file(run_id: str, path: str) -> bytes | None:
    """Return an artifact of a run; None if the run or the artifact does not exist."""
    if run(run_id) is None:
        return None
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as scratch:
        try:
            return Path(client().download_artifacts(run_id, path, scratch)).read_bytes()
        except (OSError, MlflowException):
            return None


def absent(uri: str) -> bool:
    """Return whether `uri` is a SQLite file that does not exist.

    MLflow would create it when asked.
    """
    database = _database(uri)
    return database is not None and not database.exists()


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


@lru_cache(maxsize=1)
def _check_once(_: tuple[Path, int, int]) -> None:
    """Prepare the database, unless the last call was for the same file."""
    initialise()


def _file(uri: str) -> tuple[Path, int, int] | None:
    """Return the path, device and inode of the SQLite file; None if there is no such file."""
    database = _database(uri)
    try:
        found = database.stat() if database else None
    except OSError:
        return None
    return (database, found.st_dev, found.st_ino) if database and found else None


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
    """Return whether `_upgrade` prepared the database for the installed MLflow."""
    _check_writable(database)
    with closing(sqlite3.connect(database, timeout=BUSY)) as connection:
        return int(
            connection.execute("PRAGMA user_version").fetchone()[0]
        ) == _stamp() and home.same_schema(connection)


def _refuse_newer(database: Path) -> None:
    """Check that the installed MLflow knows the database's schema.

    A newer MLflow may have written it.
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
            f"MLflow's database {database} was written by a newer MLflow than the installed "
            f"{version('mlflow')} (its schema is {found}): install that version, or set "
            "MLFLOW_TRACKING_URI to another file or a server"
        )


def _upgrade(database: Path, folder: Path) -> None:
    _quieten()
    mlflow_internals.create_or_upgrade(address(database), folder / ARTIFACTS)
    with closing(sqlite3.connect(database, timeout=BUSY)) as connection, connection:
        home.note(connection, folder)
        connection.execute(f"PRAGMA user_version = {_stamp()}")


def _quieten() -> None:
    """Silence loggers of errors that are raised as well, with SQL of up to a thousand lines."""
    import logging

    for logger in map(logging.getLogger, mlflow_internals.LOGGERS):
        if logger.level != logging.CRITICAL:  # setting it clears a cache of all loggers
            logger.setLevel(logging.CRITICAL)


def _check_health(uri: str) -> None:
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        urllib.request.urlopen(
            f"{uri.rstrip('/')}/health", timeout=TIMEOUT, context=context
        ).close()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # the server runs, but requires a login
            raise


def without_password(uri: str) -> str:
    """Return an address of a store for display."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def without_user(uri: str) -> str:
    """Return the address of a server without user and password, as a browser opens it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def reason(error: BaseException) -> str:
    """Return the message of an error in one line, without SQLAlchemy's statement and hints."""
    words = str(error).partition("[SQL:")[0].partition("(Background on this error")[0]
    words = re.sub(r"\(raised as a result of [^)]*\)|\([\w.]+Error\)", "", words)
    return " ".join(words.split())[:300] or type(error).__name__


def out_of_space(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, says that a disk is full."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or any(words in str(error) for words in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unusable(database: Path, error: Exception) -> EcgforgeError:
    words = reason(error)
    remedy = (
        "move it away to start a new one, or set MLFLOW_TRACKING_URI to another file or a server"
    )
    if out_of_space(error):
        remedy = "free some space and start again"
    elif "locked" in words:
        remedy = "another process is writing to it; try again when it has ended"
    elif "read-only" in words or "readonly" in words or isinstance(error, PermissionError):
        remedy = "make it writable, or set MLFLOW_TRACKING_URI to another file or a server"
    return EcgforgeError(f"MLflow's database {database} cannot be used ({words}): {remedy}")


def inside(path: str) -> bool:
    """Return whether a relative path, as written in a record or in MLflow, stays in its folder."""
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and "\0" not in path
