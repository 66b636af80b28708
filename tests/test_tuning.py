"""Tuning: what may be searched, studies that survive kills, what MLflow hears of them, and what
becomes of the parameters.

Workers import this module, so that what is slow to load is loaded where it is needed.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from ecgforge import folders
from ecgforge.classifiers.resnet1d import ResNet1d
from ecgforge.errors import EcgforgeError, TrialError
from ecgforge.params import Float, Int, Params, nested
from ecgforge.stages.common.tracked import Stage
from ecgforge.tuning import search, space
from ecgforge.tuning.search import Attempt, Task, TrialResult

if TYPE_CHECKING:
    from ecgforge.records.record_set import RecordSet

ROOT = Path(__file__).parent.parent
SPACE: space.Space = {
    "training.a": Float(kind="float", low=-5, high=5),
    "training.b": Int(kind="int", low=1, high=1000, log=True),
}


def task(folder: Path, **changes: Any) -> Task:
    defaults = {"training.a": 4.0, "training.b": 900}
    made = Task(
        "toy",
        f"sqlite:///{folder / 'tuning.db'}",
        SPACE,
        defaults,
        ("minimize",),
        seed=1,
        warmup=None,
    )
    return replace(made, **changes)


@dataclass(frozen=True)
class Toy:
    """Trials of five steps with a checkpoint at each.

    The trial `killed` kills its process once, at its third step.
    """

    folder: Path
    killed: int = -1
    wait: float = 0.0

    def __call__(self, attempt: Attempt) -> list[float]:
        checkpoint, marker = self.folder / f"trial-{attempt.number}", self.folder / "killed"
        first = int(checkpoint.read_text()) if checkpoint.exists() else 0
        with (self.folder / "starts.jsonl").open("a") as file:
            file.write(json.dumps([attempt.number, first, attempt.point]) + "\n")
        for step in range(first, 5):
            if attempt.number == self.killed and step == 3 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.wait)
            checkpoint.write_text(str(step + 1))
        return [attempt.point["training.a"] ** 2 + math.log10(attempt.point["training.b"])]

    def starts(self) -> list[tuple[int, int]]:
        """Number and first step of every start, in order."""
        lines = (self.folder / "starts.jsonl").read_text().splitlines()
        return [tuple(json.loads(line)[:2]) for line in lines]

    def points(self) -> dict[int, dict[str, Any]]:
        return {
            number: point
            for number, _, point in map(
                json.loads, (self.folder / "starts.jsonl").read_text().splitlines()
            )
        }


def exit_code(work: Callable[[], Any]) -> int | None:
    """Do this in a fork of this process, which has loaded what a process of its own would load for
    seconds; return how the fork ended.
    """
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def ended(results: list[TrialResult]) -> list[tuple[int, str]]:
    return [(one.number, one.state) for one in results]


def all_complete(count: int) -> list[tuple[int, str]]:
    return [(number, "complete") for number in range(count)]


# What may be searched


def floats(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"kind": "float", "low": low, "high": high, **more}


def one_of(*choices: Any) -> dict[str, Any]:
    return {"kind": "categorical", "choices": list(choices)}


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        (
            "classifiers.resnet1d",
            {"training.learning_rat": floats(1e-3, 0.1)},
            "tuning.space.training.learning_rat: .* have no such parameter",
        ),
        (
            "classifiers.resnet1d",
            {"backbone": one_of("resnet1d", "x")},
            "tuning.space.backbone: .* have no such parameter",
        ),
        (
            "classifiers.resnet1d",
            {"training.learning_rate": floats(0.02, 0.1)},
            "learning_rate: the value without tuning, 0.015, must lie",
        ),
        (
            "classifiers.resnet1d",
            {"training.learning_rate": floats(0.1, 0.001)},
            "learning_rate = .*low must be below high",
        ),
        (
            "classifiers.resnet1d",
            {"training.weight_decay": floats(0, 1, log=True)},
            "weight_decay = .*low must be above 0",
        ),
        (
            "classifiers.resnet1d",
            {"network.dropout": floats(0, 2)},
            "a trial with .*dropout = 2.*less than 1",
        ),
        (
            "classifiers.resnet1d",
            {"network.kernel": one_of(5, 7)},
            "kernel: the value without tuning, 9, must be one",
        ),
        (
            "classifiers.resnet1d",
            {"training.batch_size": floats(8, 64)},
            "a trial with training.batch_size = 29.392",
        ),
        (
            "generators.diffwave",
            {"sampling.guidance": floats(0.5, 4)},
            "diffwave.tuning.space: .*guidance = 0.5",
        ),
        (
            "generators.simulator",
            {},
            "simulator.tuning.space: trials need at least one parameter to vary",
        ),
        (
            "generators.diffwave",
            {"training.prior.steps": floats(5, 9)},
            "space.training.prior.steps: .* have no such parameter",
        ),
        (
            "generators.diffwave",
            {"sampling.steps": floats(1, 9, step=2)},
            "sampling.steps.step: unknown key",
        ),
    ],
)
def test_a_space_that_trials_could_not_train_is_refused_by_its_key(
    tmp_path: Path, where: str, change: dict[str, Any], message: str
) -> None:
    from ecgforge.stages import parameters

    tree = yaml.load((ROOT / "params.yaml").read_text(), yaml.CSafeLoader)
    branch = tree["profiles"]["paper" if "kernel" in message else "demo"]
    for part in where.split("."):
        branch = branch[part]
    branch.setdefault("tuning", {})["space"] = change
    branch["tuning"]["n_trials"] = 3
    (tmp_path / "params.yaml").write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper))
    with pytest.raises(EcgforgeError, match=message) as caught:
        parameters.read(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


def test_a_dataset_that_the_study_does_not_have_is_refused(tmp_path: Path) -> None:
    from ecgforge.stages import tune

    with pytest.raises(EcgforgeError, match="no dataset 'ptbx': use one of ptbxl, chapman"):
        tune.tune(ROOT / "params.yaml", "ptbx", None, Path("none"), tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml").exists()


def test_without_trials_the_parameters_stay_and_nothing_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ecgforge.stages import tune; "
        "tune.tune(Path(sys.argv[1]), 'ptbxl', None, Path('none'), "
        "Path('c.yaml')); tune.tune(Path(sys.argv[1]), 'ptbxl', 'time_vqvae', Path('none'), "
        "Path('g.yaml')); "
        "print([name for name in ('torch', 'mlflow', 'optuna', 'pandas') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "params.yaml")]
    assert (
        subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "g.yaml"]
    from ecgforge.stages import parameters

    tuned = [tmp_path / "c.yaml", tmp_path / "g.yaml"]
    assert parameters.read(ROOT / "params.yaml", tuned) == parameters.read(ROOT / "params.yaml")


def test_tuned_parameters_replace_the_given_ones(tmp_path: Path) -> None:
    from ecgforge.stages import parameters, tune

    best = {"training.prior.learning_rate": 0.0123, "sampling.guidance": 3.5}
    tune.write({"generators": {"time_vqvae": nested(best)}}, tmp_path / "g.yaml")
    tune.write({"classifiers": {"resnet1d": {"network": {"dropout": 0.33}}}}, tmp_path / "c.yaml")
    before = parameters.read(ROOT / "params.yaml")
    params = parameters.read(ROOT / "params.yaml", [tmp_path / "g.yaml", tmp_path / "c.yaml"])
    changed, plain = params.generator("time_vqvae"), before.generator("time_vqvae")
    assert (changed.training["prior"].learning_rate, changed.sampling["guidance"]) == (0.0123, 3.5)
    assert changed.training["autoencoder"] == plain.training["autoencoder"]
    assert params.classifier.network == before.classifier.network | {"dropout": 0.33}
    assert params.profiles["paper"] == before.profiles["paper"]

    tune.write({"classifiers": {"resnet1d": {"network": {"dropout": 3}}}}, tmp_path / "c.yaml")
    with pytest.raises(EcgforgeError, match="dropout = 3"):
        parameters.read(ROOT / "params.yaml", [tmp_path / "c.yaml"])
    with pytest.raises(EcgforgeError, match="nowhere.yaml does not exist: run `dvc repro`"):
        parameters.read(ROOT / "params.yaml", [tmp_path / "nowhere.yaml"])


def test_the_search_settings_are_not_in_the_fingerprint() -> None:
    """Else the fingerprint of every training would change with the number of trials."""
    active = Params.read(ROOT / "params.yaml").active
    for settings in (*active.classifiers.values(), *active.generators.values()):
        assert "tuning" not in settings.model_dump()


# Studies


@pytest.mark.slow
def test_a_study_improves_on_a_bad_default_which_it_tries_first(tmp_path: Path) -> None:
    results = search.search(task(tmp_path), Toy(tmp_path), 25, [None])
    assert ended(results) == all_complete(25)
    assert results[0].point == {"training.a": 4.0, "training.b": 900}
    assert search.best(results, ("minimize",)).values[0] < results[0].values[0] / 3


@pytest.mark.slow
def test_more_trials_add_to_what_is_there_and_the_seed_decides_them(tmp_path: Path) -> None:
    toys = [Toy(tmp_path / name) for name in ("once", "twice", "other")]
    for toy in toys:
        toy.folder.mkdir()
    once = search.search(task(toys[0].folder), toys[0], 14, [None])
    search.search(task(toys[1].folder), toys[1], 3, [None])
    twice = search.search(task(toys[1].folder), toys[1], 14, [None])
    assert toys[1].starts() == [(number, 0) for number in range(14)], "none was done again"
    assert twice == once
    other = search.search(task(toys[2].folder, seed=2), toys[2], 3, [None])
    assert other[0] == once[0]
    assert other[1:] != once[1:3]
    assert len(search.search(task(toys[0].folder), toys[0], 3, [None])) == 3


@pytest.mark.slow
def test_two_workers_finish_all_trials_and_a_killed_one_is_replaced(
    tmp_path: Path,
) -> None:
    toy = Toy(tmp_path, killed=2, wait=0.1)
    results = search.search(task(tmp_path), toy, 9, [None, None])
    assert ended(results) == all_complete(9)
    starts = toy.starts()
    assert sorted(starts) == sorted([*((number, 0) for number in range(9)), (2, 3)]), (
        "retried from its checkpoint, none lost or repeated"
    )
    assert len({json.dumps(point) for point in toy.points().values()}) == 9, "no point twice"


def test_a_killed_stage_resumes(tmp_path: Path) -> None:
    toy = Toy(tmp_path, killed=2)
    assert exit_code(lambda: search.search(task(tmp_path), toy, 4, [None])) == -signal.SIGKILL
    assert toy.starts() == [(0, 0), (1, 0), (2, 0)]
    before = toy.points()
    results = search.search(task(tmp_path), toy, 4, [None])
    assert ended(results) == all_complete(4)
    assert toy.starts()[3:] == [(2, 3), (3, 0)]
    assert toy.points()[2] == before[2]


@pytest.mark.slow
def test_a_kill_changes_no_trial(tmp_path: Path) -> None:
    killed, whole = Toy(tmp_path / "killed", killed=2), Toy(tmp_path / "whole")
    for toy in (killed, whole):
        toy.folder.mkdir()
    assert (
        exit_code(lambda: search.search(task(killed.folder), killed, 14, [None])) == -signal.SIGKILL
    )
    assert search.search(task(killed.folder), killed, 14, [None]) == search.search(
        task(whole.folder), whole, 14, [None]
    )


@dataclass(frozen=True)
class Curved:
    """Trials that report a value at each of three steps, and are killed after the second one,
    `kills` times.
    """

    folder: Path
    kills: int = 1

    def __call__(self, attempt: Attempt) -> list[float]:
        marks = list(self.folder.glob("kill-*"))
        for step in range(2 if marks else 0, 3):
            attempt.report(float(step), step)
            if step == 1 and len(marks) < self.kills:
                (self.folder / f"kill-{len(marks)}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return [1.0]


def test_a_trial_resumes_with_its_curve(tmp_path: Path) -> None:
    curved = Curved(tmp_path)
    assert exit_code(lambda: search.search(task(tmp_path), curved, 1, [None])) == -signal.SIGKILL
    assert ended(search.search(task(tmp_path), curved, 1, [None])) == all_complete(1)
    curves = [trial.intermediate_values for trial in search.opened(task(tmp_path)).get_trials()]
    assert curves == [{0: 0.0, 1: 1.0}, {0: 0.0, 1: 1.0, 2: 2.0}]


@dataclass(frozen=True)
class AlwaysKilled:
    folder: Path

    def __call__(self, attempt: Attempt) -> list[float]:
        if attempt.number == 0:
            (self.folder / "kills").open("a").write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return [1.0]


@pytest.mark.slow
def test_a_trial_that_always_kills_its_worker_fails_in_the_end(tmp_path: Path) -> None:
    objective = AlwaysKilled(tmp_path)
    for _ in range(search.RETRIES + 1):
        assert (
            exit_code(lambda: search.search(task(tmp_path), objective, 2, [None]))
            == -signal.SIGKILL
        )
    results = search.search(task(tmp_path), objective, 2, [None])
    assert ended(results) == [(0, "failed"), (1, "complete")]
    assert results[0].reason == "its worker was killed too often"
    assert (tmp_path / "kills").read_text() == "x" * (search.RETRIES + 1)


@dataclass(frozen=True)
class Nested:
    """Trials that run their own study once more, as another process would."""

    folder: Path

    def __call__(self, attempt: Attempt) -> list[float]:
        code = multiprocessing.get_context("fork").Process(target=self.again)
        code.start()
        code.join()
        return [float(code.exitcode or 0)]

    def again(self) -> None:
        try:
            search.search(task(self.folder), Toy(self.folder), 1, [None])
        except EcgforgeError as error:
            raise SystemExit(
                7 if "another process runs the study 'toy'" in str(error) else 8
            ) from None


def test_one_process_at_a_time_runs_a_study(tmp_path: Path) -> None:
    assert search.search(task(tmp_path), Nested(tmp_path), 1, [None])[0].values == (7.0,)


def test_a_score_that_is_no_number_fails_the_trial(tmp_path: Path) -> None:
    results = search.search(
        task(tmp_path), lambda attempt: [math.nan if attempt.number else 1.0], 2, [None]
    )
    assert ended(results) == [(0, "complete"), (1, "failed")]
    assert results[1].reason == "its score is not a finite number"


@dataclass(frozen=True)
class Interrupted:
    folder: Path

    def __call__(self, attempt: Attempt) -> list[float]:
        if attempt.number == 1 and not (self.folder / "once").exists():
            (self.folder / "once").touch()
            raise KeyboardInterrupt
        return [1.0]


def test_an_interruption_is_no_verdict_on_a_trial(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search.search(task(tmp_path), Interrupted(tmp_path), 2, [None])
    assert ended(search.search(task(tmp_path), Interrupted(tmp_path), 2, [None])) == all_complete(2)


@dataclass(frozen=True)
class InterruptedInTheThird:
    folder: Path

    def __call__(self, attempt: Attempt) -> list[float]:
        with (self.folder / "starts").open("a") as file:
            file.write(f"{attempt.number} ")
        if attempt.number == 2 and not (self.folder / "once").exists():
            (self.folder / "once").touch()
            raise KeyboardInterrupt
        return [1.0]

    def starts(self) -> list[int]:
        return [int(word) for word in (self.folder / "starts").read_text().split()]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_fewer_trials_than_before(tmp_path: Path, workers: int) -> None:
    """Those beyond are neither run nor waited for, not even one that was interrupted."""
    toy = InterruptedInTheThird(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        search.search(task(tmp_path), toy, 12, [None])
    assert ended(search.search(task(tmp_path), toy, 2, [None])) == all_complete(2)
    assert toy.starts() == [0, 1, 2]
    assert ended(search.search(task(tmp_path), toy, 4, [None] * workers)) == all_complete(4)
    assert (toy.starts()[:3], sorted(toy.starts()[3:])) == ([0, 1, 2], [2, 3])
    assert ended(search.search(task(tmp_path), toy, 6, [None])) == all_complete(6)
    assert toy.starts()[5:] == [4, 5]


def test_a_trial_whose_worker_died_at_once_is_done_all_the_same(tmp_path: Path) -> None:
    """It was taken, and its process died before it chose a point."""
    study = search.opened(task(tmp_path))
    assert exit_code(lambda: search._take(task(tmp_path), study, 2, os.getpid())) == 0
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING"]
    toy = Toy(tmp_path)
    results = search.search(task(tmp_path), toy, 2, [None])
    assert ended(results) == all_complete(2)
    assert toy.starts() == [(0, 0), (1, 0)]
    assert results[0].point == task(tmp_path).defaults


def test_a_database_that_cannot_be_used_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(EcgforgeError, match="correct or unset ECGFORGE_TUNING_STORAGE") as caught:
        search.search(
            task(tmp_path, url="postgresql+nodriver://me:secret@host/db"), Toy(tmp_path), 1, [None]
        )
    assert "secret" not in str(caught.value)


def test_the_front_and_the_best_of_two_objectives() -> None:
    both = ("maximize", "minimize")
    #          default    slower     beaten     faster     equal to 3  failed
    values = [
        (0.5, 10.0),
        (0.9, 20.0),
        (0.4, 11.0),
        (0.6, 5.0),
        (0.6, 5.0),
        (),
        (0.2, 1.0),
        (0.6, 10.0),
    ]
    results = [
        TrialResult(number, "complete" if pair else "failed", pair, {}, "")
        for number, pair in enumerate(values)
    ]
    assert [one.number for one in search.front(results, both)] == [1, 3, 4, 6]
    assert search.best(results, both).number == 3, (
        "the best of those no slower than the default, the earliest of equals"
    )
    assert search.best(results, ("maximize",)).number == 1
    with pytest.raises(EcgforgeError, match="no trial was completed; the first one: too large"):
        search.best([TrialResult(0, "failed", (), {}, "too large")], both)


def test_gpus_are_dealt_out_to_workers() -> None:
    from ecgforge.workers import assign_gpus

    assert assign_gpus(2, ["0", "1", "2"]) == ["0", "1"]
    assert assign_gpus(3, ["4", "7"]) == ["4", "7", "4"], "a share of one where there are too few"
    assert assign_gpus(2, []) == [None, None]
    assert assign_gpus(1, ["0", "1"]) == [None]


# Tracking


@dataclass(frozen=True)
class Shown:
    """Trials whose curves rise to the fourth of their number: the second fails, and later ones are
    pruned or not.
    """

    settings: Any

    def __call__(self, attempt: Attempt, folder: Path, log: Any) -> list[float]:
        value = 0.0
        for step in range(1, 5):
            value = step * (10 - attempt.number) / 40
            log({"validation/f1_macro": value}, step)
            if attempt.number == 2:
                raise TrialError("training diverged at step 1")
            attempt.report(value, step)
        return [value]


@pytest.mark.slow
def test_mlflow_has_a_run_for_the_study_and_one_below_it_for_each_trial(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgforge.stages import trials_of_tuning as stage
    from ecgforge.tracking import runs, store

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = Params.read(ROOT / "params.yaml").classifier
    key = runs.RunKey("tuning", "ptbxl", 1, True, backbone="resnet1d")
    inputs = stage.record_inputs([("training", records)])
    defaults = {"training.learning_rate": 0.01, "network.dropout": 0.2}
    chosen = {key: ResNet1d.space[key] for key in defaults}
    shown = task(tmp_path, space=chosen, defaults=defaults, directions=("maximize",), warmup=2)
    with runs.tracked(key, fingerprint="study", params={}, inputs=inputs) as run:
        trials = stage.Trials(
            Shown(settings), key, "study", inputs, run.id, tmp_path / "checkpoints"
        )
        results = search.search(shown, trials, 8, [None])
        best = search.best(results, shown.directions)
        stage._record(run, shown, results, best)
        run.mark_best(trials.fingerprint_of(1))
        run.mark_best(trials.fingerprint_of(best.number))
    assert [one.state for one in results] == [
        "complete",
        "complete",
        "failed",
        "complete",
        "complete",
        "pruned",
        "pruned",
        "pruned",
    ]

    client = store.client()
    (experiment,) = [one for one in client.search_experiments() if one.name == "ecgforge-tuning"]
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
    children = {int(one.data.tags["point"]): one for one in found if one is not parent}
    assert {one.data.tags["mlflow.parentRunId"] for one in children.values()} == {
        parent.info.run_id
    }
    words = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
    assert {number: one.info.status for number, one in children.items()} == {
        one.number: words[one.state] for one in results
    }
    assert children[2].data.tags["ecgforge.reason"] == "training diverged at step 1"
    assert children[7].data.tags["ecgforge.reason"].startswith("pruned, among the worst at step 2")
    assert [
        point.step
        for point in client.get_metric_history(children[7].info.run_id, "validation/f1_macro")
    ] == [1, 2]
    assert (
        [number for number, one in children.items() if one.data.tags.get("best") == "true"]
        == [best.number]
        == [0]
    )
    assert (
        float(children[3].data.params["training.learning_rate"])
        == results[3].point["training.learning_rate"]
    )
    assert parent.data.metrics["best/score"] == parent.data.metrics["default/score"] == 1.0
    assert (
        parent.data.metrics["trials/complete"],
        parent.data.metrics["trials/pruned"],
        parent.data.metrics["trials/failed"],
    ) == (4, 3, 1)
    kept = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert kept >= {"history-score.png", "importances-score.png", "trials.csv"}


@dataclass(frozen=True)
class Deadly:
    """Trials of which the second kills its process, where there is a file `deadly`."""

    settings: Any
    real: Path
    compute: Any
    directions: tuple[search.Direction, ...] = ("maximize",)
    warmup: int | None = None

    def __call__(self, attempt: Attempt, folder: Path, log: Any) -> list[float]:
        log({"validation/f1_macro": 0.5}, 1)
        if attempt.number == 1 and Path("deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return [0.5]


def deadly_study(folder: Path) -> dict[str, Any]:
    """Three of these trials, as a stage runs them."""
    from ecgforge.stages import trials_of_tuning as stage

    params = Params.model_validate(small(yaml.safe_load((ROOT / "params.yaml").read_text())))
    settings = params.classifier
    deadly = Deadly(settings, folder, params.active.compute)
    at_work = Stage("tune_classifier", params, {})
    return stage._study(at_work, deadly, "ptbxl", settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_trial_that_killed_all_its_workers_has_ended_in_mlflow_too(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgforge.tracking import store

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("deadly").touch()
    assert exit_code(lambda: deadly_study(records.folder)) == -signal.SIGKILL

    def states() -> list[tuple[str, str]]:
        (experiment,) = [
            one for one in store.client().search_experiments() if one.name == "ecgforge-tuning"
        ]
        found = store.client().search_runs([experiment.experiment_id], "tags.kind = 'trial'")
        by_number = {
            one.data.tags["point"]: (one.info.status, one.data.tags.get("ecgforge.reason", ""))
            for one in found
        }
        return [by_number[number] for number in sorted(by_number)]

    assert states() == [("FINISHED", ""), ("RUNNING", "")]
    Path("deadly").unlink()
    monkeypatch.setattr(search, "RETRIES", 0)
    deadly_study(records.folder)
    assert states() == [
        ("FINISHED", ""),
        ("FAILED", "its worker was killed too often"),
        ("FINISHED", ""),
    ]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("{project}/tuning.db", "sqlite:///tuning.db"),
        ("{project}/a@b/tuning.db", "sqlite:///a@b/tuning.db"),
        ("/elsewhere/tuning.db", "sqlite:////elsewhere/tuning.db"),
        ("postgresql+psycopg://me:secret@host/studies", "host/studies"),
    ],
)
def test_a_database_is_shown_by_its_place_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, shown: str
) -> None:
    from ecgforge.stages import trials_of_tuning as stage

    monkeypatch.chdir(tmp_path)
    full = url.format(project=tmp_path)
    assert stage._shown(full if "://" in full else f"sqlite:///{full}") == shown


# Workers on a cluster


def start(work: Callable[[], Any]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def workers_of(folder: Path) -> dict[int, list[tuple[str, str]]]:
    """Return worker and state of each attempt at each trial."""
    found: dict[int, list[tuple[str, str]]] = {}
    for trial in search.opened(task(folder)).get_trials():
        name = str(trial.user_attrs.get(search.WORKER))
        found.setdefault(trial.user_attrs[search.INDEX], []).append((name, trial.state.name))
    return found


def test_workers_of_a_cluster_share_the_trials_and_the_first_waits_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "LOOK_EVERY", 0.05)
    search.opened(task(tmp_path))
    toy = Toy(tmp_path, wait=0.05)
    other = start(lambda: search.take_part(task(tmp_path), replace(toy, wait=0.2), 6, 1))
    results = search.take_part(task(tmp_path), toy, 6, 0)
    assert ended(results) == all_complete(6)
    other.join()
    assert other.exitcode == 0
    found = workers_of(tmp_path)
    assert [len(attempts) for attempts in found.values()] == [1] * 6, "each trial was run once"
    assert {name for ((name, _),) in found.values()} == {"worker 0", "worker 1"}
    assert search.take_part(task(tmp_path), toy, 6, 1) == [], "only the first worker has results"


@pytest.mark.parametrize("returns", [False, True])
def test_a_worker_of_a_cluster_that_is_started_again_ends_its_former_trial_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returns: bool
) -> None:
    """It may be killed, or stopped until another machine has repeated its trial."""
    search.opened(task(tmp_path))
    monkeypatch.setattr(search, "LOOK_EVERY", 0.05)
    slow = Toy(tmp_path, wait=0.2)
    former = start(lambda: search.take_part(task(tmp_path), slow, 2, 1))
    while not (tmp_path / "trial-0").exists():
        time.sleep(0.02)
    os.kill(former.pid or 0, signal.SIGSTOP if returns else signal.SIGKILL)
    first = start(lambda: search.take_part(task(tmp_path), slow, 2, 0))
    while not (tmp_path / "trial-1").exists():
        time.sleep(0.02)
    again = start(lambda: search.take_part(task(tmp_path), slow, 2, 1))
    again.join()
    if returns:
        os.kill(former.pid or 0, signal.SIGCONT)
    for one in (first, former):
        one.join()
    assert (first.exitcode, again.exitcode) == (0, 0)
    assert former.exitcode == (1 if returns else -signal.SIGKILL)
    repeated = [("worker 1", "FAIL"), ("worker 1", "COMPLETE")]
    assert workers_of(tmp_path) == {0: repeated, 1: [("worker 0", "COMPLETE")]}
    assert ended(search.take_part(task(tmp_path), slow, 2, 0)) == all_complete(2)


def test_a_further_worker_runs_trials_for_the_run_of_the_first(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgforge.stages import tune
    from ecgforge.tracking import store

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv(folders.STATE, str(tmp_path / "state"))
    monkeypatch.setattr(search, "LOOK_EVERY", 0.05)
    tree = small(yaml.safe_load((ROOT / "params.yaml").read_text()))
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(tree))

    def run(number: int) -> None:
        os.environ[folders.WORKER] = str(number)
        out = tmp_path / f"{number}.yaml"
        tune.tune(file, "ptbxl", None, records.folder, out)

    further = start(lambda: run(1))
    first = start(lambda: run(0))
    for one in (first, further):
        one.join()
        assert one.exitcode == 0
    assert (tmp_path / "0.yaml").exists()
    assert not (tmp_path / "1.yaml").exists()
    client = store.client()
    experiments = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(experiments)
    (study,) = [one for one in found if one.data.tags["kind"] == "tuning"]
    trials = [one for one in found if one.data.tags["kind"] == "trial"]
    assert len(trials) == 3
    assert {one.data.tags["mlflow.parentRunId"] for one in trials} == {study.info.run_id}
    assert {one.info.status for one in found} == {"FINISHED"}


def test_a_further_worker_does_not_wait_for_ever(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgforge.stages import trials_of_tuning, tune

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv(folders.WORKER, "1")
    monkeypatch.setattr(trials_of_tuning, "PATIENCE", 0.1)
    monkeypatch.setattr(search, "LOOK_EVERY", 0.05)
    tree = small(yaml.safe_load((ROOT / "params.yaml").read_text()))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(EcgforgeError, match="no worker has opened the run of this study"):
        tune.tune(tmp_path / "params.yaml", "ptbxl", None, records.folder, tmp_path / "c.yaml")


# Objectives


@pytest.fixture
def records(tmp_path: Path) -> RecordSet:
    """Records of two rhythms, waves of other lengths in noise, in three splits."""
    return waves(tmp_path / "waves")


def waves(folder: Path, test_seed: int = 0) -> RecordSet:
    import pandas as pd

    from ecgforge.records.record_set import About, RecordSet, write_record_set

    rng, count, samples = np.random.default_rng(0), 120, 200
    fast = np.arange(count) % 2 == 0
    split = np.repeat(["train", "validation", "test"], [80, 20, 20])
    phase = rng.random((count, 8, 1))
    cycles = np.where(fast, 9, 5)[:, None, None]
    signals = np.sin(2 * np.pi * (cycles * np.arange(samples) / samples + phase)) + rng.normal(
        size=(count, 8, samples)
    )
    table = pd.DataFrame(
        {
            "id": [f"r{i}" for i in range(count)],
            "rhythm": np.where(fast, "SR", "AFIB"),
            "split": split,
        }
    )
    if test_seed:
        signals[split == "test"] = np.random.default_rng(test_seed).normal(size=(20, 8, samples))
        table.loc[split == "test", "rhythm"] = "SR"
    table = table.assign(patient=table["id"], dataset="ptbxl", age=50, sex="", origin="simulated")
    with write_record_set(
        folder, About(20, samples, "mV", ("SR", "AFIB"), "simulated", {})
    ) as writer:
        writer.append(signals.astype(np.float32), table)
    return RecordSet.open(folder)


def small(tree: dict[str, Any]) -> dict[str, Any]:
    demo = tree["profiles"]["demo"]
    demo["classifiers"]["resnet1d"]["network"] |= {"widths": [4, 8]}
    demo["classifiers"]["resnet1d"]["training"] |= {
        "steps": 20,
        "evaluate_every": 10,
        "warmup_steps": 2,
    }
    demo["classifiers"]["resnet1d"]["tuning"] |= {
        "n_trials": 3,
        "repeats": 2,
        "space": {
            "training.learning_rate": {"low": 0.001, "high": 0.05, "log": True},
            "network.kernel": {"choices": [5, 9, 17]},
        },
    }
    diffwave = demo["generators"]["diffwave"]
    diffwave["network"] |= {"layers": 2, "channels": 8}
    diffwave["training"]["denoiser"] |= {
        "steps": 10,
        "evaluate_every": 5,
        "warmup_steps": 2,
        "batch_size": 8,
    }
    diffwave["tuning"] |= {
        "n_trials": 3,
        "records": 8,
        "fast": True,
        "space": {
            "sampling.guidance": {"low": 1.0, "high": 4.0},
            "sampling.steps": {"kind": "int", "low": 2, "high": 16},
        },
    }
    return tree


@pytest.mark.slow
def test_a_stage_writes_the_same_bytes_whatever_the_test_records_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgforge.stages import tune
    from ecgforge.tracking import store

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    written = []
    for name, test_seed in (("plain", 0), ("scrambled", 7)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Path("params.yaml").write_text(
            yaml.safe_dump(small(yaml.safe_load((ROOT / "params.yaml").read_text())))
        )
        waves(folder / "set", test_seed)
        tune.tune(Path("params.yaml"), "ptbxl", None, Path("set"), Path("out.yaml"))
        written.append(Path("out.yaml").read_bytes())
    assert written[0] == written[1]
    assert set(yaml.safe_load(written[0])["classifiers"]["resnet1d"]) == {"training", "network"}
    assert list(Path(".ecgforge/unfinished").iterdir()) == []

    before = {
        one.info.run_id
        for one in store.client().search_runs(
            [one.experiment_id for one in store.client().search_experiments()]
        )
    }
    tune.tune(Path("params.yaml"), "ptbxl", None, Path("set"), Path("again.yaml"))
    after = {
        one.info.run_id
        for one in store.client().search_runs(
            [one.experiment_id for one in store.client().search_experiments()]
        )
    }
    assert Path("again.yaml").read_bytes() == written[1]
    assert after == before, "a study that is done is one result"


@pytest.mark.slow
def test_the_training_of_the_best_trial_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgforge.generators import train
    from ecgforge.generators.common import registry
    from ecgforge.generators.diffwave.model import DiffWave
    from ecgforge.stages import parameters, train_generator, tune
    from ecgforge.tracking import store

    tree = small(yaml.safe_load((ROOT / "params.yaml").read_text()))
    tuning = tree["profiles"]["demo"]["generators"]["diffwave"]["tuning"]
    tuning["n_trials"] = 2
    tuning["space"]["training.denoiser.learning_rate"] = {"low": 0.001, "high": 0.02, "log": True}
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    records = waves(tmp_path / "set", 0)
    tune.tune(Path("params.yaml"), "ptbxl", "diffwave", Path("set"), Path("tuned.yaml"))
    params = parameters.read(Path("params.yaml"), [Path("tuned.yaml")])
    (kept,) = Path(".ecgforge/unfinished").iterdir()

    curve: list[tuple[int, float]] = []

    def log(metrics: dict[str, float], step: int) -> None:
        curve.extend((step, value) for name, value in metrics.items() if name == "loss/validation")

    settings, compute = params.generator("diffwave"), params.active.compute
    registry.save(train.train("diffwave", settings, records, compute, Path("new"), log), Path("a"))
    with monkeypatch.context() as patched:
        patched.setattr(DiffWave, "loss", None)  # no training step
        train_generator.train(params, "ptbxl", "diffwave", Path("set"), Path("b"))
    assert Path("b/weights.safetensors").read_bytes() == Path("a/weights.safetensors").read_bytes()
    assert not kept.exists()
    client = store.client()
    experiments = [one.experiment_id for one in client.search_experiments()]
    (run,) = client.search_runs(experiments, "tags.kind = 'generator'")
    points = client.get_metric_history(run.info.run_id, "loss/validation")
    assert [(point.step, point.value) for point in points] == curve != []


@pytest.mark.slow
def test_trials_that_differ_in_sampling_alone_share_a_training(
    records: RecordSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgforge.stages.trials_of_tuning import Trainings
    from ecgforge.tuning.objectives import GeneratorObjective, macro_f1_of_synthetic

    monkeypatch.setenv(folders.STATE, str(tmp_path))
    params = Params.model_validate(small(yaml.safe_load((ROOT / "params.yaml").read_text())))
    objective = GeneratorObjective(
        "diffwave",
        params.generator("diffwave"),
        records.folder,
        params.active.compute,
        Trainings(params, "ptbxl", "diffwave", records.folder),
    )
    curves: list[int] = []
    made = task(
        tmp_path,
        space=objective.settings.tuning.space,
        defaults={"sampling.guidance": 2.0, "sampling.steps": 4},
    )
    made = replace(made, directions=objective.directions)
    results = search.search(
        made,
        lambda attempt: objective(
            attempt,
            tmp_path / f"trial-{attempt.number}",
            lambda found, step: curves.extend(step for name in found if name == "loss/validation"),
        ),
        3,
        [None],
    )
    assert ended(results) == all_complete(3)
    assert curves == [5, 10]
    assert all(0 <= one.values[0] <= 1 and one.values[1] > 0 for one in results)

    training, random = records.split("train"), np.random.default_rng(0)
    lesson = macro_f1_of_synthetic(records, training.signals(), training.labels, 0)
    assert lesson > 0.9
    assert (
        macro_f1_of_synthetic(
            records,
            random.normal(size=training.signals().shape).astype(np.float32),
            training.labels,
            0,
        )
        < lesson - 0.2
    )


def test_losses_that_do_not_compare_prune_nothing() -> None:
    from ecgforge.stages.trials_of_tuning import Trainings
    from ecgforge.tuning.objectives import GeneratorObjective

    params = Params.read(ROOT / "params.yaml")

    def warmup(name: str, varied: str = "sampling.guidance") -> int | None:
        settings = params.generator(name)
        tuning = settings.tuning.model_copy(update={"space": {varied: Float(low=0.001, high=0.02)}})
        settings = settings.model_copy(update={"tuning": tuning})
        trainings = Trainings(params, "ptbxl", name, Path())
        return GeneratorObjective(name, settings, Path(), params.active.compute, trainings).warmup

    assert warmup("diffwave") == warmup("diffwave", "training.denoiser.learning_rate") == 60
    assert warmup("time_vqvae", "training.prior.learning_rate") == 60 + 50
    assert warmup("time_vqvae", "training.autoencoder.learning_rate") is None, (
        "other codes, other losses"
    )
    assert warmup("simulator") is None, "no phase, no losses"
