"""The work of a cell on a node of a cluster: a clone of the study's commit, and `ecgforge cell`.

Each node has clones of its own, one for each cell at a time, because DVC's locks recognise only
processes of the same machine. They share the node's DVC cache and stay for the next cells.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from ecgforge import folders
from ecgforge.dvc import lock
from ecgforge.pipeline import warm
from ecgforge.pipeline.engine import Ended
from ecgforge.pipeline.remote import PREEMPTED
from ecgforge.tracking import runs

CLONES = "ECGFORGE_CLONES"  # folder of the clones, if other than the user's cache folder
PASSED_ON = (  # prefixes of environment variables
    "MLFLOW_",
    "ECGFORGE_PARENT_RUN",
    folders.TUNING_STORAGE,
    folders.STATE,
    "DVC_EXP_NAME",
)
KEPT = ("/.dvc/", "/.ecgforge/")  # of a clone, from one cell to the next
LINKS = "reflink,hardlink,copy"  # from the cache to the clones
LINES = 40  # of a failed cell's output, for the user
LOOK_EVERY = 0.2  # s
COMPARED = ("dvc", "mlflow", "numpy", "optuna", "scikit-learn", "scipy", "torch")


class PreemptedError(Exception):
    """The cell was terminated before its end, and can resume on another node."""


@dataclass(frozen=True)
class Study:
    """What all cells of a study need on a node.

    Attributes:
        name: a digest of the project's folder and machine, which names the clones.
        commit: of the code and parameters.
        prefix: the project's folder in its repository; empty for the top.
        author: the user's name, for the tags of runs.
        config: DVC's local configuration, by section and key.
        environment: the variables that `PASSED_ON` selects.
        packages: versions of the packages that decide results, see `packages`.
    """

    name: str
    commit: str
    prefix: str
    author: str
    config: dict[str, dict[str, str]]
    environment: dict[str, str]
    packages: dict[str, str]


def passed_on() -> dict[str, str]:
    """Return the environment variables that cells on other machines need."""
    found = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}
    return found | (
        {folders.STATE: str(Path(found[folders.STATE]).absolute())}
        if folders.STATE in found
        else {}
    )


def packages() -> dict[str, str]:
    """Return the installed versions of the packages that decide results."""
    return {name: metadata.version(name).partition("+")[0] for name in COMPARED}


def work(
    study: Study,
    cell: str,
    entries: lock.Stages,
    bundle: Callable[[], bytes],
    node: str,
    worker: int | None = None,
) -> Ended:
    """Run a cell in a clone on this machine.

    Args:
        entries: of the cells above, from the study's dvc.lock.
        bundle: returns the commit as a git bundle; called if this machine does not have it.
        node: the name of this node.
        worker: the number of this process among those that run the trials of the cell, if it has
            trials. Only worker 0 returns an entry.

    Raises:
        PreemptedError: see there.
    """
    differing = [
        f"{name} {packages().get(name)} instead of {version}"
        for name, version in study.packages.items()
        if packages().get(name) != version
    ]
    if differing:
        return Ended(False, node, f"this node has other packages: {', '.join(differing)}")
    try:
        with clone(study, bundle) as folder:
            return _run(study, folder, cell, entries, node, worker)
    except subprocess.CalledProcessError as error:
        return Ended(False, node, f"git failed: {error.stderr or error}")


@contextmanager
def clone(study: Study, bundle: Callable[[], bytes]) -> Iterator[Path]:
    """Lock a clone of the study's commit that no other cell uses, and yield the project in it."""
    home, number = _home(study), 0
    home.mkdir(parents=True, exist_ok=True)
    while True:
        held = FileLock(home / f"{number}.lock", timeout=0)
        try:
            with held:
                folder = home / str(number)
                _check_out(study, folder, home, bundle)
                yield folder / study.prefix
                return
        except Timeout:
            number += 1


def _home(study: Study) -> Path:
    """Return the folder of a study's clones, cache and checkpoints on this machine."""
    import platformdirs

    base = os.environ.get(CLONES) or platformdirs.user_cache_path("ecgforge") / "clones"
    return Path(base) / study.name


def _check_out(study: Study, folder: Path, home: Path, bundle: Callable[[], bytes]) -> None:
    """Bring a clone to the study's commit, without files of earlier cells."""
    from configobj import ConfigObj

    if not (folder / ".git").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _git(folder, "init", "--quiet")
    if subprocess.run(
        ["git", "cat-file", "-e", f"{study.commit}^{{commit}}"], cwd=folder, capture_output=True
    ).returncode:
        with tempfile.TemporaryDirectory(dir=home) as scratch:
            (Path(scratch) / "bundle").write_bytes(bundle())
            _git(folder, "fetch", "--quiet", str(Path(scratch) / "bundle"), "HEAD")
    _git(folder, "checkout", "--quiet", "--force", "--detach", study.commit)
    _git(folder, "clean", "-ffdxq", *(f"--exclude={path}" for path in _kept(study)))
    _git(folder, "config", "user.name", study.author)
    project = folder / study.prefix
    settings = ConfigObj(encoding="utf-8")
    settings.update({"cache": {"dir": str(home / "cache"), "type": LINKS}} | study.config)
    settings.filename = str(project / ".dvc/config.local")
    settings.write()


def _kept(study: Study) -> list[str]:
    prefix = f"/{study.prefix}".rstrip("/")
    return [f"{prefix}{path}" for path in KEPT]


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)


def _run(
    study: Study, folder: Path, cell: str, entries: lock.Stages, node: str, worker: int | None
) -> Ended:
    """Run `ecgforge cell` in a clone, and read its entry."""
    home = _home(study)
    with tempfile.TemporaryDirectory() as scratch:
        above, entry = Path(scratch) / "above.yaml", Path(scratch) / "entry.yaml"
        output = Path(scratch) / "output"
        with above.open("w", encoding="utf-8") as file:
            lock.dump({"schema": "2.0", "stages": entries}, file)
        command = [sys.executable, "-m", "ecgforge", "cell", cell]
        command += ["--above", str(above), "--entry", str(entry)]
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(study, home, folder, node, worker),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = _wait(process)
        if code in (PREEMPTED, -signal.SIGTERM):
            raise PreemptedError(f"{cell} was terminated on {node}")
        words = output.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES:]
        if worker and not code:
            return Ended(True, node)
        if code or not entry.exists():
            return Ended(False, node, "\n".join([*words, f"exit code {code}"]))
        return Ended(True, node, entry=(lock.stages(entry.read_text()) or {})[cell])


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a cell, and pass an interruption on to it."""
    try:
        while process.poll() is None:
            time.sleep(LOOK_EVERY)  # an engine can interrupt this, but not a wait for the process
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait()
        raise
    return process.returncode


def _environment(
    study: Study, home: Path, folder: Path, node: str, worker: int | None
) -> dict[str, str]:
    """Return the environment of a cell: this node's, with the study's settings and code."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(PASSED_ON)}
    own.pop(warm.ADDRESS, None)
    paths = [str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    binaries = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return {
        **own,
        folders.STATE: str(home / "state"),
        **study.environment,
        runs.NODE: node,
        **({} if worker is None else {folders.WORKER: str(worker)}),
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join(binaries),
    }
