"""What the garbage collector frees and what it leaves alone, in projects with untrained models:
copies, links, kills, lost git.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow.tracking._tracking_service import utils

import registry_project as project
from ecgforge.commands import gc as collect
from ecgforge.commands import reproduce
from ecgforge.errors import EcgforgeError
from ecgforge.files import md5
from ecgforge.model_versions import history, versions
from ecgforge.model_versions.models import WEIGHTS
from ecgforge.provenance import lineage
from ecgforge.provenance.dvc_store import DvcStore, Step
from ecgforge.study import predictions
from ecgforge.study.experiment import Experiment
from ecgforge.tracking import runs, store
from ecgforge.tracking.runs import FINGERPRINT, RunKey, tracked

pytestmark = pytest.mark.slow

NAME = project.NAME
CLASSIFIER = RunKey("classifier", "ptbxl", 1, True, setting="TrRTeR", backbone="resnet1d")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with git, DVC and an empty tracking store."""
    folder = tmp_path_factory.mktemp("template") / "study"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        project.make(folder)
        store.initialise()
    return folder


@pytest.fixture
def study(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "DVC_STAGE", "ECGFORGE_WARM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    shutil.copytree(template, tmp_path / "study", symlinks=True)
    enter(tmp_path / "study", monkeypatch)
    return tmp_path / "study"


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a project, of a process that has seen no other."""
    monkeypatch.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    utils._artifact_repos_cache.clear()


def opened(name: str) -> Any:
    return tracked(replace(CLASSIFIER, backbone=name), fingerprint=name, params={}, inputs=[])


def logged(run: runs.Run) -> str:
    """A model of a run, not registered yet."""
    client = store.client()
    tags = {**run.provenance, WEIGHTS: md5(Path("params.yaml"))}
    model = client.create_logged_model(run.experiment_id, NAME, run.id, tags)
    client.log_model_artifact(model.model_id, "params.yaml")
    return str(model.model_id)


def registered(name: str) -> versions.Version:
    """A version that no commit needs."""
    client = store.client()
    with opened(name) as run:
        run.text("a figure", "figure.txt")
        model = logged(run)
        if not versions.versions(NAME):
            client.create_registered_model(NAME)
        client.create_model_version(
            NAME, f"models:/{model}", run.id, {**run.provenance, WEIGHTS: "0" * 32}, model_id=model
        )
    return versions.versions(NAME)[-1]


def files(folder: Path) -> dict[str, bytes]:
    held = (
        path
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.parts and "tmp" not in path.parts
    )
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in held
        if not path.name.startswith("mlflow.db")
    }


# Copies, links, and rows that name anything


def test_a_copy_frees_its_own_files_and_none_of_the_originals(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered("stale")
    before = files(study)
    shutil.copytree(study, tmp_path / "copy", symlinks=True)
    enter(tmp_path / "copy", monkeypatch)
    collect.collect(True)
    assert versions.versions(NAME) == []
    assert not list((tmp_path / "copy").glob("mlruns/**/params.yaml"))
    assert files(study) == before


@pytest.mark.parametrize("place", ["the original", "data/prepared", "a link"])
def test_files_that_do_not_lie_in_the_store_are_left_alone(
    study: Path, tmp_path: Path, place: str, capsys: Any
) -> None:
    """Rows as a copy of an older ecgforge has them, or as someone wrote them."""
    version = registered("stale")
    model, outside = (
        version.source.removeprefix("models:/"),
        tmp_path / "original/mlruns/ecgforge/models",
    )
    address = {
        "the original": f"{outside}/{model}/artifacts",
        "data/prepared": f"{study}/data/prepared/ptbxl",
    }
    shutil.copytree(study / "mlruns/ecgforge/models" / model, outside / model)
    if place == "a link":
        shutil.rmtree(study / "mlruns/ecgforge/models" / model)
        (study / "mlruns/ecgforge/models" / model).symlink_to(outside / model)
    else:
        with closing(sqlite3.connect("mlflow.db")) as connection, connection:
            connection.execute("UPDATE logged_models SET artifact_location = ?", [address[place]])
    before = files(tmp_path / "original") | files(study / "data")
    collect.collect(True)
    assert files(tmp_path / "original") | files(study / "data") == before
    assert f"1 kept, since other projects may need them: {version.label}" in capsys.readouterr().out
    assert versions.versions(NAME) == [version]


def test_a_shared_store_keeps_what_other_projects_made(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    shutil.move(study / "mlflow.db", tmp_path / "shared/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared/mlflow.db")
    own, others = registered("own"), registered("others")
    store.client().set_model_version_tag(NAME, others.number, "git.commit", "1" * 40)
    found = collect.plan(DvcStore())
    assert [one.label for one in found.stale.versions] == [own.label]
    assert found.stale.left == [others.label]


def test_a_cache_or_a_folder_behind_a_link_is_left_alone(
    study: Path, tmp_path: Path, capsys: Any
) -> None:
    project.to_cache_only(tmp_path / "orphan")
    shutil.move(study / ".dvc/cache", tmp_path / "cache")
    (study / ".dvc/cache").symlink_to(tmp_path / "cache")
    (tmp_path / "synthetic/some").mkdir(parents=True)
    (study / ".ecgforge").mkdir(exist_ok=True)
    (study / ".ecgforge/synthetic").symlink_to(tmp_path / "synthetic")
    before = files(tmp_path / "cache")
    collect.collect(True)
    assert files(tmp_path / "cache") == before
    assert (tmp_path / "synthetic/some").exists()
    assert (
        f"2 kept, since other projects may need them: {study}/.ecgforge/synthetic/some, DVC's "
        "cache" in capsys.readouterr().out
    )


# What killed processes leave


@pytest.mark.usefixtures("study")
def test_unregistered_models_of_inactive_runs_are_removed() -> None:
    with opened("killed") as run:
        model = logged(run)
        assert collect.plan(DvcStore()).stale.models == []
    assert list(Path("mlruns").rglob(model))
    registered("other")
    store.client().set_registered_model_alias(NAME, "champion", "1")
    assert collect.plan(DvcStore()).stale.models == [model]
    collect.collect(True)
    assert not list(Path("mlruns").rglob(model))
    found = store.client().search_logged_models([run.experiment_id])
    assert [f"models:/{one.model_id}" for one in found] == [versions.versions(NAME)[0].source]


@pytest.mark.usefixtures("study")
def test_a_run_without_a_process_is_set_to_killed() -> None:
    with opened("left") as run:
        pass
    store.client().update_run(run.id, "RUNNING")
    with opened("at work") as other:
        assert collect.plan(DvcStore()).stale.killed == [(run.name, run.id)]
        collect.collect(True)
        assert store.run(other.id).info.status == "RUNNING"
    ended = store.run(run.id)
    assert (ended.info.status, ended.data.tags[runs.REASON]) == ("KILLED", "its process was killed")


def test_incomplete_outputs_are_removed_unless_they_are_the_only_copy(study: Path) -> None:
    left = [
        "data/prepared/.a.partial",
        "models/x/.b.former.partial",
        "reports/.c.partial",
        ".mlflow.db.partial",
    ]
    kept = ["data/prepared/.gone.former.partial", "models/x/b", "notes/.d.partial"]
    for path in (*left, *kept):
        (study / path).mkdir(parents=True)
    collect.collect(True)
    assert [path for path in (*left, *kept) if (study / path).exists()] == kept


@pytest.mark.parametrize(("words", "busy"), [(["prepare"], True), (["ui"], False)])
def test_nothing_is_removed_while_a_stage_runs_without_dvc(
    study: Path, tmp_path: Path, words: list[str], busy: bool
) -> None:
    program = tmp_path / "ecgforge"
    program.write_text("print('ready', flush=True); import time; time.sleep(60)")
    (study / "data/prepared/.a.partial").mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, str(program), *words], cwd=study, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            if busy:
                with pytest.raises(
                    EcgforgeError, match=f"process {process.pid}: .*ecgforge prepare"
                ):
                    collect.collect(True)
            else:
                collect.collect(True)
        finally:
            process.kill()
    assert (study / "data/prepared/.a.partial").exists() == busy


# Runs that results in a commit name


@pytest.mark.parametrize("file", ["predictions", "fingerprint.txt"])
def test_a_run_that_results_in_a_commit_name_is_kept(study: Path, file: str) -> None:
    """A later run with the same key has ended, and has no results yet."""
    results = study / "data/results"
    for name in ("first", "second", "third"):
        with tracked(CLASSIFIER, fingerprint=name, params={}, inputs=[]):
            pass
    if file == "predictions":
        row = Experiment("TrRTeR", "ptbxl", "resnet1d", 1)
        tested = predictions.Tested(row, "first", pd.DataFrame(columns=predictions.FACTS))
        predictions.write([tested], results)
    else:
        results.mkdir()
        (results / file).write_text("first\n")
    in_a_commit({"results.dvc": project.to_cache(results)})
    collect.collect(True)
    assert sorted(run.data.tags[FINGERPRINT] for run in store.runs()) == ["first", "third"]


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("other", [{"augmented": True}, {"dataset": "ptbxl_1of3"}, {"draw": 1}])
def test_another_point_of_the_study_supersedes_no_run(other: dict[str, Any]) -> None:
    for name, key in (("first", CLASSIFIER), ("second", replace(CLASSIFIER, **other))):
        with tracked(key, fingerprint=name, params={}, inputs=[]):
            pass
    collect.collect(True)
    assert sorted(run.data.tags[FINGERPRINT] for run in store.runs()) == ["first", "second"]


# Git, and records that are damaged


@pytest.mark.usefixtures("study")
def test_without_the_repository_nothing_is_removed_and_the_reason_is_reported(
    tmp_path: Path,
) -> None:
    version, orphan = registered("stale"), project.to_cache_only(tmp_path / "orphan")
    shutil.rmtree(".git")
    with pytest.raises(
        EcgforgeError,
        match="is not in a git repository: the outputs that its commits need are unknown",
    ):
        collect.collect(True)
    assert project.cached(orphan).exists()
    facts = lineage.trace(version.label, DvcStore()).made_from[0][1].facts
    assert facts["commit"].endswith("gone: there is no git repository here")
    with pytest.raises(EcgforgeError, match="is not in a git repository"):
        reproduce.reproduce(version.label)


@pytest.mark.usefixtures("study")
def test_a_failing_git_does_not_count_as_an_empty_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for call in (lambda: collect.collect(True), DvcStore):
        with pytest.raises(
            EcgforgeError, match="git refuses to work in .*: fatal: detected dubious ownership"
        ):
            call()


def in_a_commit(digests: dict[str, str], around: str = "") -> None:
    """Commit records with these digests, by file, and take them out of the working tree again."""
    for name, digest in digests.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(f"outs:\n- md5: {digest}\n  path: x\n{around}")
    project.git("add", "-f", *digests)
    project.git("commit", "-q", "-m", "records")
    project.git("rm", "-q", "--cached", *digests)
    for name in digests:
        Path(name).unlink()
    project.git("commit", "-q", "-m", "without them")
    project.git("tag", "kept", "HEAD~1")


@pytest.mark.usefixtures("study")
def test_records_in_commits_are_found_whatever_their_names_and_damage(tmp_path: Path) -> None:
    orphans = [project.to_cache_only(tmp_path / name) for name in ("a", "b", "c")]
    in_a_commit({"ü ß.dvc": orphans[0], "deep/dvc.lock": orphans[1]}, around="  torn: [")
    doomed = {path.parent.name + path.name for path in collect.plan(DvcStore()).files}
    assert doomed & {*orphans} == {orphans[2]}


@pytest.mark.parametrize(
    "text",
    [
        "stages: [1, 2]",
        "stages:\n  a: 1",
        "a: [",
        "- a",
        "\0",
        "stages:",
        "stages:\n  a: {cmd: b, deps: 1}",
    ],
)
def test_a_damaged_lock_is_one_line(study: Path, text: str, tmp_path: Path, capsys: Any) -> None:
    orphan, good = project.to_cache_only(tmp_path / "orphan"), (study / "dvc.lock").read_text()
    (study / "dvc.lock").write_text(f"{text} # {orphan}")
    with pytest.raises(
        EcgforgeError,
        match="dvc.lock is damaged: `ecgforge repro` or `git checkout dvc.lock` restores it",
    ):
        DvcStore().made_by(orphan)
    with pytest.raises(
        EcgforgeError,
        match="dvc.lock was damaged, .* restored .* run `ecgforge repro`",
    ):
        collect.collect(True)
    collect.collect(True)
    assert project.cached(orphan).exists(), "the damaged one names it"
    (study / "dvc.lock").write_text(f"{text} # {orphan}")
    project.git("commit", "-q", "-a", "-m", "a damaged one")
    (study / "dvc.lock").write_text(good)
    content = DvcStore()
    assert content.made_by(orphan) is None
    assert content.made_by(orphan) is None
    commit = project.git("rev-parse", "--short=8", "HEAD")
    assert (
        capsys.readouterr().err.count(
            f"warning: dvc.lock of commit {commit} is damaged and was skipped"
        )
        == 1
    )


def test_a_study_in_a_folder_of_a_larger_repository(study: Path, tmp_path: Path) -> None:
    """What any commit needs stays, a run in it is clean, its commit is checked out whole."""
    orphan = project.to_cache_only(tmp_path / "orphan")
    shutil.rmtree(".git")
    (tmp_path / "other.txt").write_text("another's")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    project.git("config", "user.name", "Ada")
    project.git("config", "user.email", "ada@example.org")
    (study / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    project.git("add", ".", "../other.txt")
    in_a_commit({"once.dvc": orphan})
    content = DvcStore()
    assert not {
        path for path in collect.plan(content).files if path.parent.name + path.name == orphan
    }
    (tmp_path / "other.txt").write_text("changed")
    (study / "dvc.lock").write_text((study / "dvc.lock").read_text() + "\n")
    assert not runs.uncommitted()
    folder = reproduce._clone(study, project.git("rev-parse", "HEAD"), tmp_path / "clone")
    assert folder == tmp_path / "clone/study"
    assert (folder / "params.yaml").exists()


@pytest.mark.usefixtures("study")
def test_what_a_damaged_entry_of_the_history_could_name_is_kept() -> None:
    """A former champion has no alias and is known by its entry alone."""
    first, second = registered("first"), registered("second")
    history.move(NAME, first.number, "", history.PROMOTED, "", "")
    history.move(NAME, second.number, first.number, history.PROMOTED, "", "")
    client = store.client()
    client.delete_registered_model_alias(NAME, history.FORMER)
    client.set_model_version_tag(NAME, second.number, WEIGHTS, "1" * 32)
    client.set_model_version_tag(NAME, registered("third").number, WEIGHTS, "2" * 32)
    tags = client.get_registered_model(NAME).tags
    key = min(key for key in tags if key.startswith(history.ENTRY))
    for damaged, text in ((key, tags[key][:-20]), (f"{history.ENTRY}x", tags[key])):
        client.delete_registered_model_tag(NAME, key)
        client.set_registered_model_tag(NAME, damaged, text)
        with pytest.raises(
            EcgforgeError,
            match=(f"^{NAME}: the .* so former champions are unknown and nothing may be removed"),
        ):
            collect.collect(True)
        client.delete_registered_model_tag(NAME, damaged)
        client.set_registered_model_tag(NAME, key, tags[key])
        assert [one.number for one in versions.versions(NAME)] == ["1", "2", "3"]
    collect.collect(True)
    assert [one.number for one in versions.versions(NAME)] == ["1", "2"]


# Records that lead to other folders


def test_every_stage_that_registers_can_be_made_again() -> None:
    stages = yaml.safe_load((project.ROOT / "dvc.yaml").read_text())["stages"]
    registering = [
        stage["cmd"]
        for stage in stages.values()
        for out in map(str, stage.get("do", stage)["outs"])
        if out.startswith(("models/generators/", "models/classifiers/"))
    ]
    assert len(registering) == 3
    for command in registering:
        assert reproduce._arguments(command) == command.split()


@pytest.mark.parametrize(
    "command",
    [
        "ecgforge train-generator ptbxl diffwave --out ../../x",
        "ecgforge train-generator ptbxl diffwave --out /tmp/x",
        "ecgforge train-generator ptbxl diffwave --out=../x",
        "ecgforge train-generator ptbxl diffwave\necgforge gc --yes",
    ],
)
def test_commands_that_lead_out_of_the_project_are_not_run(command: str) -> None:
    assert reproduce._arguments(command) == []


@pytest.mark.parametrize("path", ["../../x", "/tmp/x", "data/../../x"])
def test_paths_that_lead_out_of_the_project_are_not_written(
    study: Path, tmp_path: Path, path: str
) -> None:
    folder = tmp_path / "scratch/project"
    shutil.copytree(study, folder)
    before = {one for one in tmp_path.rglob("x") if one.exists()}
    with pytest.raises(EcgforgeError, match="points outside the project"):
        reproduce._lay_out(
            DvcStore(), Step("a", "", {}, {path: md5(study / "params.yaml")}, {}), None, folder
        )
    assert DvcStore().digest(path) == ""
    assert {one for one in tmp_path.rglob("x") if one.exists()} == before


def test_a_listing_that_leads_out_of_its_folder_is_not_written(study: Path, tmp_path: Path) -> None:
    listing = json.dumps([{"md5": md5(study / "params.yaml"), "relpath": "../../x"}])
    (tmp_path / "listing").write_text(listing)
    digest = md5(tmp_path / "listing") + ".dir"
    project.cached(digest).parent.mkdir(parents=True, exist_ok=True)
    project.cached(digest).write_text(listing)
    with pytest.raises(EcgforgeError, match="lists a file outside of the folder: refused"):
        DvcStore().copy(digest, "data/a", tmp_path / "scratch/data/a")
    assert not (tmp_path / "scratch").exists()


def test_links_that_lead_out_of_a_commit_are_refused(study: Path, tmp_path: Path) -> None:
    (study / "inner").symlink_to("params.yaml")
    project.git("add", "inner")
    project.git("commit", "-q", "-m", "a link within")
    reproduce._clone(study, project.git("rev-parse", "HEAD"), tmp_path / "first")
    (study / "models").symlink_to(tmp_path)
    project.git("add", "models")
    project.git("commit", "-q", "-m", "a link")
    with pytest.raises(EcgforgeError, match="its link models points outside the repository"):
        reproduce._clone(study, project.git("rev-parse", "HEAD"), tmp_path / "second")


# DvcStore that several stages wrote


def test_the_stage_is_the_one_that_wrote_the_content_there(study: Path) -> None:
    digest = md5(study / "params.yaml")
    stages = {
        name: {"cmd": f"echo {name}", "outs": [{"path": f"data/prepared/{name}", "md5": digest}]}
        for name in ("first", "second")
    }
    (study / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    content = DvcStore()
    for name in ("first", "second"):
        made = content.made_by(digest, f"data/prepared/{name}")
        assert made is not None
        assert made.name == name
    walker = lineage.Walker(content)
    nodes = [walker.data(name, digest, f"data/prepared/{name}") for name in ("first", "second")]
    assert [(node.name, node.facts["stage"]) for node in nodes] == [
        ("first", "first"),
        ("second", "second"),
    ]
    assert content.made_by(digest, "data/prepared/third") is None


def test_parameters_that_were_not_tuned_are_no_part_of_a_lineage(study: Path) -> None:
    from ecgforge.stages import tune

    version = registered("tuned")
    store.client().set_model_version_tag(
        NAME, version.number, f"{runs.INPUT}ptbxl", md5(study / "data/prepared/ptbxl")
    )
    store.client().set_model_version_tag(NAME, version.number, "dvc.stage", "train")
    seen = []
    for change in ({}, {"classifier": {"seed": 1}}):
        tune.write(change, study / f"{lineage.TUNED}ptbxl/diffwave.yaml")
        paths = ("data/prepared/ptbxl", f"{lineage.TUNED}ptbxl/diffwave.yaml")
        record = {
            "cmd": "train",
            "deps": [{"path": path, "md5": md5(study / path)} for path in paths],
            "outs": [],
        }
        (study / "dvc.lock").write_text(
            yaml.safe_dump({"schema": "2.0", "stages": {"train": record}})
        )
        seen.append([role for role, _ in lineage.trace(version.label, DvcStore()).made_from])
    assert seen == [["made by"], ["made by", "parameters from"]]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "null",
        '{"made": [1]}',
        '{"made": {"by_rhythm": {}}}',
        '{"made": {"by_rhythm": {"SR": 1}}}',
    ],
)
def test_a_record_set_with_a_damaged_description_still_has_a_lineage(
    study: Path, text: str
) -> None:
    (study / "data/prepared/ptbxl/about.json").write_text(text)
    assert lineage.trace("data/prepared/ptbxl", DvcStore()).name == "ptbxl"
