"""Runs: a cell of the study is one MLflow run, however often it is started, killed, resumed or
repeated.

The run of a cell is found by its fingerprint, a digest of what decides its result. Curves are
buffered and sent in batches; points that were sent before are not sent again, and points that a
killed process still held are kept beside its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from filelock import FileLock, Timeout

from ecgforge.errors import EcgforgeError, PrunedError
from ecgforge.files import atomic_write
from ecgforge.tracking import store
from ecgforge.tracking.store import git, reason, with_retry

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

logger = logging.getLogger(__name__)

Point = tuple[str, float, int, int]  # key, value, step, ms since 1970

EXPERIMENT = "ecgforge"
TUNING = "ecgforge-tuning"  # an experiment of its own, since trials would bury the study's runs
CELL = "ecgforge.cell"
NO_SWEEP = "none"
CHARTS = {  # what they compare, and a filter of runs
    "Settings": (
        f"tags.kind = 'classifier' and tags.sweep = '{NO_SWEEP}' and tags.augmented = 'false'"
    ),
    "Generators": "tags.kind = 'generator'",
    "Quality": "tags.kind = 'quality'",
}
# before a record set's name: its digest, and the weights of its generator
INPUT, DRAWN_BY = "input.", "drawn_by."
REASON = "ecgforge.reason"
WAS_KILLED = "its process was killed"
THREADS = "system.threads"
# a file for each run, which its process holds locked; what a killed process leaves is not locked
AT_WORK = Path(".ecgforge/running")
BEST = "best"  # tag of a study's best trial
PARENT = "ECGFORGE_PARENT_RUN"
PARAM_LENGTH = 6000  # characters that MLflow keeps of a parameter
BATCH = 1000  # metrics that MLflow takes at once
PARAMS_BATCH = 100
SEND_EVERY = 10.0  # s
SHARE = 0.02  # of the time of a run that sending its curves may take


@dataclass(frozen=True)
class Cell:
    """One point of the study's grid.

    Attributes:
        kind: what is trained, or whose quality is measured; or a study of tuning, or a trial of
            one, whose number is `point`.
        dataset: what it is trained or tested on: `ptbxl`, `chapman`, `merged`.
        seed: of the training.
        simulated: whether the records, or those that a generator learned from, are simulated.
        generator: None where no synthetic record is used.
        setting, backbone: of classifiers.
        sweep, point: the comparison that a classifier belongs to, and where in it.
        augmented, fold, draw: of classifiers, see `study.experiment`.
    """

    kind: Literal["generator", "classifier", "quality", "tuning", "trial"]
    dataset: str
    seed: int
    simulated: bool
    generator: str | None = None
    setting: str | None = None
    backbone: str | None = None
    sweep: str | None = None
    point: str | None = None
    augmented: bool = False
    fold: int = 0
    draw: int = 0

    @property
    def name(self) -> str:
        """The run's name, for people who read lists of them."""
        if self.kind == "generator":
            return f"{self.generator} on {self.dataset}, seed {self.seed}"
        if self.kind == "quality":
            return f"quality of {self.generator} on {self.dataset}"
        if self.kind in ("tuning", "trial"):
            which = f"trial {self.point}" if self.kind == "trial" else "tuning"
            return f"{which}: {self.generator or self.backbone} on {self.dataset}"
        data = f"{self.dataset}/{self.generator}" if self.generator else self.dataset
        place = (
            ", " + " ".join(part for part in (self.sweep, self.point) if part) if self.sweep else ""
        )
        augmented = ", augmented" if self.augmented else ""
        return f"{self.setting} {data} {self.backbone} seed {self.seed}{place}{augmented}"

    @property
    def model_name(self) -> str:
        """The registered model that versions of this cell belong to."""
        return (
            f"ecg-generator-{self.generator}-{self.dataset}"
            if self.kind == "generator"
            else f"ecg-classifier-{self.dataset}"
        )

    @property
    def tags(self) -> dict[str, str]:
        given = {
            "kind": self.kind,
            "dataset": self.dataset,
            "generator": self.generator,
            "setting": self.setting,
            "backbone": self.backbone,
            # MLflow's filters know equal and unequal, and not absent.
            "sweep": self.sweep or (NO_SWEEP if self.kind == "classifier" else None),
            "point": self.point,
            "seed": str(self.seed),
            "simulated": str(self.simulated).lower(),
        }
        if self.kind == "classifier":
            given |= {
                "augmented": str(self.augmented).lower(),
                "fold": str(self.fold),
                "draw": str(self.draw),
            }
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class DatasetInput:
    """A record set that goes into a run.

    Attributes:
        name: as people will search for it, such as `merged` or `merged/diffwave`.
        path: where it lies.
        digest: DVC's md5, see `ecgforge.files.md5`.
        context: what it is used for: `training`, `validation`, `test`.
        origin: `real`, `simulated`, or the name of the generator.
        drawn_by: md5 of the weights of the generator that drew it; empty for records that none
            drew.
    """

    name: str
    path: Path
    digest: str
    context: str
    origin: str
    drawn_by: str = ""


def fingerprint(
    cell: Cell, params: dict[str, Any], inputs: Mapping[str, str], code: Mapping[str, str]
) -> str:
    """Return the digest of all that decides a run's result.

    Args:
        params: resolved parameters, as JSON has them; their order does not matter.
        inputs: md5 of each input by name.
        code: digests of source files by name.
    """
    tree = {"cell": cell.tags, "params": params, "inputs": dict(inputs), "code": dict(code)}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]


class Run:
    """An open run; get one from `tracked`.

    Attributes:
        id: MLflow's.
        name: the cell's.
        experiment_id: where it is.
        fingerprint: see `fingerprint`.
        provenance: tags that say where the run's results come from; its model versions carry them
            too.
    """

    def __init__(
        self,
        client: MlflowClient,
        run: Any,
        fingerprint: str,
        provenance: dict[str, str],
        resume_file: Path | None,
    ) -> None:
        self.id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.experiment_id: str = run.info.experiment_id
        self.fingerprint = fingerprint
        self.provenance = provenance
        self.client = client
        self._metrics: dict[str, float] = dict(run.data.metrics)
        self._had_reason = REASON in run.data.tags
        self._last_steps: dict[str, int] = {}
        self._points: list[Metric] = []
        self._sent_at = time.monotonic()
        self._wait = SEND_EVERY
        self._unsent = _Unsent(resume_file, fingerprint) if resume_file else None
        if self._unsent:
            for key, value, step, timestamp in self._unsent.read():
                self._add(key, value, step, timestamp)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add a point to each curve.

        A key's steps must rise: what was logged at a step, by this process or an earlier one that
        worked on the same run, stays.
        """
        now = int(time.time() * 1000)
        points = [(key, float(value), step, now) for key, value in metrics.items()]
        added = [point for point in points if self._add(*point)]
        if self._unsent and added:
            self._unsent.append(added)
        if time.monotonic() - self._sent_at >= self._wait:
            try:
                self.flush()
            except Exception as error:
                # The points stay in the buffer; a server that restarts must not cost hours of
                # training.
                logger.warning(
                    "curves could not be sent to MLflow, will try again: %s", reason(error)
                )

    def _add(self, key: str, value: float, step: int, timestamp: int) -> bool:
        if key not in self._last_steps:
            known = key in self._metrics
            history = with_retry(self.client.get_metric_history, self.id, key) if known else []
            self._last_steps[key] = max((point.step for point in history), default=-1)
        if step <= self._last_steps[key]:
            return False
        from mlflow.entities import Metric

        self._last_steps[key] = step
        self._points.append(Metric(key, value, timestamp, step))
        return True

    def flush(self) -> None:
        """Send the buffered points, and put off the next time until sending stays below its share
        of the run's time.
        """
        started = time.monotonic()
        try:
            while self._points:
                with_retry(self.client.log_batch, self.id, metrics=self._points[:BATCH])
                del self._points[:BATCH]
            if self._unsent:
                self._unsent.clear()
        finally:
            self._sent_at = time.monotonic()
            self._wait = max(SEND_EVERY, (self._sent_at - started) / SHARE)

    def summary(self, metrics: dict[str, float]) -> None:
        """Log final figures; those that the run has already, with the same value, stay as they are.

        No key of a curve.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        changed = {
            key: float(value)
            for key, value in metrics.items()
            if repr(float(value)) != repr(self._metrics.get(key))
        }
        if changed:
            with_retry(
                self.client.log_batch,
                self.id,
                metrics=[Metric(key, value, now, 0) for key, value in changed.items()],
            )
        self._metrics |= changed

    def tag(self, key: str, value: str) -> None:
        with_retry(self.client.set_tag, self.id, key, value)

    def text(self, text: str, file: str) -> None:
        """Keep `text` as the artifact `file`."""
        with_retry(self.client.log_text, self.id, text, file)

    def figure(self, figure: Figure, file: str) -> None:
        """Keep a matplotlib figure as the artifact `file`; its ending says in which format."""
        with_retry(self.client.log_figure, self.id, figure, file)

    def mark_best(self, fingerprint: str) -> None:
        """Tag the one of this run's children that has this fingerprint as the best of them, and no
        other.
        """
        children = f"tags.`mlflow.parentRunId` = '{self.id}'"
        for before in with_retry(
            self.client.search_runs, [self.experiment_id], f"{children} and tags.`{BEST}` = 'true'"
        ):
            with_retry(self.client.delete_tag, before.info.run_id, BEST)
        for found in with_retry(
            self.client.search_runs,
            [self.experiment_id],
            f"{children} and tags.`{CELL}` = '{fingerprint}'",
        ):
            with_retry(self.client.set_tag, found.info.run_id, BEST, "true")

    def _start(self, params: dict[str, Any], inputs: list[DatasetInput]) -> None:
        from mlflow.entities import Param

        known = with_retry(self.client.get_run, self.id).data.params
        new = [Param(key, value) for key, value in flatten(params).items() if key not in known]
        with_retry(self.client.update_run, self.id, status="RUNNING")
        with_retry(self.client.log_batch, self.id, tags=_tags(self.provenance))
        for start in range(0, len(new), PARAMS_BATCH):
            with_retry(self.client.log_batch, self.id, params=new[start : start + PARAMS_BATCH])
        self.text(json.dumps(params, indent=2, sort_keys=True) + "\n", "params.json")
        with_retry(
            self.client.log_inputs,
            self.id,
            [_entity(uses, self.provenance) for uses in _by_content(inputs)],
        )

    def _end(self, status: str, reason: str | None) -> None:
        self.flush()
        with_retry(
            self.client.log_batch,
            self.id,
            tags=_tags(_system() | ({REASON: reason} if reason else {})),
        )
        if self._had_reason and not reason:
            with_retry(self.client.delete_tag, self.id, REASON)
        with_retry(self.client.set_terminated, self.id, status)
        if self._unsent:
            self._unsent.remove()


@contextmanager
def tracked(
    cell: Cell,
    *,
    fingerprint: str,
    params: dict[str, Any],
    inputs: list[DatasetInput],
    resume_file: Path | None = None,
    parent: str | None = None,
) -> Iterator[Run]:
    """Open the run of a cell, a new one or the one it has, and end it as the block ends:

    FINISHED, FAILED or KILLED.

    Under `mlflow run`, the project's run becomes the parent, so that any number of stages can have
    runs of their own.

    Args:
        fingerprint: see `fingerprint`; a run that has it, whatever its state, is taken up again.
        params: resolved parameters, a tree; logged flat, with dots.
        inputs: the record sets that go in.
        resume_file: keeps points of curves until they are sent. Put it where checkpoints are, and
            what a killed process did before its last checkpoint will be complete.
        parent: the run that this one is a part of.

    Raises:
        EcgforgeError: the tracking store cannot be reached, before the block is entered or when it
            ends.
    """
    problem = store.git_problem()
    if problem:
        raise EcgforgeError(f"runs would be recorded without their commit: {problem}")
    store.ensure_reachable()
    client = store.client()
    end_killed()
    provenance = {
        **cell.tags,
        **_origin(),
        **{f"{INPUT}{item.name}": item.digest for item in inputs},
        CELL: fingerprint,
    }
    provenance |= {f"{DRAWN_BY}{item.name}": item.drawn_by for item in inputs if item.drawn_by}
    with ExitStack() as stack:
        try:
            found = _find_or_create(client, cell, fingerprint, parent)
            stack.enter_context(_at_work(found.info.run_id))
            run = Run(client, found, fingerprint, provenance, resume_file)
            run._start(params, inputs)
        except (KeyboardInterrupt, SystemExit, EcgforgeError):
            raise
        except Exception as error:
            raise EcgforgeError(
                f"MLflow refused the run '{cell.name}' ({reason(error)}); nothing was started"
            ) from error
        with _ended(run):
            yield run


@contextmanager
def _ended(run: Run) -> Iterator[None]:
    """End the run as the block ends."""
    from mlflow.exceptions import MlflowException

    try:
        with _terminable():
            yield
    except BaseException as error:
        status, words = _ending(error)
        try:
            run._end(status, words)
        except Exception as second:
            if not store.out_of_space(error):  # that is said below
                logger.warning(
                    "the run '%s' could not be ended in MLflow: %s", run.name, reason(second)
                )
        if store.out_of_space(error):
            raise EcgforgeError(
                f"no space is left on the disk ({reason(error)}): make room and run the stage again"
            ) from error
        if isinstance(error, MlflowException):
            raise EcgforgeError(
                f"MLflow failed during the run '{run.name}' ({reason(error)}): run the stage again"
            ) from error
        raise
    try:
        run._end("FINISHED", None)
    except Exception as error:
        raise EcgforgeError(
            f"MLflow could not be sent the end of the run '{run.name}' ({reason(error)}): run the "
            "stage again"
        ) from error


@contextmanager
def _at_work(run_id: str) -> Iterator[None]:
    """Hold the file locked that says that a process works on a run, as long as the block lasts."""
    mark = _mark(run_id)
    with ExitStack() as held:
        with suppress(Timeout):  # another process works on the same run
            held.enter_context(FileLock(mark, timeout=0))
            held.callback(mark.unlink, missing_ok=True)
        yield


def _mark(run_id: str) -> Path:
    mark = store.project_root() / AT_WORK / run_id
    mark.parent.mkdir(parents=True, exist_ok=True)
    return mark


def at_work(run_id: str) -> bool:
    """Whether a process of this project works on a run."""
    mark = _mark(run_id)
    if not mark.exists():
        return False
    try:
        with FileLock(mark, timeout=0):
            return False
    except Timeout:
        return True


def end_killed(run_ids: Iterable[str] = ()) -> None:
    """End runs whose process was killed outright as KILLED: those that such processes have left a
    file of, and others by their ids.

    Where a stage's results come from DVC's cache the next time, nothing else would end its run.
    Else the stage takes it up again.
    """
    for run_id in {*run_ids, *(mark.name for mark in (store.project_root() / AT_WORK).glob("*"))}:
        mark = _mark(run_id)
        with suppress(Timeout), FileLock(mark, timeout=0):
            found = store.run(run_id)
            if found and found.info.status == "RUNNING":
                with_retry(store.client().log_batch, run_id, tags=_tags({REASON: WAS_KILLED}))
                with_retry(store.client().set_terminated, run_id, "KILLED")
            mark.unlink(missing_ok=True)


def end_lost(fingerprint: str, reason: str) -> None:
    """End the run of a trial that no process will take up again, FAILED and with the reason; one
    that has ended stays as it is.
    """
    client = store.client()
    for found in with_retry(
        client.search_runs, [_experiment(client, TUNING)], f"tags.`{CELL}` = '{fingerprint}'"
    ):
        if found.info.status != "RUNNING" and found.data.tags.get(REASON) != WAS_KILLED:
            continue
        with_retry(client.log_batch, found.info.run_id, tags=_tags({REASON: reason}))
        with_retry(client.set_terminated, found.info.run_id, "FAILED")


def _find_or_create(client: MlflowClient, cell: Cell, fingerprint: str, parent: str | None) -> Any:
    experiment, others = (
        _experiments(client)
        if cell.kind not in ("tuning", "trial")
        else (_experiment(client, TUNING), [])
    )
    # A run whose process was killed outright is still RUNNING here; only its cell can start it
    # again.
    found = with_retry(
        client.search_runs, [experiment, *others], f"tags.`{CELL}` = '{fingerprint}'", max_results=1
    )
    parent = _parent() if parent is None else parent
    tags = {"mlflow.parentRunId": parent} if parent else {}
    if not found:
        return client.create_run(experiment, tags={CELL: fingerprint, **tags}, run_name=cell.name)
    with_retry(client.log_batch, found[0].info.run_id, tags=_tags(tags))
    return found[0]


def _parent() -> str | None:
    """Take the run that `mlflow run` opened as parent: inherited as it is, it would be one run for
    all stages.
    """
    if "MLFLOW_RUN_ID" in os.environ:
        os.environ[PARENT] = os.environ.pop("MLFLOW_RUN_ID")
    return os.environ.get(PARENT)


def _experiments(client: MlflowClient) -> tuple[str, list[str]]:
    """Return the experiment that new runs go to, and others in which the cell's run may be."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = with_retry(client.get_experiment_by_name, name)
    given = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if given:
        store.check_active(with_retry(client.get_experiment, given))
        return given, [found.experiment_id] if found and found.experiment_id != given else []
    return _experiment(client, name), []


def _experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, which is made if it is not there."""
    found = with_retry(client.get_experiment_by_name, name)
    store.check_active(found)
    if found:
        return found.experiment_id
    with store.tolerating("RESOURCE_ALREADY_EXISTS"):
        # Without it MLflow's UI guesses, and opens on a page for language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return client.create_experiment(name, store.artifact_location(name), tags)
    return client.get_experiment_by_name(name).experiment_id


def _origin() -> dict[str, str]:
    """Tags for the commit and the DVC stage and experiment that this process works for; none where
    there are none.
    """
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": os.environ.get("DVC_STAGE", "ecgforge"),
    }
    commit = git(Path.cwd(), "rev-parse", "HEAD")
    if commit:
        tags |= {
            "git.commit": commit,
            "git.dirty": str(uncommitted()).lower(),
            "mlflow.source.git.commit": commit,
        }
    dvc = {"dvc.stage": os.environ.get("DVC_STAGE"), "dvc.exp": os.environ.get("DVC_EXP_NAME")}
    return tags | {key: value for key, value in dvc.items() if value}


def uncommitted() -> bool:
    """Say whether anything of the project but parameters differs from the commit; it may be a
    folder of a larger repository.

    DVC writes dvc.lock between stages, and has the values in params.yaml that a stage depends on in
    its record there, as it has the digests of its data: `reproduce` puts both back.
    """
    return bool(
        git(
            store.checkout(),
            "status",
            "--porcelain",
            "--",
            ".",
            ":(exclude)dvc.lock",
            ":(exclude)params.yaml",
        )
    )


def _system() -> dict[str, str]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    device = "cuda" if torch.cuda.is_initialized() else "cpu"
    return {
        "system.torch": torch.__version__,
        "system.device": device,
        THREADS: str(torch.get_num_threads()),
    }


def flatten(params: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a tree of parameters as dotted keys and texts.

    Where MLflow would cut a value, it ends in its md5 instead, so that values that differ look
    different; params.json, an artifact of the run, holds it whole.
    """
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        if len(text) > PARAM_LENGTH:
            ending = f"... (md5 {hashlib.md5(text.encode()).hexdigest()})"
            text = text[: PARAM_LENGTH - len(ending)] + ending
        flat[f"{prefix}{key}"] = text
    return flat


def _tags(tags: dict[str, str]) -> list[RunTag]:
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in tags.items()]


def _by_content(inputs: list[DatasetInput]) -> list[list[DatasetInput]]:
    """Group uses of the same record set: of inputs with one name and digest, MLflow keeps the first
    alone.
    """
    groups: dict[tuple[str, str], list[DatasetInput]] = {}
    for item in inputs:
        groups.setdefault((item.name, item.digest), []).append(item)
    return list(groups.values())


def _entity(uses: list[DatasetInput], provenance: dict[str, str]) -> Any:
    import mlflow.entities

    from ecgforge.tracking.datasets import SOURCE_TYPE, DvcSource

    item = uses[0]
    path, root = Path(item.path).absolute(), store.project_root()
    relative = path.relative_to(root) if path.is_relative_to(root) else path
    source = DvcSource(relative.as_posix(), item.digest, provenance.get("git.commit", ""))
    dataset = mlflow.entities.Dataset(item.name, item.digest, SOURCE_TYPE, source.to_json())
    contexts = ", ".join(dict.fromkeys(use.context for use in uses))
    tags = {"mlflow.data.context": contexts, "origin": item.origin}
    return mlflow.entities.DatasetInput(
        dataset, [mlflow.entities.InputTag(key, value) for key, value in tags.items()]
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the block, so that its run can be ended; only the main thread hears
    signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _ending(error: BaseException) -> tuple[str, str]:
    if isinstance(error, KeyboardInterrupt):
        return "KILLED", "interrupted"
    if isinstance(error, SystemExit):
        return "KILLED", f"terminated, exit code {error.code}"
    if isinstance(error, PrunedError):
        return "KILLED", f"pruned, {reason(error)}"
    return "FAILED", reason(error) if isinstance(
        error, EcgforgeError
    ) else f"{type(error).__name__}: {reason(error)}"


class _Unsent:
    """Points that were logged and not yet sent, in a file, since a killed process takes its buffer
    with it.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._identity = path, fingerprint

    def read(self) -> list[Point]:
        """Return what an earlier process of the same cell left, and leave a file that holds just
        that.
        """
        lines = self._path.read_text().split("\n") if self._path.exists() else []
        # A process that is killed while it writes leaves a torn last line.
        kept = lines[1:-1] if lines and lines[0] == self._identity else []
        with atomic_write(self._path) as scratch:
            scratch.write_text("\n".join([self._identity, *kept, ""]))
        return [tuple(json.loads(line)) for line in kept]

    def append(self, points: list[Point]) -> None:
        with self._path.open("a") as file:
            file.write("".join(json.dumps(point) + "\n" for point in points))

    def clear(self) -> None:
        self._path.write_text(self._identity + "\n")

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
