"""Tracked runs: one MLflow run for each fingerprint, even if it is killed, resumed or repeated.

A fingerprint is a digest of all that decides a run's result. Points of curves are buffered and sent
in batches, each point once. Buffered points are also written next to the checkpoint, so that a
killed process does not lose them.

A machine that seems to be dead can come back after another one has taken up its run. So each
process that opens a run tags it with its attempt, and stops when the tag names a later one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from filelock import FileLock, Timeout

from ecgforge import rounds
from ecgforge.errors import EcgforgeError, PrunedError, SupersededError
from ecgforge.files import atomic_write
from ecgforge.tracking import mlflow_internals, store
from ecgforge.tracking.store import git, reason, with_retry

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

logger = logging.getLogger(__name__)

Point = tuple[str, float, int, int]  # key, value, step, ms since 1970

EXPERIMENT = "ecgforge"
TUNING = "ecgforge-tuning"  # a separate experiment, as trials would outnumber the study's runs
FINGERPRINT = "ecgforge.fingerprint"
NO_SWEEP = "none"
CHARTS = {  # title -> filter of runs
    "Settings": (
        f"tags.kind = 'classifier' and tags.sweep = '{NO_SWEEP}' and tags.augmented = 'false'"
    ),
    "Generators": "tags.kind = 'generator'",
    "Quality": "tags.kind = 'quality'",
}
# prefixes of a record set's name: its digest, and the weights of its generator
INPUT, GENERATED_BY = "input.", "generated_by."
REASON = "ecgforge.reason"
# number, node and process of the latest process that opened a run, such as 2:node-a:123
ATTEMPT = "ecgforge.attempt"
NODE = "ECGFORGE_NODE"  # the name of this machine, if it is not its host name
WAS_KILLED = "its process was killed"
THREADS, GPU = "system.threads", "system.gpu"
# one lock file per run, locked by its process; the operating system unlocks it if the process dies
AT_WORK = Path(".ecgforge/running")
BEST = "best"  # tag of a study's best trial
PARENT = "ECGFORGE_PARENT_RUN"
PARAM_LENGTH = 6000  # largest length of a parameter in MLflow, in characters
BATCH = 1000  # largest number of metrics in one request
PARAMS_BATCH = 100
SEND_EVERY = 10.0  # s, shortest interval between two requests
MONITOR_AFTER, MONITOR_EVERY = 60.0, 30.0  # s, of a training, until the use of CPU is recorded
SHARE = 0.02  # largest share of a run's time for sending curves


@dataclass(frozen=True)
class RunKey:
    """One point of the study's grid, or a trial of tuning.

    Attributes:
        kind: `generator`, `classifier`, `quality`, `answers`, or a tuning study or trial; the
            number of a trial is its `point`. `sweeps` contains the runs of the sweeps of a dataset
            and generator.
        dataset: that trains or tests it: `ptbxl`, `chapman`, `merged`, or a round of one; all
            datasets, separated by commas, for the answers.
        seed: of the training.
        simulated: whether the records, or the training records of their generator, are simulated.
        generator: None if no synthetic records are used.
        setting, backbone: of classifiers.
        sweep, point: the sweep of a classifier, and its point in it.
        augmented, draw: of classifiers, see `study.experiment`.
    """

    kind: Literal["generator", "classifier", "quality", "answers", "tuning", "trial", "sweeps"]
    dataset: str
    seed: int
    simulated: bool
    generator: str | None = None
    setting: str | None = None
    backbone: str | None = None
    sweep: str | None = None
    point: str | None = None
    augmented: bool = False
    draw: int = 0

    @property
    def fold(self) -> int:
        """The round of cross-fitting; 0 for the dataset's own split."""
        found = rounds.parse(self.dataset)
        return found.number if found else 0

    @property
    def name(self) -> str:
        """The name of the run, for display."""
        place = (
            ", " + " ".join(part for part in (self.sweep, self.point) if part) if self.sweep else ""
        )
        if self.kind == "generator":
            return f"{self.generator} on {self.dataset}, seed {self.seed}{place}"
        if self.kind == "answers":
            return self.kind
        if self.kind == "sweeps":
            return f"sweeps of {self.generator or 'real records'} on {self.dataset}"
        if self.kind == "quality":
            return f"quality of {self.generator} on {self.dataset}"
        if self.kind in ("tuning", "trial"):
            which = f"trial {self.point}" if self.kind == "trial" else "tuning"
            return f"{which}: {self.generator or self.backbone} on {self.dataset}"
        data = f"{self.dataset}/{self.generator}" if self.generator else self.dataset
        augmented = ", augmented" if self.augmented else ""
        return f"{self.setting} {data} {self.backbone} seed {self.seed}{place}{augmented}"

    @property
    def model_name(self) -> str:
        """The registered model of this run's versions."""
        return (
            f"ecg-generator-{self.generator}-{self.dataset}"
            if self.kind == "generator"
            else f"ecg-classifier-{self.dataset}"
        )

    @property
    def tags(self) -> dict[str, str]:
        given = {
            "kind": self.kind,
            "dataset": rounds.base(self.dataset),
            "generator": self.generator,
            "setting": self.setting,
            "backbone": self.backbone,
            # MLflow's filters cannot test for an absent tag.
            "sweep": self.sweep or (NO_SWEEP if self.kind == "classifier" else None),
            "point": self.point,
            "seed": str(self.seed) if self.kind != "sweeps" else None,
            "simulated": str(self.simulated).lower(),
        }
        if self.fold or self.kind == "classifier":
            given["fold"] = str(self.fold)
        if self.kind == "classifier":
            given |= {"augmented": str(self.augmented).lower(), "draw": str(self.draw)}
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class DatasetInput:
    """A record set that a run uses.

    Attributes:
        name: for searches, such as `merged` or `merged/diffwave`.
        path: in the project.
        digest: DVC's md5, see `ecgforge.files.md5`.
        context: its use: `training`, `validation`, `test`.
        origin: `real`, `simulated`, or the name of the generator.
        generated_by: md5 of the generator's weights; empty for records without a generator.
    """

    name: str
    path: Path
    digest: str
    context: str
    origin: str
    generated_by: str = ""


def fingerprint(
    key: RunKey, params: dict[str, Any], inputs: Mapping[str, str], code: Mapping[str, str]
) -> str:
    """Return the digest of all that decides a run's result.

    Args:
        params: resolved parameters, JSON-serialisable; their order does not matter.
        inputs: md5 of each input by name.
        code: digests of source files by name.
    """
    tree = {"run": key.tags, "params": params, "inputs": dict(inputs), "code": dict(code)}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]


class Run:
    """An open run, from `tracked`.

    Attributes:
        id: MLflow's run id.
        name: as in `RunKey.name`.
        experiment_id: MLflow's id of its experiment.
        fingerprint: see `fingerprint`.
        provenance: tags with the origin of the run's results; its model versions get them too.
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
        self._attempt = _next_attempt(run.data.tags.get(ATTEMPT, ""))
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

        The steps of a key must rise. A step that this run has logged before, in any process, is
        ignored.
        """
        now = int(time.time() * 1000)
        points = [(key, float(value), step, now) for key, value in metrics.items()]
        added = [point for point in points if self._add(*point)]
        if self._unsent and added:
            self._unsent.append(added)
        if time.monotonic() - self._sent_at >= self._wait:
            try:
                self.flush()
            except SupersededError:
                raise
            except Exception as error:
                # The points stay in the buffer: the restart of a server must not abort a training
                # of hours.
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
        """Send the buffered points, and set the waiting time until the next request.

        It keeps the share of the time that requests take below `SHARE`.
        """
        started = time.monotonic()
        self.check_attempt()
        try:
            while self._points:
                with_retry(self.client.log_batch, self.id, metrics=self._points[:BATCH])
                del self._points[:BATCH]
            if self._unsent:
                self._unsent.clear()
        finally:
            self._sent_at = time.monotonic()
            self._wait = max(SEND_EVERY, (self._sent_at - started) / SHARE)

    def check_attempt(self) -> None:
        """Check that no other process has taken up this run; call it before results are written.

        Raises:
            SupersededError: another one has.
        """
        latest = with_retry(self.client.get_run, self.id).data.tags.get(ATTEMPT)
        if latest != self._attempt:
            raise SupersededError(
                f"another process has taken up the run '{self.name}' ({latest}): this one stops"
            )

    def summary(self, metrics: dict[str, float]) -> None:
        """Log final metrics; values that the run already has are not sent again.

        The keys must differ from those of curves.
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
        """Store `text` as the artifact `file`."""
        with_retry(self.client.log_text, self.id, text, file)

    def files(self, files: Mapping[str, str | bytes]) -> None:
        """Store files as artifacts, contents by path."""
        store.log_files(self.id, files)

    def figure(self, figure: Figure, file: str) -> None:
        """Store a matplotlib figure as the artifact `file`; its suffix selects the format."""
        with_retry(self.client.log_figure, self.id, figure, file)

    def mark_best(self, fingerprint: str) -> None:
        """Tag the child run with this fingerprint as the best one, and no other child."""
        children = f"tags.`mlflow.parentRunId` = '{self.id}'"
        for before in with_retry(
            self.client.search_runs, [self.experiment_id], f"{children} and tags.`{BEST}` = 'true'"
        ):
            with_retry(self.client.delete_tag, before.info.run_id, BEST)
        for found in with_retry(
            self.client.search_runs,
            [self.experiment_id],
            f"{children} and tags.`{FINGERPRINT}` = '{fingerprint}'",
        ):
            with_retry(self.client.set_tag, found.info.run_id, BEST, "true")

    def _start(self, params: dict[str, Any], inputs: list[DatasetInput]) -> None:
        from mlflow.entities import Param

        known = with_retry(self.client.get_run, self.id).data.params
        new = [Param(key, value) for key, value in flatten(params).items() if key not in known]
        with_retry(self.client.update_run, self.id, status="RUNNING")
        tags = self.provenance | {ATTEMPT: self._attempt}
        with_retry(self.client.log_batch, self.id, tags=_tags(tags))
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
    key: RunKey,
    *,
    fingerprint: str,
    params: dict[str, Any],
    inputs: list[DatasetInput],
    resume_file: Path | None = None,
    parent: str | None = None,
) -> Iterator[Run]:
    """Open the run with a fingerprint, new or existing, and end it with the block.

    The run ends as FINISHED, FAILED or KILLED. Under `mlflow run`, the project's run becomes the
    parent, so that several stages can have their own runs.

    Args:
        fingerprint: see `fingerprint`; an existing run with it is resumed, in any state.
        params: tree of resolved parameters; logged with dotted keys.
        inputs: the record sets that the run uses.
        resume_file: stores points of curves until they are sent. In the folder of the checkpoints,
            it keeps the curves complete up to the last checkpoint of a killed process.
        parent: the run that contains this one.

    Raises:
        EcgforgeError: the tracking store cannot be reached, before the block or at its end.
    """
    problem = store.git_problem()
    if problem:
        raise EcgforgeError(f"the commit of runs cannot be recorded: {problem}")
    store.ensure_reachable()
    client = store.client()
    end_killed()
    provenance = {
        **key.tags,
        **_origin(),
        **{f"{INPUT}{item.name}": item.digest for item in inputs},
        FINGERPRINT: fingerprint,
    }
    provenance |= {
        f"{GENERATED_BY}{item.name}": item.generated_by for item in inputs if item.generated_by
    }
    with ExitStack() as stack:
        try:
            found = _find_or_create(client, key, fingerprint, parent)
            stack.enter_context(_at_work(found.info.run_id))
            run = Run(client, found, fingerprint, provenance, resume_file)
            run._start(params, inputs)
        except (KeyboardInterrupt, SystemExit, EcgforgeError):
            raise
        except Exception as error:
            raise EcgforgeError(
                f"MLflow refused the run '{key.name}' ({reason(error)}); nothing was started"
            ) from error
        with _ended(run), _monitored(run, key.kind):
            yield run


@contextmanager
def _monitored(run: Run, kind: str) -> Iterator[None]:
    """Have MLflow record the use of CPU, memory and GPU during the block, if it is a long training.

    Short trainings, as in the demo, start no thread of the monitor.
    """
    if kind not in ("generator", "classifier"):
        yield
        return
    monitors = []

    def start() -> None:
        monitor = mlflow_internals.monitor(run.id, MONITOR_EVERY)
        monitor.start()
        monitors.append(monitor)

    timer = threading.Timer(MONITOR_AFTER, start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for monitor in monitors:
            monitor.finish()


@contextmanager
def _ended(run: Run) -> Iterator[None]:
    """End the run with the block."""
    from mlflow.exceptions import MlflowException

    try:
        with _terminable():
            yield
    except BaseException as error:
        status, words = _ending(error)
        try:
            if not isinstance(error, SupersededError):
                run._end(status, words)
        except Exception as second:
            if not store.out_of_space(error):  # reported below
                logger.warning(
                    "the run '%s' could not be ended in MLflow: %s", run.name, reason(second)
                )
        if store.out_of_space(error):
            raise EcgforgeError(
                f"no space is left on the disk ({reason(error)}): free some space and run the "
                "stage again"
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
            f"the end of the run '{run.name}' could not be sent to MLflow ({reason(error)}): "
            "run the stage again"
        ) from error


@contextmanager
def _at_work(run_id: str) -> Iterator[None]:
    """Lock the run's file during the block, which shows that a process works on the run."""
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
    """Return whether a process of this project works on a run."""
    mark = _mark(run_id)
    if not mark.exists():
        return False
    try:
        with FileLock(mark, timeout=0):
            return False
    except Timeout:
        return True


def end_killed(run_ids: Iterable[str] = ()) -> None:
    """Set runs whose process was killed to KILLED.

    These are the runs with an unlocked file of a killed process, and those in `run_ids`. Such a run
    stays RUNNING if DVC takes the stage's results from its cache; otherwise the stage resumes it.
    """
    for run_id in {*run_ids, *(mark.name for mark in (store.project_root() / AT_WORK).glob("*"))}:
        mark = _mark(run_id)
        with suppress(Timeout), FileLock(mark, timeout=0):
            found = store.run(run_id)
            if found and found.info.status == "RUNNING" and not _elsewhere(found.data.tags):
                with_retry(store.client().log_batch, run_id, tags=_tags({REASON: WAS_KILLED}))
                with_retry(store.client().set_terminated, run_id, "KILLED")
            mark.unlink(missing_ok=True)


def _next_attempt(before: str) -> str:
    """Return the `ATTEMPT` of this process, after that of an earlier one or ""."""
    number = before.partition(":")[0]
    return f"{int(number) + 1 if number.isdigit() else 1}:{node_name()}:{os.getpid()}"


def node_name() -> str:
    """Return the name of this machine, or of this node of a cluster."""
    return os.environ.get(NODE) or platform.node()


def _elsewhere(tags: Mapping[str, str]) -> bool:
    """Return whether another machine has taken up a run."""
    return ATTEMPT in tags and tags[ATTEMPT].partition(":")[2].rpartition(":")[0] != node_name()


def end_lost(fingerprint: str, reason: str) -> None:
    """Set the run of a trial that no process resumes to FAILED, with the reason.

    A run that has ended does not change.
    """
    client = store.client()
    for found in with_retry(
        client.search_runs, [_experiment(client, TUNING)], f"tags.`{FINGERPRINT}` = '{fingerprint}'"
    ):
        if found.info.status != "RUNNING" and found.data.tags.get(REASON) != WAS_KILLED:
            continue
        with_retry(client.log_batch, found.info.run_id, tags=_tags({REASON: reason}))
        with_retry(client.set_terminated, found.info.run_id, "FAILED")


def _find_or_create(client: MlflowClient, key: RunKey, fingerprint: str, parent: str | None) -> Any:
    experiment, others = (
        _experiments(client)
        if key.kind not in ("tuning", "trial")
        else (_experiment(client, TUNING), [])
    )
    # A run whose process was killed is still RUNNING; only a run with the same fingerprint can
    # resume it.
    found = with_retry(
        client.search_runs,
        [experiment, *others],
        f"tags.`{FINGERPRINT}` = '{fingerprint}'",
        max_results=1,
    )
    if parent is None:
        parent = _of_sweeps(client, experiment, key) if key.sweep else _parent()
    tags = {"mlflow.parentRunId": parent} if parent else {}
    if not found:
        return client.create_run(
            experiment, tags={FINGERPRINT: fingerprint, **tags}, run_name=key.name
        )
    with_retry(client.log_batch, found[0].info.run_id, tags=_tags(tags))
    return found[0]


def _of_sweeps(client: MlflowClient, experiment: str, key: RunKey) -> str:
    """Return the run that contains the sweeps of a dataset and generator; create it if needed.

    Cells run in parallel, so a lock lets one of them create it. On several machines, the oldest run
    counts, and a later one is deleted.
    """
    whole = RunKey("sweeps", rounds.base(key.dataset), 0, key.simulated, generator=key.generator)
    found = _oldest(client, experiment, whole.name)
    if found:
        return found
    lock = store.project_root() / AT_WORK.parent / "sweeps.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        found = _oldest(client, experiment, whole.name)
        if found:
            return found
        parent = _parent()
        tags = {FINGERPRINT: whole.name, **whole.tags, **_origin()}
        tags |= {"mlflow.parentRunId": parent} if parent else {}
        made = client.create_run(experiment, tags=tags, run_name=whole.name).info.run_id
        with_retry(client.set_terminated, made, "FINISHED")
        first = _oldest(client, experiment, whole.name)
        if first and first != made:
            with_retry(client.delete_run, made)
        return first or made


def _oldest(client: MlflowClient, experiment: str, fingerprint: str) -> str | None:
    """Return the first run with a fingerprint."""
    found = with_retry(
        client.search_runs,
        [experiment],
        f"tags.`{FINGERPRINT}` = '{fingerprint}'",
        max_results=1,
        order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
    )
    return found[0].info.run_id if found else None


def _parent() -> str | None:
    """Return the run that `mlflow run` opened, as the parent.

    It is removed from the environment, as all stages would write to it otherwise.
    """
    if "MLFLOW_RUN_ID" in os.environ:
        os.environ[PARENT] = os.environ.pop("MLFLOW_RUN_ID")
    return os.environ.get(PARENT)


def _experiments(client: MlflowClient) -> tuple[str, list[str]]:
    """Return the experiment for new runs, and others that may have a run with the fingerprint."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = with_retry(client.get_experiment_by_name, name)
    given = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if given:
        store.check_active(with_retry(client.get_experiment, given))
        return given, [found.experiment_id] if found and found.experiment_id != given else []
    return _experiment(client, name), []


def _experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, and create it if needed."""
    found = with_retry(client.get_experiment_by_name, name)
    store.check_active(found)
    if found:
        return found.experiment_id
    with store.tolerating("RESOURCE_ALREADY_EXISTS"):
        # Without this tag, MLflow's UI opens the experiment on a page for language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return client.create_experiment(name, store.artifact_location(name), tags)
    return client.get_experiment_by_name(name).experiment_id


def _origin() -> dict[str, str]:
    """Return tags with the user, and the commit, DVC stage and DVC experiment if known."""
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": os.environ.get("DVC_STAGE", "ecgforge"),
        "mlflow.user": store.author(),
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
    """Return whether a file of the project other than params.yaml, matrix.yaml and dvc.lock has
    changes.

    The project may be a folder of a larger repository. DVC writes dvc.lock between stages, and
    records there the parameter values and data digests that a stage depends on; `reproduce`
    restores both. matrix.yaml follows from params.yaml.
    """
    return bool(
        git(
            store.checkout(),
            "status",
            "--porcelain",
            "--",
            ".",
            *(f":(exclude){name}" for name in ("dvc.lock", "matrix.yaml", "params.yaml")),
        )
    )


def _system() -> dict[str, str]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    found = {
        "system.torch": torch.__version__,
        "system.node": node_name(),
        "system.device": "cpu",
        THREADS: str(torch.get_num_threads()),
    }
    if torch.cuda.is_initialized():
        found |= {"system.device": "cuda", GPU: torch.cuda.get_device_name()}
    return found


def flatten(params: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a tree of parameters as dotted keys and texts.

    A value that is too long for MLflow is cut and ends in its md5, so that different values stay
    different. The run's artifact params.json has the whole value.
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
    """Group inputs by name and digest, because MLflow keeps only the first of equal inputs."""
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
    """Raise an exception in the block on SIGTERM, so that its run is ended.

    Only the main thread receives signals.
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


def keep_curves(file: Path, fingerprint: str) -> Callable[[dict[str, float], int], None]:
    """Return a function that logs to a file, from which the run with this fingerprint takes the
    points when it is opened; see `resume_file` of `tracked`.
    """
    unsent = _Unsent(file, fingerprint)
    unsent.read()

    def log(metrics: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        unsent.append([(key, float(value), step, now) for key, value in metrics.items()])

    return log


class _Unsent:
    """A file of logged points that were not sent yet: a killed process loses its memory."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._identity = path, fingerprint

    def read(self) -> list[Point]:
        """Return the points of an earlier process of the run, and keep only those in the file."""
        lines = self._path.read_text().split("\n") if self._path.exists() else []
        # A process that is killed while writing leaves an incomplete last line.
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
