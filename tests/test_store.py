"""The tracking store in projects that are moved, copied, oddly named, damaged, or of a git that
gives no answer.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from ecgforge.errors import EcgforgeError
from ecgforge.tracking import home, runs, store
from ecgforge.tracking.runs import RunKey, tracked

pytestmark = pytest.mark.slow

KEY = RunKey("quality", "ptbxl", 1, simulated=True, generator="diffwave")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No address and no run of a former test's, and none of this one's for the next."""
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_RUN_ID",
        runs.PARENT,
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "DVC_STAGE",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs; making one takes seconds."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        store.initialise()
    return folder / "mlflow.db"


@pytest.fixture
def study(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """A project with a run and a model, each with a file; the current folder."""
    folder = tmp_path / "study"
    enter(folder, monkeypatch, empty)
    client = store.client()
    with opened() as run:
        run.text("scores", "scores.txt")
        (folder / "weights").write_text("weights")
        model = client.create_logged_model(run.experiment_id, "model", run.id)
        client.log_model_artifact(model.model_id, str(folder / "weights"))
    client.create_registered_model("model")
    client.create_model_version(
        "model", f"models:/{model.model_id}", run.id, model_id=model.model_id
    )
    capsys.readouterr()
    return folder


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch, database: Path | None = None) -> None:
    """Work in a project, of a process that has seen no other."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").touch()
    if database:
        shutil.copy(database, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    utils._artifact_repos_cache.clear()


def opened(name: str = "a") -> Any:
    return tracked(KEY, fingerprint=name, params={}, inputs=[])


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def works_alone(folder: Path) -> None:
    """Check that what was kept can be read, and that what is written now lands in this project."""
    client = store.client()
    (run,) = store.runs("tags.`ecgforge.fingerprint` = 'a'")
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/scores.txt") == "scores"
    weights = mlflow.artifacts.download_artifacts("models:/model/1", dst_path=str(folder / "got"))
    assert Path(weights, "weights").read_text() == "weights"
    client.log_text(run.info.run_id, "more", "more.txt")
    with opened("b") as other:
        other.text("new", "new.txt")
    assert {"more.txt", "new.txt"} <= {path.name for path in (folder / "mlruns").rglob("*.txt")}


# Moved and copied projects


@pytest.mark.parametrize("name", ["elsewhere", "study2", "100% ü #1 [x]; a&b"])
def test_a_project_that_was_moved_works_and_writes_nothing_outside(
    study: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    moved = tmp_path / name
    study.rename(moved)
    enter(moved, monkeypatch)
    works_alone(moved)
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert capsys.readouterr().err.count("mlflow.db came from") == 1
    enter(tmp_path, monkeypatch)
    (tmp_path / "params.yaml").unlink()
    moved.rename(study)
    enter(study, monkeypatch)
    works_alone(study)
    assert (
        f"mlflow.db came from {moved}: the files of its runs and models are now expected in "
        f"{study}/mlruns\n" in capsys.readouterr().err
    )


def test_a_copy_and_its_original_do_not_touch_each_other(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "study" / "copy"
    shutil.copytree(study, tmp_path / "scratch", symlinks=True)
    shutil.move(tmp_path / "scratch", copy)
    before = {
        name: content for name, content in files(study).items() if not name.startswith("copy/")
    }
    enter(copy, monkeypatch)
    works_alone(copy)
    assert {
        name: content for name, content in files(study).items() if not name.startswith("copy/")
    } == before
    before = files(copy)
    enter(study, monkeypatch)
    works_alone(study)
    assert files(copy) == before


def test_a_database_without_a_note_says_where_it_was_made(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute(f"DROP TABLE {home.NOTE}")
        connection.execute("PRAGMA user_version = 1")
    study.rename(tmp_path / "moved")
    enter(tmp_path / "moved", monkeypatch)
    works_alone(tmp_path / "moved")
    assert not study.exists()


def test_other_addresses_stay(empty: Path, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(empty, database)
    before = empty.parent
    given = {
        f"{before}/mlruns/x": f"{tmp_path}/mlruns/x",
        f"file://{before}/mlruns/a%20b": f"{tmp_path}/mlruns/a b",
        f"{before}2/mlruns/x": f"{before}2/mlruns/x",
        "/elsewhere/on/purpose": "/elsewhere/on/purpose",
        f"s3://bucket{before}/x": f"s3://bucket{before}/x",
        f"file://host{before}/x": f"file://host{before}/x",
        "mlflow-artifacts:/1": "mlflow-artifacts:/1",
    }
    with closing(sqlite3.connect(database)) as connection, connection:
        for number, address in enumerate(given):
            connection.execute(
                "INSERT INTO runs (run_uuid, artifact_uri) VALUES (?, ?)", [str(number), address]
            )
    home.follow(database)
    with closing(sqlite3.connect(database)) as connection:
        assert [
            row[0] for row in connection.execute("SELECT artifact_uri FROM runs ORDER BY run_uuid")
        ] == list(given.values())


def test_files_that_did_not_come_along_are_named(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    enter(tmp_path / "alone", monkeypatch, study / "mlflow.db")
    store.initialise()
    assert f"which does not exist yet: copy {study}/mlruns to it" in capsys.readouterr().err


def test_a_link_to_a_project_is_no_other_place(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "link").symlink_to(study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/link/mlflow.db")
    store.initialise()
    assert capsys.readouterr().err == ""
    assert store.runs()[0].info.artifact_uri.startswith(str(study))


def test_a_store_of_another_place_follows_that_place(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of a database outside the project: its files lie next to it."""
    kept = tmp_path / "kept"
    study.rename(kept)
    enter(tmp_path / "other", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{kept}/mlflow.db")
    works_alone(kept)


# Folders of odd names


@pytest.mark.parametrize("name", ["100% study", "a#b", "ü Übung [x]", "a;b&c", "50%", "it's"])
def test_odd_names_work(
    empty: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path / name, monkeypatch, empty)
    with opened() as run:
        run.text("scores", "scores.txt")
    assert (
        mlflow.artifacts.load_text(f"{store.run(run.id).info.artifact_uri}/scores.txt") == "scores"
    )
    assert {path.name for path in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize(
    ("name", "letters"),
    [("what?", "?"), ("hundred%20percent", "%20"), ("a%3Fb", "%3F"), ("no\udce4utf8", "\\xe4")],
)
def test_names_that_mlflow_misreads_are_refused_by_name(
    tmp_path: Path, name: str, letters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path / name, monkeypatch)
    for call in (
        store.initialise,
        store.client,
        store.ensure_reachable,
        lambda: opened().__enter__(),
    ):
        with pytest.raises(EcgforgeError, match="rename the folder") as refusal:
            call()
        assert f"misreads '{letters}'" in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in Path().iterdir()] == ["params.yaml"]


# Damaged stores


def cut_short(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:300_000])


def garbage(database: Path) -> None:
    database.write_bytes(b"no database, " * 1000)


def folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


def emptied(database: Path) -> None:
    (database.parent / "mlruns/1/run").mkdir(parents=True)
    database.write_bytes(b"")


def newer(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00d'")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_short, "malformed.*move it away"),
        (garbage, "not a database.*move it away"),
        (folder, "it is a folder.*move it away"),
        (emptied, "it is empty, and mlruns is not.*move it away"),
        (
            newer,
            "a newer MLflow than the installed .* .its schema is f00d.: install that version",
        ),
    ],
)
def test_a_damaged_store_is_one_line_everywhere(
    empty: Path, tmp_path: Path, damage: Any, words: str, monkeypatch: Any
) -> None:
    enter(tmp_path / "study", monkeypatch, empty)
    damage(Path("mlflow.db"))
    before = files(Path())
    for call in (
        store.initialise,
        store.client,
        store.ensure_reachable,
        store.runs,
        lambda: opened().__enter__(),
    ):
        with pytest.raises(EcgforgeError, match=words) as refusal:
            call()
        assert "\n" not in str(refusal.value)
    assert {
        name: content for name, content in files(Path()).items() if not name.endswith(".lock")
    } == before


def test_damage_that_only_a_query_meets_is_one_line_too(study: Path) -> None:
    with closing(sqlite3.connect("mlflow.db")) as connection:
        page = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'runs'"
        ).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with Path("mlflow.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"x" * size)
    assert (study / "mlflow.db").exists()
    for call in (store.runs, lambda: opened().__enter__()):
        with pytest.raises(
            EcgforgeError, match="mlflow.db cannot be used .*malformed.: move it away"
        ) as refusal:
            call()
        assert "\n" not in str(refusal.value)


def test_a_former_folder_that_may_not_be_looked_into_is_no_hindrance(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project that was copied from another person's folder."""
    moved, stat = tmp_path / "moved", os.stat
    study.rename(moved)
    enter(moved, monkeypatch)

    def refuse(path: Any, *arguments: Any, **others: Any) -> Any:
        if str(path).startswith(f"{study}"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **others)

    monkeypatch.setattr(os, "stat", refuse)
    works_alone(moved)


@pytest.mark.usefixtures("study")
def test_a_store_that_cannot_be_written_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (mode & os.W_OK and Path(path).name == "mlflow.db")
    )
    store._check_once.cache_clear()  # as in another process
    with pytest.raises(EcgforgeError, match="it is read-only.*make it writable"):
        store.client()


@pytest.mark.usefixtures("study")
def test_a_deleted_experiment_is_named_with_the_way_back() -> None:
    client = store.client()
    experiment = client.get_experiment_by_name(runs.EXPERIMENT).experiment_id
    client.delete_experiment(experiment)
    with (
        pytest.raises(
            EcgforgeError,
            match=f"'ecgforge' was deleted: .*mlflow experiments restore -x {experiment}`",
        ),
        opened("c"),
    ):
        pass
    with pytest.raises(EcgforgeError, match="was deleted"):
        store.serve(0, runs.EXPERIMENT, runs.CHARTS)  # 0: any free port
    client.restore_experiment(experiment)
    with opened("c"):
        pass


def test_the_ui_of_a_server_is_the_servers_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Client:
        def get_experiment_by_name(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(name=name, experiment_id="7", lifecycle_stage="active")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@example.org/mlflow/")
    monkeypatch.setattr(store, "ensure_reachable", lambda: None)
    monkeypatch.setattr(store, "client", Client)
    store.serve(0, runs.EXPERIMENT, {"Settings": "tags.a = 'b'"})
    settings, models, _ = capsys.readouterr().out.splitlines()
    start = (
        "Settings: https://example.org/mlflow/#/experiments/7/runs?workflowType=machine_learning"
    )
    assert settings.startswith(start)
    assert models == "Models: https://example.org/mlflow/#/models"


def test_the_ui_does_not_start_outside_of_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "project_root", lambda: tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(EcgforgeError, match=r"neither params.yaml nor mlflow.db: run this in the"):
        store.serve(0, runs.EXPERIMENT, runs.CHARTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("study")
def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON metrics BEGIN SELECT RAISE(ABORT, 'database or "
            "disk is full'); END"
        )
    with (
        pytest.raises(
            EcgforgeError,
            match="no space is left on the disk .*: free some space and run the stage again",
        ) as refusal,
        opened() as run,
    ):
        run.summary({f"figure {number}": number for number in range(300)})
    assert str(refusal.value).count("(") == 1
    assert "(database or disk is full)" in str(refusal.value)
    assert "INSERT" not in capsys.readouterr().err
    with pytest.raises(EcgforgeError, match="no space is left on the disk"), opened():
        raise RuntimeError("writing a checkpoint failed") from OSError(
            28, "No space left on device"
        )
    assert store.run(run.id).info.status == "FAILED"


def test_what_others_log_is_not_silenced() -> None:
    assert logging.getLogger("mlflow").getEffectiveLevel() < logging.CRITICAL


# Several at once


@pytest.mark.usefixtures("study")
def test_a_reader_that_is_open_does_not_stop_a_training() -> None:
    """As MLflow's UI is, which polls what it shows."""
    done, seen = threading.Event(), []

    def read() -> None:
        reader = MlflowClient(store.configure(), store.configure())
        while not done.is_set():
            seen.extend(
                run.data.metrics for run in reader.search_runs([experiment], max_results=10)
            )

    experiment = store.client().get_experiment_by_name(runs.EXPERIMENT).experiment_id
    polling = threading.Thread(target=read)
    polling.start()
    try:
        with opened("b") as run:
            for step in range(20):
                run.log({"loss": 1 / (step + 1)}, step)
                run.flush()
    finally:
        done.set()
        polling.join()
    assert len(store.client().get_metric_history(run.id, "loss")) == 20
    assert any("loss" in metrics for metrics in seen)


# Processes that were killed


def left_by_a_kill(name: str = "killed") -> str:
    """The id of a run whose process was killed outright."""
    code = (
        "import os, signal\nfrom ecgforge.tracking.runs import RunKey, tracked\n"
        "with tracked(RunKey('quality', 'ptbxl', 1, True, generator='diffwave'), "
        f"fingerprint={name!r}, params={{}}, inputs=[]):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (run,) = store.runs(f"tags.`ecgforge.fingerprint` = '{name}'")
    assert run.info.status == "RUNNING"
    return str(run.info.run_id)


@pytest.mark.usefixtures("study")
def test_a_run_whose_process_was_killed_is_ended_by_the_next_one() -> None:
    killed = left_by_a_kill()
    with opened("b") as run:
        assert runs.at_work(run.id)
        assert not runs.at_work(killed)
        runs.end_killed()
        assert store.run(run.id).info.status == "RUNNING", "its process lives"
    ended = store.run(killed)
    assert (ended.info.status, ended.data.tags[runs.REASON]) == ("KILLED", "its process was killed")
    assert not list(runs.AT_WORK.iterdir())
    with opened("killed") as again:
        assert again.id == killed
    assert store.run(killed).info.status == "FINISHED"
    assert runs.REASON not in store.run(killed).data.tags


# Git


def git(*arguments: str, folder: Path | None = None) -> None:
    subprocess.run(
        ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.mark.usefixtures("study")
def test_no_repository_is_no_problem_and_a_git_that_refuses_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert store.git_problem() == ""
    git("init", "-q")
    assert store.git_problem() == ""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with (
        pytest.raises(
            EcgforgeError,
            match="cannot be recorded: git refuses .*dubious ownership.*--add safe.directory",
        ),
        opened("b"),
    ):
        pass
    assert [run.data.tags["ecgforge.fingerprint"] for run in store.runs()] == ["a"], (
        "nothing was started"
    )
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    monkeypatch.setenv("PATH", str(Path.cwd()))
    assert (
        store.git_problem()
        == f"git is not installed, and {Path.cwd()} is a git repository: install git"
    )
    shutil.rmtree(".git")
    assert store.git_problem() == ""


def test_a_damaged_repository_is_distinguished_from_none(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert "not a git repository" in store.git_problem(tmp_path)


def test_changes_outside_the_project_in_a_larger_repository_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, inner = tmp_path / "study", tmp_path / "study" / "src"
    inner.mkdir(parents=True)
    free = ("study/params.yaml", "study/matrix.yaml", "study/dvc.lock", "other.txt")
    for path in (*free, "study/src/a.py"):
        (tmp_path / path).write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    for folder in (study, inner):
        monkeypatch.chdir(folder)
        for path in free:
            (tmp_path / path).write_text("2")
        assert not runs.uncommitted()
        (study / "src/a.py").write_text("2")
        assert runs.uncommitted()
        (study / "src/a.py").write_text("1")
