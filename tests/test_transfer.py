"""A study that is carried to another clone, by DVC's remote and the file of `ecgforge export`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking._tracking_service import utils

import registry_project as project
from champions import PARAMS
from ecgforge import files
from ecgforge.commands import lineage, promote, transfer
from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import history
from ecgforge.pipeline import cells
from ecgforge.records.record_set import RecordSet
from ecgforge.tracking import archive, runs, store
from registry_project import NAME, git
from test_trust import SERVICE, name_keys, write_keys

pytestmark = pytest.mark.slow
STAGE = {
    "matrix": {"dataset": ["ptbxl"]},
    "cmd": "ecgforge",
    "deps": ["data/prepared/${item.dataset}"],
    "outs": ["models/classifiers/${item.dataset}/real"],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone with two versions, the first one a signed champion. Its data are in a remote, its
    runs in ../study.zip.
    """
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("transfer") / "first"
    folder.mkdir()
    patch.chdir(folder)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.setenv("DVC_STAGE", "")
    project.make(folder)
    tree = yaml.safe_load(Path("dvc.yaml").read_text())
    tree["stages"]["classify_real"] = STAGE
    Path("dvc.yaml").write_text(yaml.safe_dump(tree))
    git("commit", "-q", "-a", "-m", "a stage")
    write_keys(folder.parent, "key")
    name_keys("../key.pem", "../key.pub")
    records = RecordSet.open(Path("data/prepared/ptbxl"))
    for seed, accuracy in enumerate((0.85, 0.97), 1):
        project.register(records, accuracy, seed, service=SERVICE)
    project.record("classify_real@ptbxl", Path("models/classifiers/ptbxl/real"), [records.folder])
    promoted("1")
    with dvc() as repo, repo.config.edit("repo") as config:
        config["remote"] = {"folder": {"url": str(folder.parent / "remote")}}
        config["core"]["remote"] = "folder"
    with dvc() as repo:
        repo.push()
    git("add", ".")
    git("commit", "-q", "-m", "a study")
    transfer.export(Path("../study.zip"))
    yield folder
    patch.undo()


def dvc() -> Any:
    from dvc.repo import Repo

    return Repo(".")


def promoted(number: str) -> None:
    promote.promote(PARAMS, NAME, number, False, False, False, "")


@pytest.fixture
def clone(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new clone without runs and data; the current folder."""
    git("clone", "-q", str(study), str(tmp_path / "second"))
    monkeypatch.chdir(tmp_path / "second")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("key.pem", "key.pub"):
        shutil.copy(study.parent / name, tmp_path / name)
    git("config", "user.name", "Ben")
    utils._artifact_repos_cache.clear()  # by run id, and both clones have the same ids
    return tmp_path / "second"


def test_another_clone_verifies_and_promotes_and_has_nothing_to_run(
    study: Path, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()}
    transfer.pull()
    transfer.import_(study.parent / "study.zip")
    assert "mlflow.db has 2 runs and 2 versions." in capsys.readouterr().out
    lineage.verify([f"{NAME}/2"])
    lineage.verify([])
    said = capsys.readouterr()
    assert "as registered and signed" in said.out
    assert (said.err, "LOST" in said.out) == ("", False)
    promoted("2")
    assert [(entry.who, entry.version) for entry in history.entries(NAME)] == [
        ("Ada", "1"),
        ("Ben", "2"),
    ]
    assert history.faults(NAME) == []
    assert cells.repro([]) == 0
    assert "up to date" in capsys.readouterr().err
    (run,) = store.runs("tags.`ecgforge.fingerprint` = '00000000000000000000000000000001'")
    assert run.info.artifact_uri.startswith(f"{clone}/mlruns/")
    after = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()}
    assert after == before, "the first clone is not touched"


def test_a_pull_that_cannot_work_is_one_line(
    clone: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = (clone / ".dvc/config").read_text()
    lock = clone / "dvc.lock"
    ways: dict[str, Callable[[], Any]] = {
        "no DVC remote: name the one .*`dvc remote add -d": lambda: with_config("[core]\n"),
        "lacks 2 outputs of this commit, such as data/prepared/ptbxl: run `dvc push`": lambda: (
            with_config(config.replace("/remote", "/nowhere"))
        ),
        "no dvc.lock": lambda: lock.rename(tmp_path / "lock"),
    }
    for words, way in ways.items():
        way()
        with pytest.raises(EcgforgeError, match=words) as refusal:
            transfer.pull()
        assert "\n" not in str(refusal.value)
    assert "md5" not in "".join(capfd.readouterr())


def with_config(text: str) -> None:
    Path(".dvc/config").write_text(text)


def kept(folder: Path) -> dict[str, bytes]:
    """The files of MLflow in a project, without locks."""
    paths = [*folder.glob("mlflow.db"), *folder.glob(".ml*"), *(folder / "mlruns").rglob("*")]
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


@pytest.mark.parametrize("clone_has", ["the same study", "an experiment", "files"])
def test_what_a_clone_has_is_not_replaced(study: Path, clone: Path, clone_has: str) -> None:
    store.initialise()
    if clone_has == "the same study":
        transfer.import_(study.parent / "study.zip")
    elif clone_has == "an experiment":
        store.client().create_experiment("mine")
    else:
        (clone / "mlruns").mkdir()
        (clone / "mlruns/notes.txt").write_text("mine")
    before = kept(clone)
    words = "notes.txt exists, and" if clone_has == "files" else "does not merge studies"
    with pytest.raises(EcgforgeError, match=words):
        transfer.import_(study.parent / "study.zip")
    assert kept(clone) == before


def killed(function: Callable[[], None], patch: Callable[[], None]) -> None:
    """Call a function in a process that `patch` has killed."""
    pid = os.fork()
    if not pid:
        patch()
        function()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("when", ["after some files", "before the database"])
def test_a_killed_import_leaves_no_runs_and_can_be_repeated(
    study: Path, clone: Path, when: str
) -> None:
    extract, rename, calls = archive._extract, files._replace, []

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def patch() -> None:
        def extracted(*given: Any) -> None:
            calls.append(extract(*given))
            if when == "after some files" and len(calls) == 3:
                kill()

        def renamed(*given: Any) -> None:
            rename(*given)
            kill()

        archive._extract = extracted
        files._replace = renamed  # type: ignore[assignment]

    file = study.parent / "study.zip"
    killed(lambda: transfer.import_(file), patch)
    assert not (clone / "mlflow.db").exists()
    assert (clone / "mlruns").exists() == (when == "before the database")
    transfer.import_(file)
    assert len(store.runs()) == 2
    assert not list(clone.glob(".ml*")), "nothing is left of the killed import"


def changed(file: Path, name: str, content: bytes | None = None, **about: str) -> None:
    """Write a file of an archive again, with another content."""
    with zipfile.ZipFile(file) as old:
        members = {one: old.read(one) for one in old.namelist()}
    if about:
        content = json.dumps(json.loads(members[archive.ABOUT]) | about).encode()
    with zipfile.ZipFile(file, "w") as new:
        for one, held in (members | {name: content or b""}).items():
            new.writestr(one, held)


def test_what_export_did_not_write_is_one_line(study: Path, clone: Path, tmp_path: Path) -> None:
    whole, file = study.parent / "study.zip", tmp_path / "other.zip"
    damages: dict[str, Callable[[], Any]] = {
        "damaged": lambda: file.write_bytes(whole.read_bytes()[:5000]),
        "unexpected content: ../outside": lambda: changed(file, "../outside", b"x"),
        "file is not a database": lambda: changed(file, "mlflow.db", b"x" * 5000),
        "MLflow 9.9, which is newer": lambda: changed(
            file, archive.ABOUT, mlflow="9.9", schema="f00d"
        ),
        "does not exist": file.unlink,
    }
    for words, damage in damages.items():
        shutil.copy(whole, file)
        damage()
        with pytest.raises(EcgforgeError, match=words) as refusal:
            transfer.import_(file)
        assert "\n" not in str(refusal.value)
        assert not kept(clone)
    with pytest.raises(EcgforgeError, match="is a folder: name a file"):
        transfer.import_(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"second", "key.pem", "key.pub"}


def test_what_is_not_exported_is_said(
    study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "new.zip"
    monkeypatch.chdir(study)
    (tmp_path / "other.zip").write_text("the user's")
    with pytest.raises(EcgforgeError, match="was not written by this command"):
        transfer.export(tmp_path / "other.zip")
    copy = tmp_path / "mlflow.db"
    with closing(sqlite3.connect("mlflow.db")) as one, closing(sqlite3.connect(copy)) as other:
        one.backup(other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}")
    key = replace(runs.RunKey("quality", "ptbxl", 1, True), generator="diffwave")
    with (
        runs.tracked(key, fingerprint="a", params={}, inputs=[]),
        pytest.raises(EcgforgeError, match="is in progress: export when it has ended"),
    ):
        transfer.export(file)
    assert not file.exists()
    client = store.client()
    client.create_run(client.create_experiment("other", artifact_location="s3://bucket/x"))
    transfer.export(file)
    assert "lacks the files of 1 runs or models, which are at other" in capsys.readouterr().err
    for call in (transfer.export, transfer.import_):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@example.org")
        with pytest.raises(EcgforgeError, match=r"server http://me:\*\*\*@example.org"):
            call(file)
