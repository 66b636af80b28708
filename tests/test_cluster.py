"""Cells on other machines: the exchange between clones, what is refused, and runs that two
processes take up. `benchmarks/cluster.py` runs a study on real Ray nodes.
"""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from dvc.repo import Repo

from ecgforge import folders
from ecgforge.dvc import lock
from ecgforge.errors import EcgforgeError, SupersededError
from ecgforge.params import Params
from ecgforge.pipeline import cells, engine, local, node, remote
from ecgforge.pipeline.engine import Cell, Ended, Needs
from ecgforge.pipeline.progress import Progress
from ecgforge.tracking import runs, store

ROOT = Path(__file__).parents[1]
STAGES = {
    "prepare": {"cmd": "mkdir data; echo 1 > data/a; echo 2 > data/b", "outs": ["data"]},
    "train": {
        "matrix": {"name": ["x", "y"]},
        "cmd": "cat data/a > ${item.name}; ls >> listed-${item.name}; rm listed-${item.name}",
        "deps": ["data"],
        "outs": ["${item.name}"],
    },
    "report": {"cmd": "cat x y > report", "deps": ["x", "y"], "outs": ["report"]},
}


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=b", "commit", "--quiet", "-m", "study")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of four cells with a folder as DVC remote."""
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (folder / ".gitignore").write_text("/data\n/x\n/y\n/report\n/.ecgforge/\n")
    git(folder, "init", "--quiet")
    with Repo.init(str(folder)) as repo, repo.config.edit("repo") as config:
        config["remote"] = {"shared": {"url": str(tmp_path / "remote")}}
        config["core"]["remote"] = "shared"
    commit(folder)
    monkeypatch.chdir(folder)
    return folder


def described(folder: Path) -> node.Study:
    """As `ray_cluster` describes a study to its nodes."""
    config = {"core": {"remote": "shared"}}
    config |= {'remote "shared"': {"url": str(folder.parent / "remote")}}
    commit = git(folder, "rev-parse", "HEAD")
    return node.Study("study", commit, "", "Ada", config, node.passed_on(), node.packages())


def bundle() -> bytes:
    command = ["git", "bundle", "create", "--quiet", "-", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True).stdout


class TwoNodes:
    """An engine with two nodes that have homes of their own, one cell after the other."""

    slots: int | None = None

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.setenv = folder, monkeypatch.setenv
        self.places: dict[str, str] = {}

    def submit(self, cell: Cell, needs: Needs) -> Future[Ended]:
        place = f"n{len(self.places) % 2}"
        self.places[cell.name] = place
        self.setenv(node.CLONES, str(self.folder.parent / place))
        known = lock.stages(Path(lock.LOCK).read_text()) if Path(lock.LOCK).exists() else {}
        entries = {name: known[name] for name in cell.above}  # type: ignore[index]
        future: Future[Ended] = Future()
        future.set_result(node.work(described(self.folder), cell.name, entries, bundle, place))
        return future

    def news(self) -> list[str]:
        return []

    def start_no_more(self) -> None:
        pass

    def interrupt(self) -> None:
        pass


def digests(folder: Path) -> dict[str, str]:
    found = lock.stages((folder / lock.LOCK).read_text()) or {}
    return {out["path"]: out["md5"] for entry in found.values() for out in entry["outs"]}


@pytest.mark.slow
def test_cells_on_two_nodes_give_the_outputs_of_a_local_run(
    study: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    two = TwoNodes(study, monkeypatch)
    params = Params.read(ROOT / "params.yaml")
    stale = cells._stale_cells([], missing=True)
    assert set(stale) == {"prepare", "train@x", "train@y", "report"}
    assert stale["report"].above == {"train@x", "train@y"}
    assert cells._run(stale, two, params) == 0
    assert set(two.places.values()) == {"n0", "n1"}
    assert "[4/4] report on n" in capfd.readouterr().err
    assert not (study / "data").exists(), "the driver needs no data"
    assert cells._stale_cells([], missing=True) == {}
    spread = digests(study)

    remote.pull(["report"])
    assert (study / "report").read_text() == "1\n1\n"
    (study / lock.LOCK).unlink()
    with Repo() as repo:
        repo.reproduce()
    assert digests(study) == spread

    # the folder of two outputs is missing, so its digest cannot be compared
    text = (study / "dvc.yaml").read_text()
    listing = {"cmd": "ls out > listing", "deps": ["out"], "outs": ["listing"]}
    both = {f"part{i}": {"cmd": f"echo {i} > out/{i}", "outs": [f"out/{i}"]} for i in range(2)}
    tree = {"stages": STAGES | both | {"listing": listing}}
    (study / "dvc.yaml").write_text(yaml.safe_dump(tree))
    (study / "out").mkdir()
    with Repo() as repo:
        repo.reproduce()
    assert cells._stale_cells([], missing=True) == {}
    shutil.rmtree(study / "out")
    assert set(cells._stale_cells([], missing=True)) == {"listing"}
    (study / "dvc.yaml").write_text(text)

    # a change of one cell runs this one and those that depend on it
    text = (study / "dvc.yaml").read_text().replace("cat x y", "cat y x")
    (study / "dvc.yaml").write_text(text)
    commit(study)
    assert set(cells._stale_cells([], missing=True)) == {"report"}


@pytest.mark.slow
def test_a_failed_cell_returns_its_output_and_a_terminated_one_can_resume(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = STAGES | {
        "wrong": {"cmd": "echo broken >&2; exit 3", "outs": ["wrong"]},
        "long": {"cmd": "sleep 60", "outs": ["long"]},
    }
    (study / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    commit(study)
    monkeypatch.setenv(node.CLONES, str(study.parent / "n0"))
    ended = node.work(described(study), "wrong", {}, bundle, "n0")
    assert not ended.succeeded
    assert "broken" in ended.output
    assert "exit code 1" in ended.output

    def terminate() -> None:
        while True:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if child.cmdline()[:2] == ["sleep", "60"]:
                        next(one for one in child.parents() if "cell" in one.cmdline()).terminate()
                        return
            time.sleep(0.1)

    threading.Thread(target=terminate).start()
    with pytest.raises(node.PreemptedError, match="long was terminated on n0"):
        node.work(described(study), "long", {}, bundle, "n0")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_interruption_reaches_the_stage_where_ray_blocks_its_signal(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = STAGES | {"long": {"cmd": "sleep 300", "outs": ["long"]}}
    (study / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    commit(study)
    monkeypatch.setenv(node.CLONES, str(study.parent / "n0"))
    found: list[psutil.Process] = []

    def interrupt() -> None:
        while not found:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    found.extend([child] if child.cmdline() == ["sleep", "300"] else [])
            time.sleep(0.1)
        _thread.interrupt_main()  # as Ray cancels a task

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            node.work(described(study), "long", {}, bundle, "n0")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    psutil.wait_procs(found, timeout=10)
    assert not any(one.is_running() for one in found)


def test_a_clone_has_only_the_files_of_its_commit_and_is_not_used_twice(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(node.CLONES, str(study.parent / "n0"))
    with node.clone(described(study), bundle) as first:
        (first / "data").mkdir()
        (first / "x").write_text("of an earlier cell")
        (first / ".ecgforge").mkdir()
        with node.clone(described(study), bundle) as second:
            assert second != first
    (study / "new").write_text("")
    commit(study)
    with node.clone(described(study), bundle) as again:
        assert again == first
        assert (again / "new").exists()
        assert not (again / "x").exists()
        assert not (again / "data").exists()
        assert (again / ".ecgforge").exists()
        assert git(again, "config", "user.name") == "Ada"
        with Repo(str(again)) as repo:
            assert repo.config["remote"]["shared"]["url"] == str(study.parent / "remote")
            assert Path(repo.cache.local.path).is_relative_to(study.parent / "n0")


def test_a_node_with_other_packages_runs_nothing(study: Path) -> None:
    other = described(study)
    other.packages["torch"] = "1.0"
    ended = node.work(other, "prepare", {}, bundle, "n0")
    assert not ended.succeeded
    assert "this node has other packages: torch 2." in ended.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MLFLOW_TRACKING_URI": ""}, "in a SQLite file"),
        ({"MLFLOW_TRACKING_URI": "postgresql://host/db"}, "in a database without a server"),
        ({"new": "file"}, "the last commit, and some files differ from it .new."),
        ({"url": "https://example.org"}, "the remote 'shared' is at https://example.org"),
        ({"url": ""}, "there is no default remote"),
        ({}, ""),
    ],
)
def test_what_other_machines_cannot_do_is_refused_before_work_starts(
    study: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    uri = change.get("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    if "new" in change:
        (study / "new").write_text("")
    if "url" in change:
        with Repo() as repo, repo.config.edit("repo") as config:
            config["remote"] = {"shared": {"url": change["url"]}} if change["url"] else {}
            config["core"] = {"remote": "shared"} if change["url"] else {}
        commit(study)
    if not message:
        remote.check(study)
        return
    with pytest.raises(EcgforgeError, match=message):
        remote.check(study)


def test_trials_on_several_machines_need_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    cells = [Cell("train_generator@ptbxl-diffwave"), Cell("tune_generator@ptbxl-diffwave")]
    monkeypatch.delenv("ECGFORGE_TUNING_STORAGE", raising=False)
    remote.check_tuning(cells, Params(**tree))  # no trials
    tree["profiles"]["demo"]["generators"]["diffwave"]["tuning"]["n_trials"] = 2
    params = Params(**tree)
    remote.check_tuning(cells[:1], params)
    for url in ("", "sqlite:///tuning.db", "mysql://host/studies"):
        monkeypatch.setenv("ECGFORGE_TUNING_STORAGE", url)
        with pytest.raises(EcgforgeError, match=r"tune_generator@ptbxl-diffwave has trials"):
            remote.check_tuning(cells, params)
    monkeypatch.setenv("ECGFORGE_TUNING_STORAGE", "postgresql+psycopg://host/studies")
    remote.check_tuning(cells, params)


@pytest.mark.usefixtures("study")
def test_an_unknown_cell_is_named() -> None:
    with pytest.raises(EcgforgeError, match="'train@z' is not a cell of this study"):
        remote.run("train@z")


def test_a_shared_cache_needs_no_remote(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with Repo() as repo, repo.config.edit("repo") as config:
        config["remote"], config["core"] = {}, {}
        config["cache"] = {"dir": str(study.parent / "cache")}
    commit(study)
    remote.check(study)


def test_settings_of_the_study_reach_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    monkeypatch.setenv("ECGFORGE_WARM", "/socket")
    monkeypatch.setenv(folders.STATE, "shared")
    monkeypatch.setenv("ANY", "other")
    found = node.passed_on()
    assert found["MLFLOW_TRACKING_TOKEN"] == "secret"
    assert found[folders.STATE] == str(Path.cwd() / "shared")
    assert not {"ECGFORGE_WARM", "ANY"} & found.keys()


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Open a run with one fingerprint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "params.yaml").write_text("")
    key = runs.RunKey("classifier", "ptbxl", 0, True, setting="TrRTeR")
    return lambda: runs.tracked(key, fingerprint="f", params={}, inputs=[])


def test_a_process_that_returns_after_its_run_was_taken_up_writes_nothing(
    tracked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(runs.NODE, "n1")

    def slow() -> None:
        with tracked() as first:
            first.log({"loss": 1.0}, 0)
            first.flush()
            monkeypatch.setenv(runs.NODE, "n2")
            with tracked() as second:
                assert second.id == first.id
                second.log({"loss": 2.0}, 1)
            first.log({"loss": 9.0}, 2)
            first.flush()

    with pytest.raises(SupersededError, match=r"has taken up the run .*2:n2:"):
        slow()
    [found] = store.runs()
    assert found.info.status == "FINISHED", "the end of the first process does not change it"
    history = store.client().get_metric_history(found.info.run_id, "loss")
    assert [point.value for point in history] == [1.0, 2.0]


def test_a_run_that_another_machine_has_taken_up_is_not_ended_as_killed(
    tracked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(runs.NODE, "n2")
    with tracked() as run:
        run_id = run.id
        store.client().update_run(run_id, status="RUNNING")
    store.client().update_run(run_id, status="RUNNING")
    (Path(runs.AT_WORK) / run_id).touch()
    monkeypatch.setenv(runs.NODE, "n1")
    runs.end_killed()
    assert store.client().get_run(run_id).info.status == "RUNNING"
    (Path(runs.AT_WORK) / run_id).touch()
    monkeypatch.setenv(runs.NODE, "n2")
    runs.end_killed()
    assert store.client().get_run(run_id).info.status == "KILLED"


def test_what_cells_occupy() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(engine.GPUS) < set(stages)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    demo = tree["profiles"]["demo"]
    demo["compute"]["threads"] = 4
    train, tune = Cell("train_generator@ptbxl-diffwave"), Cell("tune_generator@ptbxl-diffwave")
    on_cpu = Params(**tree)
    assert engine.needs(train, on_cpu) == Needs(4, 0.0)
    assert engine.short(tune, on_cpu)
    demo["compute"]["accelerator"] = "auto"
    demo["generators"]["diffwave"]["tuning"]["n_trials"] = 2
    on_gpu = Params(**tree)
    assert engine.needs(train, on_gpu) == Needs(4, 1.0)
    assert engine.needs(Cell("classify@ptbxl-diffwave"), on_gpu) == Needs(4, 0.25)
    assert engine.needs(Cell("prepare@ptbxl"), on_gpu) == Needs(1, 0.0)
    assert [engine.short(one, on_gpu) for one in (Cell("report"), train, tune)] == [1, 0, 0]


def test_trials_that_share_a_training_run_on_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    demo = tree["profiles"]["demo"]
    classify, generate = Cell("tune_classifier@ptbxl"), Cell("tune_generator@ptbxl-diffwave")

    def workers() -> list[int]:
        params = Params.model_validate(tree)
        return [engine.workers(one, params) for one in (classify, generate, Cell("report"))]

    monkeypatch.setenv(folders.STATE, "/shared")
    assert workers() == [0, 0, 0], "there are no trials"
    demo["classifiers"]["resnet1d"]["tuning"] = {"n_trials": 3, "workers": 8}
    diffwave = demo["generators"]["diffwave"]
    diffwave["tuning"] = {"n_trials": 9, "workers": 8}
    assert workers() == [3, 1, 0]
    rate = {"low": 0.0001, "high": 0.01}
    diffwave["tuning"]["space"] = {"training.denoiser.learning_rate": rate}
    assert workers() == [3, 8, 0]
    monkeypatch.delenv(folders.STATE)
    assert workers() == [3, 1, 0], "the best training would stay on another machine"


def test_a_further_worker_of_a_cell_runs_its_command_and_returns_no_outputs(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(node.CLONES, str(tmp_path / "clones"))
    known = described(study)
    prepared = node.work(known, "prepare", {}, bundle, "a").entry
    assert prepared is not None
    entries, clone = {"prepare": prepared}, node._home(known) / "0"
    assert node.work(known, "train@x", entries, bundle, "a", 1) == Ended(True, "a")
    assert (clone / "x").read_text() == "1\n"
    assert set(lock.stages((clone / lock.LOCK).read_text()) or {}) == {"prepare"}


def test_the_time_left_is_that_of_the_work_or_of_the_longest_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["a@1", "a@2", "a@3", "b@1", "b@2"]
    study = {name: Cell(name) for name in names}
    study["c"] = Cell("c", waits=frozenset({"b@1"}))
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    progress = Progress(study)
    assert progress.line("a@1", "", 90.0, 1) == "[1/6] a@1"
    progress.line("b@2", "n1", 70.0, 1)
    # a: 10 s, b: 30 s, c: as the mean, 20 s
    assert progress.left(1) == 10 + 10 + 30 + 20
    assert progress.left(10) == 30 + 20
    assert progress.line("a@2", "n1", 90.0, 1) == "[3/6] a@2 on n1, about 0:00:47 left"


def test_the_local_engine_runs_cells_by_the_same_interface() -> None:
    with local.pool([None], os.path.isdir) as pool:
        assert pool.submit(Cell("/"), Needs()).result() == Ended(True)
        assert pool.submit(Cell("/nowhere"), Needs()).result() == Ended(False)
