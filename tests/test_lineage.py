"""Lineage from what MLflow, DVC and git really hold: whole, with parts gone, verified, made again,
and kept by the garbage collector.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlcroissant
import mlflow
import numpy as np
import pytest
import wfdb
import yaml
from click.testing import CliRunner
from dvc.cli import main as dvc

import registry_project as project
import warm_stages
from ecgforge.commands import gc as collect
from ecgforge.commands import lineage as stage
from ecgforge.commands import reproduce
from ecgforge.dvc import lock
from ecgforge.errors import EcgforgeError
from ecgforge.files import md5, read_csv
from ecgforge.model_versions import versions
from ecgforge.model_versions.pyfunc_signature import SAMPLED, SAMPLING, WEIGHTS
from ecgforge.params import Params
from ecgforge.provenance import lineage
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.records.leads import STANDARD_LEADS, twelve_leads
from ecgforge.records.record_set import RecordSet
from ecgforge.registry import promotion
from ecgforge.sharing import code, source_data
from ecgforge.sharing.source_data import SourceData
from ecgforge.stages import matrix
from ecgforge.stages.common.temporary import TEMPORARY
from ecgforge.tracking import store
from registry_project import NAME
from test_cli import Found, ecgforge, last_line

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The chain of a study, by the stages themselves: records, a generator, its records, and a
    classifier of both.
    """
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("study") / "project"
    folder.mkdir()
    patch.chdir(folder)
    for name in ("MLFLOW_TRACKING_URI", "ECGFORGE_WARM"):
        patch.delenv(name, raising=False)
    patch.setenv("DVC_STAGE", "")
    make(folder)
    yield folder
    patch.undo()


TUNED = "models/tuning/ptbxl/diffwave.yaml"
STAGES = {
    "acquire": ("ecgforge acquire ptbxl --out data/raw/ptbxl", [], ["data/raw/ptbxl"]),
    "prepare": (
        "ecgforge prepare --raw data/raw/ptbxl --out data/prepared/ptbxl",
        ["data/raw/ptbxl"],
        ["data/prepared/ptbxl"],
    ),
    "tune_generator": (
        f"ecgforge tune-generator ptbxl diffwave --real data/prepared/ptbxl --out {TUNED}",
        ["data/prepared/ptbxl"],
        [TUNED],
    ),
    "train_generator@ptbxl-diffwave": (
        "ecgforge train-generator ptbxl diffwave --real data/prepared/ptbxl --out "
        f"models/generators/ptbxl/diffwave --tuned {TUNED}",
        ["data/prepared/ptbxl", TUNED],
        ["models/generators/ptbxl/diffwave"],
    ),
    "synthesize@ptbxl-diffwave": (
        "ecgforge synthesize ptbxl diffwave --model models/generators/ptbxl/diffwave --real "
        "data/prepared/ptbxl "
        "--out data/synthetic/ptbxl/diffwave",
        ["models/generators/ptbxl/diffwave", "data/prepared/ptbxl"],
        ["data/synthetic/ptbxl/diffwave"],
    ),
}


def make(folder: Path) -> None:
    from dvc.repo import Repo

    from ecgforge import cli

    tree = yaml.safe_load((project.ROOT / "params.yaml").read_text())
    demo = tree["profiles"]["demo"]
    demo["sources"]["ptbxl"]["records"], demo["preparation"]["min_records"] = 90, 5
    demo["generators"]["diffwave"]["network"] |= {"layers": 2, "channels": 8}
    demo["generators"]["diffwave"]["training"]["denoiser"] |= {
        "steps": 4,
        "evaluate_every": 2,
        "warmup_steps": 1,
        "batch_size": 4,
    }
    demo["synthesis"] |= {"train": 4, "validation": 1, "test": 1}
    demo["generators"]["diffwave"]["tuning"]["n_trials"] = 0
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    matrix.write(Params.read(folder / "params.yaml"), folder / "matrix.yaml")
    (folder / ".gitignore").write_text(
        "/mlflow.db*\n/mlruns/\n/data/*/\n/models/*/\n/.ecgforge/\n/resolved/\n/shelf\n.*.partial\n"
    )
    record = {
        name.split("@")[0]: {"cmd": cmd, "deps": deps, "outs": outs}
        for name, (cmd, deps, outs) in STAGES.items()
    }
    of_study = yaml.safe_load((project.ROOT / "dvc.yaml").read_text())["stages"]
    record["resolve"] = of_study["resolve"]
    for name, item in (("acquire", "source"), ("train_generator", "generator")):
        value = {"source": "ptbxl", "generator": "diffwave"}[item]
        text = yaml.safe_dump(of_study[name]["params"]).replace(f"${{item.{item}}}", value)
        record[name]["params"] = yaml.safe_load(text)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": record}, sort_keys=False))
    shutil.copytree(
        project.ROOT / "src",
        folder / "src",
        ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
    )
    project.git("init", "-q")
    project.git("config", "user.name", "Ada")
    project.git("config", "user.email", "ada@example.org")
    Repo.init(str(folder)).close()
    project.git("add", ".")
    project.git("commit", "-q", "-m", "a project")
    cli.app(["resolve"], standalone_mode=False)
    for name, (command, _, _) in STAGES.items():
        os.environ["DVC_STAGE"] = name.split("@")[0]
        cli.app(command.split()[1:], standalone_mode=False)
        if name == "tune_generator":
            (folder / TUNED).write_text(yaml.safe_dump({"generators": {"diffwave": {"seed": 0}}}))
    with Repo(str(folder)) as repo:
        repo.commit(force=True)
    project.git("add", ".")
    project.git("commit", "-q", "-m", "results")


GENERATOR = "ecg-generator-diffwave-ptbxl"


@pytest.fixture
def classifier(study: Path) -> versions.Version:
    """A version that learned from real and synthetic records."""
    assert Path.cwd() == study
    known = versions.versions(NAME)
    if known:
        return known[0]
    sets = [
        RecordSet.open(Path(one))
        for one in ("data/prepared/ptbxl", "data/synthetic/ptbxl/diffwave")
    ]
    return project.register(sets[0], 0.9, 1, rhythms=sets[0].about.rhythms, synthetic=sets[1])


def kinds(node: lineage.Node) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in node.all()]


CHAIN = {
    ("version", f"{NAME}/1"),
    ("run", "TrRSTeR ptbxl/diffwave oracle seed 1"),
    ("record set", "ptbxl"),
    ("record set", "ptbxl/diffwave"),
    ("version", f"{GENERATOR}/1"),
    ("run", "diffwave on ptbxl, seed 0"),
    ("raw records", "raw/ptbxl"),
    ("source", "ecgforge acquire ptbxl --out data/raw/ptbxl"),
    ("file", TUNED),
}


def test_the_chain_goes_down_to_the_source(classifier: versions.Version) -> None:
    node = lineage.trace(classifier.label, DvcStore())
    assert set(kinds(node)) == CHAIN
    found = {(one.kind, one.name): one for one in node.all()}
    assert found["record set", "ptbxl"].digest == md5(Path("data/prepared/ptbxl"))
    assert found["record set", "ptbxl/diffwave"].digest == md5(
        Path("data/synthetic/ptbxl/diffwave")
    )
    run = found["run", "TrRSTeR ptbxl/diffwave oracle seed 1"]
    assert run.facts["commit"] == project.git("rev-parse", "HEAD~1") or run.facts[
        "commit"
    ] == project.git("rev-parse", "HEAD")
    assert (
        "training.denoiser.steps=4" in found["run", "diffwave on ptbxl, seed 0"].facts["parameters"]
    )
    assert [one.name for one in lineage.trained_on(run)] == ["ptbxl"] * 3, (
        "itself, by the generator, and by its tuning"
    )
    assert not any(one.lost for one in node.all())


@pytest.mark.parametrize(
    ("reference", "first"),
    [
        ("models/generators/ptbxl/diffwave", ("version", f"{GENERATOR}/1")),
        ("models/generators/ptbxl/diffwave/weights.safetensors", ("version", f"{GENERATOR}/1")),
        ("data/synthetic/ptbxl/diffwave", ("record set", "ptbxl/diffwave")),
        ("data/prepared/ptbxl/records.csv", ("record set", "ptbxl")),
        ("data/raw/ptbxl", ("raw records", "raw/ptbxl")),
        (TUNED, ("file", TUNED)),
        (f"{GENERATOR}/1", ("version", f"{GENERATOR}/1")),
    ],
)
def test_files_and_folders_have_a_lineage(
    study: Path, reference: str, first: tuple[str, str]
) -> None:
    found = kinds(lineage.trace(reference, DvcStore(study)))
    assert found[0] == first
    assert found[-1][0] == "source"


def test_a_run_has_a_lineage(classifier: versions.Version) -> None:
    assert set(kinds(lineage.trace(classifier.run_id, DvcStore()))) == CHAIN - {
        ("version", f"{NAME}/1")
    }


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("data/prepared/merged", "is not in the working tree"),
        (
            "models/generators",
            "is not a model: name one in this folder, such as models/generators/ptbxl/diffwave",
        ),
        ("models/tuning", "models/tuning is not a model$"),
        (
            "data/prepared",
            "is not a record set: name one in this folder, such as data/prepared/ptbxl",
        ),
        (
            "data/synthetic/ptbxl",
            "is not a record set: name one in this folder, such as data/synthetic/ptbxl/diffwave",
        ),
        (
            "data/raw",
            "data/raw is not a record set: name one in this folder, such as data/raw/ptbxl",
        ),
        ("data", "data is not a record set: name one in this folder, such as data/prepared/ptbxl"),
        ("data/empty", "data/empty is not a record set$"),
        ("0" * 32, "MLflow has no run"),
        ("nonsense", "is not a model version"),
        ("/etc/hosts", "'/etc/hosts' is not a file or folder under models/ or data/ of"),
        ("../project/../..", "is not a file or folder under models/ or data/ of"),
        ("", "is not a file or folder under models/ or data/ of"),
    ],
)
def test_unknown_references_are_reported(study: Path, reference: str, message: str) -> None:
    (study / "data/empty").mkdir(exist_ok=True)
    (study / "data/raw/.gitignore").touch()
    with pytest.raises(EcgforgeError, match=message):
        lineage.trace(reference, DvcStore(study))


def test_the_tree_and_the_drawing_name_everything(
    classifier: versions.Version, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stage.show(classifier.label, tmp_path / "lineage.mmd")
    printed = " ".join(capsys.readouterr().out.split())
    chart = (tmp_path / "lineage.mmd").read_text()
    boxes = dict(re.findall(r'^    (n\d+)\["(.*)"\](?::::lost)?$', chart, re.MULTILINE))
    arrows = re.findall(r'^    (n\d+) -- "(.+)" --> (n\d+)$', chart, re.MULTILINE)
    assert len(chart.splitlines()) == 3 + len(boxes) + len(arrows), (
        "all lines are a head, boxes and arrows"
    )
    assert {end for arrow in arrows for end in (arrow[0], arrow[2])} == set(boxes)
    for kind, name in CHAIN:
        assert any(text.startswith(f"{kind} {name}") for text in boxes.values())
    for words in (
        f"{NAME}/1",
        f"{GENERATOR}/1",
        md5(Path("data/prepared/ptbxl")),
        "generated by",
        "acquired from",
        "(above)",
    ):
        assert words in printed


def test_names_do_not_break_the_flowchart() -> None:
    odd = lineage.Node("file", 'a"] --> b; <b>#1</b>\nx', facts={"run": lineage.GONE})
    chart = stage.mermaid(lineage.Node("run", "train", made_from=[("in|put", odd)]))
    assert chart.splitlines()[3:] == [
        '    n0["run train"]',
        '    n1["file a#34;] --#62; b#59; #60;b#62;#35;1#60;/b#62; x"]:::lost',
        '    n0 -- "in|put" --> n1',
    ]


class Gone:
    """Takes files away while a block lasts."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths

    def __enter__(self) -> None:
        for number, path in enumerate(self.paths):
            path.rename(f"away-{number}")

    def __exit__(self, *_: object) -> None:
        for number, path in enumerate(self.paths):
            Path(f"away-{number}").rename(path)


def places(classifier: versions.Version) -> dict[str, str]:
    node, content = lineage.trace(classifier.label, DvcStore()), DvcStore()
    return {
        one.name: content.place(one.digest, one.path)[0]
        for one in node.all()
        if one.kind in ("record set", "raw records")
    }


def test_verify_reports_where_everything_is(
    classifier: versions.Version, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.verify([classifier.label])
    assert capsys.readouterr().out.splitlines()[-1] == "All 9 match."
    assert set(places(classifier).values()) == {"in the working tree"}
    with Gone(Path("data/prepared/ptbxl")):
        assert places(classifier)["ptbxl"] == "in DVC's cache"


def test_verify_reports_missing_items(
    classifier: versions.Version, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = md5(Path("data/synthetic/ptbxl/diffwave"))
    signals = DvcStore().listing(digest)["signals.npy"]
    with Gone(Path("data/synthetic/ptbxl/diffwave"), project.cached(signals)):
        with pytest.raises(
            EcgforgeError, match=r"1 of 9 do not match or are no longer available: ptbxl/diffwave"
        ):
            stage.verify([classifier.label])
        assert places(classifier)["ptbxl/diffwave"] == "gone: signals.npy"
    assert "gone: signals.npy" in " ".join(capsys.readouterr().out.split())


def test_verify_notices_a_changed_file(classifier: versions.Version) -> None:
    table = Path("data/prepared/ptbxl/records.csv")
    kept = table.read_bytes()
    stored = project.cached(DvcStore().listing(md5(table.parent))["records.csv"])
    original = stored.read_bytes()
    table.unlink()
    table.write_bytes(kept + b" ")
    try:
        assert (
            places(classifier)["ptbxl"] == "in DVC's cache; the working tree holds another version"
        )
        stored.chmod(0o644)
        stored.write_bytes(kept + b"?")
        assert (
            places(classifier)["ptbxl"]
            == "gone: records.csv; the working tree holds another version"
        )
    finally:
        stored.write_bytes(original)
        table.write_bytes(kept)


def test_what_only_the_remote_has_is_found_there(classifier: versions.Version) -> None:
    digest = md5(Path("data/synthetic/ptbxl/diffwave"))
    assert dvc(["remote", "add", "--local", "--default", "-q", "shelf", "shelf"]) == 0
    try:
        assert dvc(["push", "-q", "synthesize"]) == 0
        content = DvcStore()
        files = [project.cached(one) for one in (digest, *content.listing(digest).values())]
        with Gone(Path("data/synthetic/ptbxl/diffwave"), *files):
            assert places(classifier)["ptbxl/diffwave"] == "in DVC's remote"
            assert set(kinds(lineage.trace(classifier.label, DvcStore()))) == CHAIN
            content.copy(digest, "data/synthetic/ptbxl/diffwave", Path("copy"))
            assert md5(Path("copy")) == digest
    finally:
        assert dvc(["remote", "remove", "--local", "-q", "shelf"]) == 0
        shutil.rmtree("shelf")
    shutil.rmtree("copy")


def test_facts_that_remain_still_tell_the_chain(classifier: versions.Version) -> None:
    digest = md5(Path("data/synthetic/ptbxl/diffwave"))
    client = store.client()
    client.delete_run(classifier.run_id)
    with Gone(Path("data/synthetic/ptbxl/diffwave"), project.cached(digest)):
        node = lineage.trace(classifier.label, DvcStore())
    client.restore_run(classifier.run_id)
    assert set(kinds(node)) == CHAIN
    (lost,) = [one for one in node.all() if one.lost]
    assert lost.name == "ptbxl/diffwave"
    assert "gone" in lost.facts["content"]


@pytest.mark.usefixtures("other_store")
def test_a_deleted_run_is_described_by_its_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import cli  # imports a server, at the start of all tests otherwise

    records = RecordSet.open(Path("data/prepared/ptbxl"))
    version = project.register(records, 0.9, 1, rhythms=records.about.rhythms)
    whole = kinds(lineage.trace(version.label, DvcStore()))
    store.client().delete_run(version.run_id)
    uri = store.configure()
    gc = CliRunner().invoke(cli.gc, ["--backend-store-uri", uri, "--tracking-uri", uri])
    assert gc.exit_code == 0, gc.output
    node = lineage.trace(version.label, DvcStore())
    assert [kind for kind, _ in kinds(node)] == [kind for kind, _ in whole]
    (lost,) = [one for one in node.all() if one.lost]
    assert lost.facts["run"] == f"{version.run_id}, gone from MLflow"
    assert lost.facts["commit"] == project.git("rev-parse", "HEAD")
    with pytest.raises(
        EcgforgeError, match="1 of 5 do not match or are no longer available: its run"
    ):
        stage.verify([version.label])
    assert f"LOST run its run: {version.run_id}, gone from MLflow" in capsys.readouterr().out
    with pytest.raises(EcgforgeError, match=f"MLflow has no run {version.run_id}"):
        lineage.trace(version.run_id, DvcStore())


@pytest.mark.usefixtures("other_store")
def test_a_run_of_no_commit_is_not_verified(capsys: pytest.CaptureFixture[str]) -> None:
    records = RecordSet.open(Path("data/prepared/ptbxl"))
    version, client = (
        project.register(records, 0.9, 1, rhythms=records.about.rhythms),
        store.client(),
    )
    client.delete_tag(version.run_id, "git.commit")
    client.delete_model_version_tag(NAME, version.number, "git.commit")
    with pytest.raises(
        EcgforgeError,
        match="1 of 5 do not match or are no longer available: TrRTeR ptbxl oracle seed 1",
    ):
        stage.verify([version.label])
    assert (
        f"LOST run TrRTeR ptbxl oracle seed 1: {version.run_id}; no commit is known"
        in capsys.readouterr().out
    )


def test_a_version_of_an_unknown_commit_is_not_made_again(classifier: versions.Version) -> None:
    client = store.client()
    commit = classifier.tags["git.commit"]
    client.set_model_version_tag(NAME, classifier.number, "git.commit", "0" * 40)
    with pytest.raises(EcgforgeError, match="is not in this repository"):
        reproduce.reproduce(classifier.label)
    client.set_model_version_tag(NAME, classifier.number, "git.commit", commit)


@pytest.fixture
def other_store(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with a tracking store of its own, still empty."""
    folder = tmp_path / "project"
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("mlflow.db*", "mlruns"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.chdir(folder)
    return folder


def synthesized(guidance: float | None = None) -> list[tuple[str, str, str]]:
    """Generate records again, with another guidance, and return number, weights and sampling of all
    versions of the generator.
    """
    from ecgforge import cli

    if guidance:
        tree = yaml.safe_load(Path("params.yaml").read_text())
        tree["profiles"]["demo"]["generators"]["diffwave"]["sampling"]["guidance"] = guidance
        Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    cli.app(STAGES["synthesize@ptbxl-diffwave"][0].split()[1:], standalone_mode=False)
    found = []
    for version in versions.versions(GENERATOR):
        with versions.files(version) as folder:
            kept = json.loads((folder / SAMPLING).read_text())
            assert md5(folder / "weights.safetensors") == version.tags[WEIGHTS]
        assert json.loads(version.tags[SAMPLED]) == kept["sampling"]
        assert kept["units"] == "mV"
        found.append((version.number, version.tags[WEIGHTS], kept["sampling"]["guidance"]))
    return found


@pytest.mark.usefixtures("other_store")
def test_a_generator_with_another_sampling_is_another_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Training registers one with the sampling of that time; synthesis registers the others,
    without training again.
    """
    from ecgforge import cli

    assert synthesized() == [], "no generator is known here, and none is made up"
    cli.app(STAGES["train_generator@ptbxl-diffwave"][0].split()[1:], standalone_mode=False)
    weights = md5(Path("models/generators/ptbxl/diffwave/weights.safetensors"))
    assert synthesized() == [("1", weights, 1.0)]
    capsys.readouterr()
    assert synthesized(3.5) == [("1", weights, 1.0), ("2", weights, 3.5)]
    assert (
        f"{GENERATOR}/2 is the same generator with the sampling of these records"
        in capsys.readouterr().out
    )
    first, second = versions.versions(GENERATOR)
    own = {"sampling", "files.md5"}
    assert {*first.tags.items()} ^ {*second.tags.items()} == {
        (key, one.tags[key]) for key in own for one in (first, second)
    }
    assert second.run_id == first.run_id
    assert [one.name for one in lineage.trace("data/synthetic/ptbxl/diffwave", DvcStore()).all()][
        1
    ] == second.label
    mlflow.pytorch.load_model(f"models:/{second.label}")

    cli.app(STAGES["train_generator@ptbxl-diffwave"][0].split()[1:], standalone_mode=False)
    assert len(synthesized(1.0)) == 2, "both are known"
    assert [one.name for one in lineage.trace("data/synthetic/ptbxl/diffwave", DvcStore()).all()][
        1
    ] == first.label
    store.client().delete_run(first.run_id)
    assert synthesized(2.5)[2:] == [("3", weights, 2.5)], "its run is gone, its files are there"


@pytest.mark.usefixtures("other_store")
def test_a_version_of_an_experiment_is_clean_and_made_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its parameters are in no commit of a branch:

    `dvc exp run` changes params.yaml while the stage runs.
    """
    changed = ("generators.diffwave.training.denoiser.steps=6", "compute.threads=2")
    settings = [word for one in changed for word in ("-S", f"profiles.demo.{one}")]
    with warm_stages.server():
        command = ["exp", "run", "-q", *settings, "--single-item", "resolve", "train_generator"]
        assert dvc(command) == 0
    project.git("checkout", "-q", "params.yaml", "dvc.lock")
    (version,) = versions.versions(GENERATOR)
    found = {
        gate.name: gate
        for gate in promotion.provenance(
            version, lineage.trace(version.label, DvcStore()), DvcStore()
        )
    }
    assert found["commit"].passed
    assert found["provenance"].passed, found["provenance"].detail
    reproduce.reproduce(version.label)
    message = " ".join(capsys.readouterr().out.split())
    assert "profiles.demo.generators.diffwave.training, profiles.demo.compute.threads" in message
    assert f"{version.label}: identical" in message


@pytest.mark.parametrize(
    "command",
    [
        "touch exploded",
        "ecgforge gc --yes",
        "ecgforge 'train-generator",
        "ecgforge train-generator; touch a",
    ],
)
def test_only_a_training_is_run_from_a_record(study: Path, command: str) -> None:
    lock = study / "dvc.lock"
    kept = lock.read_text()
    tree = yaml.safe_load(kept)
    tree["stages"]["train_generator"]["cmd"] = command
    lock.write_text(yaml.safe_dump(tree))
    try:
        with pytest.raises(EcgforgeError, match="does not train a version"):
            reproduce.reproduce(f"{GENERATOR}/1")
    finally:
        lock.write_text(kept)


@pytest.mark.parametrize("named", [True, False], ids=["by an alias", "by nothing"])
def test_the_garbage_collector_keeps_what_an_alias_needs(
    classifier: versions.Version, named: bool, tmp_path: Path
) -> None:
    """All of the lineage of an aliased version stays, though no commit and no dvc.lock knows its
    data any more.
    """
    lock, head = Path("dvc.lock"), project.git("rev-parse", "HEAD")
    kept = lock.read_text()
    client = store.client()
    node = lineage.trace(classifier.label, DvcStore())
    orphan = project.to_cache_only(tmp_path / "orphan")
    if named:
        client.set_registered_model_alias(NAME, "champion", classifier.number)
    project.git("checkout", "-q", "--orphan", "another")
    lock.unlink()
    project.git("commit", "-q", "-a", "-m", "nothing of before")
    project.git(
        "branch",
        "-D",
        "-q",
        *[one for one in ("master", "main") if one in project.git("branch").split()],
    )
    try:
        found = collect.plan(DvcStore())
        doomed = {path.parent.name + path.name for path in found.files}
        content = DvcStore()
        needed = {
            one
            for part in node.all()
            if part.path
            for one in (part.digest, *content.listing(part.digest).values())
        }
        assert orphan in doomed
        assert bool(needed & doomed) != named
        assert bool([one for one in found.stale.versions if one.name in (NAME, GENERATOR)]) != named
        if named:
            assert not {one.version.run_id for one in node.all() if one.version} & {
                run_id for _, run_id in found.stale.runs
            }
    finally:
        project.git("checkout", "-q", "-f", "-B", "master", head)
        project.git("branch", "-D", "-q", "another")
        lock.write_text(kept)
        if named:
            client.delete_registered_model_alias(NAME, "champion")
            project.cached(orphan).unlink()


def test_gc_removes_only_with_its_option(classifier: versions.Version, tmp_path: Path) -> None:
    orphan = project.to_cache_only(tmp_path / "orphan")
    collect.collect(False)
    assert project.cached(orphan).exists()
    store.client().set_registered_model_alias(NAME, "champion", classifier.number)
    collect.collect(True)
    assert not project.cached(orphan).exists()
    stage.verify([])
    store.client().delete_registered_model_alias(NAME, "champion")


@pytest.mark.parametrize("left", [0.3, 0.6, 0.0])
def test_the_garbage_collector_restores_a_torn_lock_before_it_looks(
    study: Path, left: float, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study / "dvc.lock"
    whole = file.read_text()
    lock.keep(study)
    file.write_text(whole[: int(left * len(whole))])
    try:
        collect.collect(False)
        assert "dvc.lock was damaged" in capsys.readouterr().err
        assert file.read_text() == whole
    finally:
        file.write_text(whole)
        (study / lock.KEPT).unlink()


@pytest.mark.parametrize("left", [None, "", "schema: '2.0'\nstages: {}\n"])
def test_the_garbage_collector_removes_nothing_without_a_record_of_the_stages(
    study: Path, left: str | None
) -> None:
    file = study / "dvc.lock"
    whole = file.read_text()
    file.unlink()
    if left is not None:
        file.write_text(left)
    held = sorted(path for path in Path(".dvc/cache").rglob("*") if path.is_file())
    try:
        with pytest.raises(EcgforgeError, match=r"[Nn]othing was removed|there is no copy of it"):
            collect.collect(True)
        assert sorted(path for path in Path(".dvc/cache").rglob("*") if path.is_file()) == held
    finally:
        file.write_text(whole)


def test_checkpoints_go_when_their_run_has_ended_and_no_sooner(
    classifier: versions.Version,
) -> None:
    from ecgforge import folders
    from ecgforge.tracking.runs import FINGERPRINT, RunKey, tracked

    with (
        pytest.raises(ZeroDivisionError),
        tracked(RunKey("trial", "ptbxl", 0, True), fingerprint="f" * 32, params={}, inputs=[]),
    ):  # type: ignore[arg-type]
        raise ZeroDivisionError
    for fingerprint in ("f" * 32, "e" * 32, classifier.tags[FINGERPRINT]):
        (folders.unfinished() / fingerprint).mkdir(parents=True)
    store.client().set_registered_model_alias(NAME, "champion", classifier.number)
    names = {
        path.name
        for path in collect.plan(DvcStore()).files
        if folders.unfinished().name in path.parts
    }
    store.client().delete_registered_model_alias(NAME, "champion")
    shutil.rmtree(folders.unfinished())
    assert names == {classifier.tags[FINGERPRINT]}, "the second one's run may be in another store"


@pytest.mark.usefixtures("study")
def test_a_later_run_that_was_cut_off_keeps_its_checkpoint() -> None:
    from ecgforge.provenance import gc as garbage
    from ecgforge.tracking.runs import RunKey, tracked

    key = RunKey(
        "classifier",
        "ptbxl",
        0,
        True,
        setting="TrRTeR",
        backbone="oracle",
        sweep="scratch",
        point="cut off",
    )
    for fingerprint, cut_off in (("cut off", True), ("finished", False), ("cut off later", True)):
        try:
            with tracked(key, fingerprint=fingerprint, params={}, inputs=[]):
                if cut_off:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
    known = {"cut off", "finished", "cut off later", "unknown"}
    needed = garbage.needed(DvcStore())
    assert garbage.stale(needed, known).ended & known == {"cut off"}, (
        "of what the last one made nothing is on record yet"
    )
    needed.fingerprints.add("finished")
    assert garbage.stale(needed, known).ended & known == {"cut off", "finished"}


@pytest.mark.parametrize("status", ["RUNNING", "FINISHED", "KILLED"])
@pytest.mark.usefixtures("other_store")
def test_results_of_an_unfinished_stage_are_kept(status: str) -> None:
    """Its versions are in no dvc.lock before all of its cells have ended; it goes on from the
    checkpoints of them all.
    """
    from ecgforge import folders
    from ecgforge.tracking.runs import FINGERPRINT

    records = RecordSet.open(Path("data/prepared/ptbxl"))
    version = project.register(records, 0.9, 1, rhythms=records.about.rhythms)
    store.client().update_run(version.run_id, status)
    checkpoint = folders.unfinished() / version.tags[FINGERPRINT]
    checkpoint.mkdir(parents=True)
    found = collect.plan(DvcStore())
    assert (found.stale.versions, found.stale.runs) == ([], [])
    assert checkpoint not in [
        path.relative_to(Path.cwd()) for path in found.files if path.is_relative_to(Path.cwd())
    ]
    checkpoint.rmdir()
    assert collect.plan(DvcStore()).stale.versions == [version], (
        "nothing goes on from it, and nothing knows it"
    )


@pytest.mark.usefixtures("other_store")
def test_nothing_is_removed_while_a_stage_is_at_work(tmp_path: Path) -> None:
    orphan = project.to_cache_only(tmp_path / "orphan")
    tree = yaml.safe_load(Path("dvc.yaml").read_text())
    tree["stages"]["slow"] = {"cmd": "sleep 600", "outs": ["slow"]}
    Path("dvc.yaml").write_text(yaml.safe_dump(tree))
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "-q", "slow"], start_new_session=True
    )
    try:
        while not DvcStore().at_work():
            assert process.poll() is None
            time.sleep(0.2)
        with pytest.raises(
            EcgforgeError,
            match=(
                rf"DVC is running \(process {process.pid}: .*\).*: run `ecgforge gc` when it has "
                r"ended"
            ),
        ):
            collect.collect(True)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert project.cached(orphan).exists()
    collect.collect(True)
    assert not project.cached(orphan).exists(), "the list still names the process that was killed"


@pytest.mark.usefixtures("other_store")
def test_nothing_is_removed_while_dvc_writes() -> None:
    with (
        DvcStore().locked(),
        pytest.raises(EcgforgeError, match="DVC is running: try again when it has ended"),
    ):
        collect.collect(True)


@pytest.mark.usefixtures("other_store")
def test_an_experiment_at_work_in_a_copy_counts_too() -> None:
    list_of_it = Path(".dvc/tmp/exps/standalone/tmp1/.dvc/tmp/rwlock")
    list_of_it.parent.mkdir(parents=True)
    list_of_it.write_text(
        json.dumps({"read": {"params.yaml": [{"pid": os.getpid(), "cmd": "dvc exp run"}]}})
    )
    assert DvcStore().at_work() == f"process {os.getpid()}: dvc exp run"
    list_of_it.write_text("{")
    with pytest.raises(
        EcgforgeError, match="cannot be read: try again; if no DVC process is running, remove it"
    ):
        collect.collect(True)


@pytest.mark.usefixtures("other_store")
def test_versions_that_a_rollback_could_go_back_to_stay() -> None:
    from ecgforge.model_versions import history

    records = RecordSet.open(Path("data/prepared/ptbxl"))
    known = [
        project.register(records, 0.9 + seed / 100, seed, rhythms=records.about.rhythms)
        for seed in range(1, 5)
    ]
    for before, version in zip(["", "1", "2"], known, strict=False):
        history.move(NAME, version.number, before, history.PROMOTED, "", "")
    assert [version.aliases for version in versions.versions(NAME)] == [
        (),
        ("former",),
        ("champion",),
        (),
    ]
    assert [version.label for version in collect.plan(DvcStore()).stale.versions] == [f"{NAME}/4"]
    for expected in ("2", "1"):
        assert promotion.rollback(NAME, "")[1] == expected
        collect.collect(True)
    assert [version.number for version in versions.versions(NAME)] == ["1", "2", "3"]


@pytest.mark.usefixtures("other_store")
def test_objects_of_every_stash_entry_are_kept(tmp_path: Path) -> None:
    orphans = [project.to_cache_only(tmp_path / name) for name in ("first", "second", "third")]
    for number, digest in enumerate(orphans[:2]):
        tree = yaml.safe_load(Path("dvc.lock").read_text())
        tree["stages"]["once"] = {
            "cmd": f"echo {number}",
            "outs": [{"path": "once", "md5": digest}],
        }
        Path("dvc.lock").write_text(yaml.safe_dump(tree))
        project.git("stash")
    doomed = {path.parent.name + path.name for path in collect.plan(DvcStore()).files}
    assert doomed & {*orphans} == {orphans[2]}


def test_files_of_runs_without_a_version_go_too(classifier: versions.Version) -> None:
    from ecgforge.provenance import gc as garbage
    from ecgforge.tracking.runs import RunKey, tracked

    key = RunKey("quality", "ptbxl", 0, True, generator="diffwave")
    with tracked(key, fingerprint="quality", params={}, inputs=[]) as run:
        run.text("scores", "scores.txt")
    (file,) = Path("mlruns").rglob("scores.txt")
    assert run.id in file.parts
    garbage.remove(garbage.Stale([], [(run.name, run.id)], set()))
    assert not file.exists()
    assert store.client().get_run(run.id).info.lifecycle_stage == "deleted"
    with versions.files(classifier):
        pass


def test_records_of_a_sweep_go_when_it_was_killed_and_no_sooner(study: Path) -> None:
    drawn = study / TEMPORARY
    program = (
        "import sys, time; from pathlib import Path; from ecgforge.stages.common.temporary import "
        "held\n"
        "with held(Path(sys.argv[1])): Path(sys.argv[1]).mkdir(); time.sleep(600)"
    )
    sweep = subprocess.Popen([sys.executable, "-c", program, str(drawn / "ptbxl-diffwave-size-50")])
    (drawn / ".ptbxl-diffwave-mixture.partial").mkdir(parents=True)
    while not (drawn / "ptbxl-diffwave-size-50").exists():
        time.sleep(0.1)
    names = []
    for end in (False, True):
        if end:
            sweep.kill()
            sweep.wait()
        names.append({path.name for path in collect.plan(DvcStore()).files if path.parent == drawn})
    shutil.rmtree(drawn)
    assert names == [
        {".ptbxl-diffwave-mixture.partial"},
        {".ptbxl-diffwave-mixture.partial", "ptbxl-diffwave-size-50"},
    ]


def test_a_run_is_removed_after_a_later_one_of_the_same_experiment(
    classifier: versions.Version,
) -> None:
    from ecgforge.provenance import gc as garbage
    from ecgforge.tracking.runs import DatasetInput, RunKey, tracked

    real = DatasetInput(
        "ptbxl",
        Path("data/prepared/ptbxl"),
        md5(Path("data/prepared/ptbxl")),
        "training",
        "simulated",
    )
    lost = DatasetInput(
        "ptbxl", Path("data/prepared/ptbxl"), "0" * 32 + ".dir", "training", "simulated"
    )
    ids = {}
    for fingerprint, point, given in (
        ("first", "1", real),
        ("second", "1", real),
        ("alone", "2", real),
        ("of lost data", "3", lost),
    ):
        key = RunKey(
            "classifier",
            "ptbxl",
            0,
            True,
            setting="TrRTeR",
            backbone="oracle",
            sweep="scratch",
            point=point,
        )
        with tracked(key, fingerprint=fingerprint, params={}, inputs=[given]) as run:
            ids[run.id] = fingerprint
    found = garbage.stale(garbage.needed(DvcStore()), set())
    assert {ids[run_id] for _, run_id in found.runs if run_id in ids} == {"first", "of lost data"}
    assert classifier.run_id not in {run_id for _, run_id in found.runs}


@pytest.mark.usefixtures("study")
def test_a_version_made_by_other_means_has_no_run(classifier: versions.Version) -> None:
    made = store.client().create_model_version(classifier.name, "file:///etc")
    try:
        node = lineage.trace(f"{classifier.name}/{made.version}", DvcStore())
        assert node.made_from == []
        with pytest.raises(EcgforgeError, match="do not match or are no longer available"):
            stage.verify([f"{classifier.name}/{made.version}"])
    finally:
        store.client().delete_model_version(classifier.name, made.version)


QUALITY = "results/quality/ptbxl/diffwave"
SCORES = """dataset,generator,rhythm,metric,value,low,high,baseline,negative_control
ptbxl,diffwave,all,copied_share,{copied},0,0.1,0.01,0
ptbxl,diffwave,all,dcr_ratio,1.02,0.9,1.1,1,1.1
ptbxl,diffwave,all,authenticity,0.7,0.6,0.8,0.75,0.9
ptbxl,diffwave,all,membership_auc,0.52,0.45,0.58,0.5,0.5
ptbxl,diffwave,all,c2st_accuracy,0.97,0.96,1,0.5,1
ptbxl,diffwave,all,recall,0.1,0.05,0.2,0.8,0.1
ptbxl,diffwave,all,qrs_constancy,0.97,0.9,1,0.99,0.1
"""


@pytest.fixture
def scored(study: Path) -> Iterator[None]:
    """Scores of the study's synthetic records, as the stage `quality` leaves them."""
    lock = Path("dvc.lock").read_bytes()
    score(0.02)
    yield
    Path("dvc.lock").write_bytes(lock)
    shutil.rmtree(study / "results")


def score(copied: float) -> None:
    folder, lock = Path(QUALITY), Path("dvc.lock")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.csv").write_text(SCORES.format(copied=copied))
    sets = ["data/synthetic/ptbxl/diffwave", "data/prepared/ptbxl"]
    tree = yaml.safe_load(lock.read_text())
    found = {"deps": sets, "outs": [QUALITY]}
    sums = {
        kind: [{"path": path, "hash": "md5", "md5": md5(Path(path))} for path in paths]
        for kind, paths in found.items()
    }
    tree["stages"]["quality@ptbxl-diffwave"] = {"cmd": "ecgforge quality", **sums}
    lock.write_text(yaml.safe_dump(tree))


def publish(out: Path, *more: str) -> Found:
    return by_hand("publish", "ptbxl", "diffwave", "--to", str(out), *more)


def by_hand(*arguments: str) -> Found:
    """Run a command as a person does: a stage of DVC would keep dvc.lock for the collector."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_STAGE")
        return ecgforge(Path.cwd(), *arguments)


@pytest.mark.usefixtures("scored")
def test_a_synthetic_set_is_published(tmp_path: Path) -> None:
    out, records = tmp_path / "out", RecordSet.open(Path("data/synthetic/ptbxl/diffwave"))
    done = publish(out)
    assert done.returncode == 0, done.stderr
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=out, check=True)
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    files = {one.relative_to(out).as_posix() for one in out.rglob("*") if one.is_file()}
    assert listed == files - {"SHA256SUMS"}
    assert len(files) == 2 * len(records) + 5

    labels = read_csv(out / "records.csv")
    assert list(labels["rhythm"]) == list(records.records["rhythm"])
    assert list(labels["split"]) == list(records.records["split"])
    last = wfdb.rdrecord(str(out / labels["record"].iloc[-1]))
    signals = twelve_leads(records.signals()[-1], "mV")
    np.testing.assert_allclose(last.p_signal.T, signals, atol=0.000501)
    assert last.sig_name == list(STANDARD_LEADS)
    assert set(last.units) == {"mV"}
    assert f"requested rhythm: {labels['rhythm'].iloc[-1]}" in last.comments
    assert f"seed: 100, seed of this record: {labels['seed'].iloc[-1]}" in last.comments

    described = mlcroissant.Dataset(str(out / "croissant.json"))
    rows = [row["records/record"].decode() for row in described.records("records")]
    assert rows == list(labels["record"])
    card = (out / "README.md").read_text()
    commit = versions.find(f"{GENERATOR}/1").tags["git.commit"]
    for words in (
        *(f"{GENERATOR}/1", md5(Path("data/prepared/ptbxl")), f"commit {commit}"),
        *("90 simulated records", "| 0.02 (0 to 0.1) | 0.01 | 0 |", "at most 0.05"),
        "**Unlike real records:",
        *("Do not use it", "creativecommons.org/publicdomain", "arXiv:2411.18456"),
    ):
        assert words in card
    assert "despite" not in card
    assert last_line(publish(out)).endswith("exists already: name a new folder")


@pytest.mark.usefixtures("scored")
def test_sets_that_may_not_be_published_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    for arguments, words in (
        (["nowhere", "diffwave"], "'nowhere' is not a dataset: use one of ptbxl"),
        (["ptbxl", "nothing"], "'nothing' is not a generator"),
        (["ptbxl", "time_vqvae"], "has no records yet: run `ecgforge repro quality@ptbxl-time_vq"),
    ):
        assert words in last_line(by_hand("publish", *arguments, "--to", str(out)))
    (Path(QUALITY) / "scores.csv").write_text(SCORES.format(copied=0.01))
    assert "has no scores of the records in data/synthetic" in last_line(publish(out))
    score(0.5)
    assert "the share is 0.5, and not at most 0.05; --force" in last_line(publish(out))

    params = Path("params.yaml").read_text()
    patient = RecordSet.open(Path("data/prepared/ptbxl")).split("train").records["patient"][0]
    Path("params.yaml").write_text(f"{params}\nwithdrawn: {{ptbxl: ['{patient}']}}\n")
    said = last_line(publish(out, "--force"))
    assert "cannot be published (1 withdrawn patient in ptbxl" in said
    Path("params.yaml").write_text(params)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mlcroissant", None)
        assert "pip install 'ecgforge[sharing]'" in last_line(publish(out))
    assert not out.exists()

    done = publish(out, "--force", "--license", "CC-BY-4.0")
    assert done.returncode == 0, done.stderr
    card = (out / "README.md").read_text()
    assert "> **Published despite a failed check.** The share of copied records is 0.5" in card
    assert "Licence of this set: https://spdx.org/licenses/CC-BY-4.0.html" in card


@pytest.mark.usefixtures("study")
def test_a_prepared_set_has_a_card_without_records(tmp_path: Path) -> None:
    records = RecordSet.open(Path("data/prepared/ptbxl"))
    done = by_hand("card", "ptbxl", "--out", str(tmp_path / "card.md"))
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "card.md").read_text()
    count, patients = len(records), records.records["patient"].nunique()
    assert f"{count} ECGs of {patients} patients, each with one of" in card
    assert f"{90 - count} excluded" in card
    assert md5(records.folder) in card
    assert "data/prepared has no set 'nope': use one of " in last_line(by_hand("card", "nope"))
    (tmp_path / "notes.md").write_text("mine")
    found = by_hand("card", "ptbxl", "--out", str(tmp_path / "notes.md"))
    assert "was not written by this command" in last_line(found)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("git@example.org:team/study.git", "https://example.org/team/study.git"),
        ("https://me:secret@example.org/study.git", "https://example.org/study.git"),
        ("/home/me/study", ""),
        ("file:///home/me/study", ""),
        ("", ""),
    ],
)
def test_readers_see_no_password_and_no_folder(
    address: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "git", lambda *_: address)
    assert code.remote(Path()) == shown


def test_a_derived_set_has_the_licence_of_its_sources() -> None:
    one = SourceData("a", "", source_data.CC_BY, ())
    own, free = SourceData("b", "", "", ()), SourceData("c", "", source_data.CC0, ())
    assert source_data.licence([one, one], None) == source_data.CC_BY
    assert (
        source_data.licence([one, own], "cc-by-4.0") == "https://spdx.org/licenses/CC-BY-4.0.html"
    )
    assert source_data.licence([own], "https://example.org/terms") == "https://example.org/terms"
    for sources, words in (
        ([one, own], "the licence of b is unknown"),
        ([one, free], "a, c have different licences"),
        ([], "the licence of the source is unknown"),
    ):
        with pytest.raises(EcgforgeError, match=words):
            source_data.licence(sources, None)


@pytest.mark.parametrize(
    "given", ["foo", "", "CC-BY", "MIT OR CC0-1.0", "LicenseRef-x", "http://["]
)
def test_a_licence_is_a_url_or_an_spdx_identifier(given: str) -> None:
    with pytest.raises(EcgforgeError, match=rf"^'{re.escape(given)}' is not a licence: give a URL"):
        source_data.licence([], given)
