"""Promotion in a real MLflow store, a real git repository and a real DVC cache: who becomes
champion, and what is written of it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache
from itertools import product
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from dvc.cli import main as dvc
from torch import Tensor
from typer.testing import CliRunner

import registry_project as project
from ecgforge.cli import app
from ecgforge.commands import promote as stage
from ecgforge.errors import EcgforgeError
from ecgforge.files import md5, read_csv
from ecgforge.model_versions import history, lookup, models, signing, versions
from ecgforge.model_versions.pyfunc_signature import VALIDATED
from ecgforge.params import Params
from ecgforge.provenance import lineage, recorded
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.provenance.lineage import Node
from ecgforge.records.record_set import About, RecordSet
from ecgforge.registry import challenger, promotion, serving
from ecgforge.report import page
from ecgforge.stages import quality as scoring
from ecgforge.tracking import runs, store
from ecgforge.tracking.runs import DatasetInput
from registry_project import NAME
from test_cli import ecgforge, last_line

pytestmark = pytest.mark.slow
PREPROCESSING = {
    "sampling_rate": 100,
    "duration": project.SAMPLES / 100,
    "band": [0.5, 40],
    "max_amplitude": 20,
}
SERVICE = serving.service(
    About(
        100, project.SAMPLES, "mV", project.RHYTHMS, "simulated", {"preprocessing": PREPROCESSING}
    )
)
GOOD, SAME, WORSE, BETTER, UNSURE, LEAKING, DIRTY, OTHERS = (str(number) for number in range(1, 9))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with one version of each kind; nobody is champion."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("project")
    patch.chdir(folder)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.setenv("DVC_STAGE", "")
    project.make(folder)
    records = RecordSet.open(Path("data/prepared/ptbxl"))
    before = project.real_set(Path("data/before"), 1, ["train"] * 60 + ["test"] * 126)
    project.to_cache(before.folder)
    project.git("add", ".")
    project.git("commit", "-q", "-m", "records dealt out otherwise")
    project.register(records, 0.85, 1, validation=0.8)
    project.register(records, 0.85, 2, confidence=0.84)
    project.register(records, 0.6, 3)
    project.register(records, 0.97, 4, validation=0.9)
    project.register(records, 0.98, 5, confidence=0.5, validation=0.7)
    project.register(before, 0.99, 6, validation=0.99)
    Path("edited.py").touch()
    project.register(records, 0.96, 7)
    Path("edited.py").unlink()
    project.register(records, 0.9, 8, rhythms=("SR", "AFIB", "SVT"))
    project.record(
        "classify_real@ptbxl",
        Path("models/classifiers/ptbxl/real"),
        [records.folder, before.folder],
    )
    with (
        closing(sqlite3.connect("mlflow.db")) as now,
        closing(sqlite3.connect("before.db")) as kept,
    ):
        now.backup(kept)
    with Path(".git/info/exclude").open("a") as file:
        file.write("before.db\n")
    yield folder
    patch.undo()


@pytest.fixture
def content(registered: Path) -> Iterator[DvcStore]:
    """The project as it was registered, whatever other tests did to it."""
    assert Path.cwd() == registered
    with (
        closing(sqlite3.connect("mlflow.db")) as now,
        closing(sqlite3.connect("before.db")) as kept,
    ):
        kept.backup(now)
    before = project.git("rev-parse", "HEAD")
    yield DvcStore()
    project.git("reset", "-q", "--hard", before)


@cache
def params() -> Params:
    return Params.read(Path("params.yaml"))


def judged(number: str, content: DvcStore) -> promotion.Verdict:
    return promotion.judge(params(), versions.find(f"{NAME}/{number}"), content)


def promoted(
    number: str, content: DvcStore, force: bool = False, reason: str = ""
) -> promotion.Verdict:
    return promotion.promote(judged(number, content), content, force, reason)


def tags(number: str) -> dict[str, str]:
    return versions.find(f"{NAME}/{number}").tags


def test_the_first_champion_leaves_all_that_a_reader_needs(
    content: DvcStore, tmp_path: Path
) -> None:
    verdict = promoted(GOOD, content)
    assert verdict.failed == []
    version = versions.find(f"{NAME}@champion")
    assert version.number == GOOD
    assert version.tags["verdict"].startswith(
        f"passed, against the baselines; run {version.run_id}, promotion/"
    )
    assert {key for key in version.tags if key.startswith("gate.")} == {
        f"gate.{gate.name}" for gate in verdict.gates
    }
    assert version.tags["gate.macro_f1.majority"].startswith("passed: +0.")
    client = store.client()
    kept = {
        Path(file.path).suffix: file.path
        for file in client.list_artifacts(version.run_id, "promotion")
    }
    evidence = Path(client.download_artifacts(version.run_id, kept[".json"], str(tmp_path)))
    card = promotion.card_path(content.root, version).read_text()
    assert client.get_model_version(NAME, GOOD).description == card
    (entry,) = history.entries(NAME)
    assert (entry.who, entry.action, entry.version, entry.former) == (
        "Ada",
        history.PROMOTED,
        GOOD,
        "",
    )
    assert entry.evidence.endswith(f"md5 {md5(evidence)}")
    assert history.faults(NAME) == []


def test_the_card_says_what_a_user_must_know(content: DvcStore) -> None:
    verdict = promoted(GOOD, content)
    card = promotion.card_path(content.root, verdict.version).read_text()
    digest = verdict.version.tags["input.ptbxl"]
    for words in (
        "Verdict: **passed**, against the baselines",
        "Not a medical device",
        digest,
        "SR 50, AFIB 50, ST 50",
        "| macro f1 | 0.8",
        "| recall AFIB |",
        "| leakage | 0 records, 0 patients | 0 | yes |",
        "**records of real patients: its test records are simulated**",
        verdict.version.tags["git.commit"],
        f"ecgforge lineage {NAME}/{GOOD}",
    ):
        assert words in card
    assert "FORCED" not in card


@pytest.mark.parametrize(
    ("number", "failed"),
    [
        (SAME, ["macro_f1"]),
        (WORSE, ["macro_f1", "recall"]),
        (UNSURE, ["calibration"]),
        (LEAKING, ["provenance", "leakage"]),
        (DIRTY, ["commit"]),
    ],
    ids=["the same", "worse", "badly calibrated", "leaking", "from uncommitted code"],
)
def test_a_version_that_fails_does_not_become_champion(
    content: DvcStore, number: str, failed: list[str]
) -> None:
    promoted(GOOD, content)
    with pytest.raises(
        EcgforgeError,
        match=f"failed {', '.join(failed)} and was not made champion; version {GOOD} stays",
    ):
        promoted(number, content)
    assert history.champion(NAME) == GOOD
    assert len(history.entries(NAME)) == 1
    assert tags(number)["verdict"].startswith(f"failed {', '.join(failed)}, against {NAME}/{GOOD}")
    assert tags(number)[f"gate.{failed[0]}"].startswith("failed: ")


def test_a_better_one_becomes_champion_and_the_former_is_kept(content: DvcStore) -> None:
    promoted(GOOD, content)
    assert promoted(BETTER, content, reason="it is better").failed == []
    assert versions.find(f"{NAME}@champion").number == BETTER
    assert versions.find(f"{NAME}@former").number == GOOD
    assert [(entry.version, entry.former, entry.reason) for entry in history.entries(NAME)] == [
        (GOOD, "", ""),
        (BETTER, GOOD, "it is better"),
    ]
    with pytest.raises(EcgforgeError, match=f"{NAME}/{BETTER} is champion already"):
        judged(BETTER, content)


def test_gates_of_an_earlier_verdict_do_not_linger(content: DvcStore) -> None:
    promoted(WORSE, content)
    assert "gate.macro_f1.majority" in tags(WORSE)
    promoted(BETTER, content)
    with pytest.raises(EcgforgeError):
        promoted(WORSE, content)
    assert "gate.macro_f1" in tags(WORSE)
    assert "gate.macro_f1.majority" not in tags(WORSE)


@pytest.mark.usefixtures("content")
def test_a_record_set_that_is_lost_fails_the_leakage_gate() -> None:
    digest = tags(LEAKING)["input.before"]
    kept, away = Path("data/before"), Path("before-away")
    cached = project.cached(digest)
    kept.rename(away)
    cached.rename("listing")
    try:
        (gate,) = [gate for gate in judged(LEAKING, DvcStore()).gates if gate.name == "leakage"]
    finally:
        away.rename(kept)
        Path("listing").rename(cached)
    assert not gate.passed
    assert "no longer available: before" in gate.detail


@pytest.mark.usefixtures("content")
def test_a_set_that_left_the_working_tree_is_read_from_the_cache() -> None:
    kept, away = Path("data/before"), Path("before-away")
    kept.rename(away)
    try:
        (gate,) = [gate for gate in judged(LEAKING, DvcStore()).gates if gate.name == "leakage"]
    finally:
        away.rename(kept)
    assert gate.value == "24 records, 24 patients"


def test_force_needs_a_reason_and_marks_for_ever(content: DvcStore) -> None:
    promoted(GOOD, content)
    for reason in ("", "  "):
        with pytest.raises(EcgforgeError, match="give a --reason"):
            promoted(WORSE, content, force=True, reason=reason)
    assert history.champion(NAME) == GOOD
    verdict = promoted(WORSE, content, force=True, reason="a demonstration")
    assert history.champion(NAME) == WORSE
    assert tags(WORSE)["forced"].endswith("a demonstration; failed macro_f1, recall")
    assert (
        "**FORCED despite failed gates**"
        in promotion.card_path(content.root, verdict.version).read_text()
    )
    assert history.entries(NAME)[-1].action == history.FORCED
    promotion.rollback(NAME, "")
    assert "forced" in tags(WORSE)


def test_force_on_a_version_that_passes_leaves_no_mark(content: DvcStore) -> None:
    promoted(GOOD, content, force=True, reason="for certain")
    assert "forced" not in tags(GOOD)
    assert history.entries(NAME)[-1].action == history.PROMOTED


def test_the_champion_is_judged_again_when_the_test_records_change(content: DvcStore) -> None:
    promoted(GOOD, content)
    records, before = Path("data/prepared/ptbxl"), Path("kept")
    records.rename(before)
    try:
        # Of the same patients, other recordings: the champion is right about none of them any more.
        changed = project.real_set(records, 3)
        table = (
            (records / "records.csv")
            .read_text()
            .replace(",SR,", ",X,")
            .replace(",AFIB,", ",SR,")
            .replace(",X,", ",AFIB,")
        )
        (records / "records.csv").write_text(table)
        assert len(changed) == len(project.SPLITS)
        verdict = judged(BETTER, DvcStore())
    finally:
        shutil.rmtree(records)
        before.rename(records)
    found = {gate.name: gate for gate in verdict.gates}
    assert "the champion's own metrics are for" in found["test_set"].detail
    assert not found["test_set"].passed, "no DVC stage wrote these records"
    assert "no DVC stage wrote these records" in found["test_set"].detail
    assert verdict.test["digest"] != tags(GOOD)["input.ptbxl"]


def test_other_rhythms_are_an_error(content: DvcStore) -> None:
    with pytest.raises(
        EcgforgeError,
        match="classifies the rhythms SR, AFIB, SVT, but the test records .* have SR, AFIB, ST",
    ):
        judged(OTHERS, content)


def test_the_challenger_is_the_best_version_unless_it_is_champion(content: DvcStore) -> None:
    digest = content.digest("data/prepared/ptbxl")

    def aliases() -> dict[str, str]:
        found = store.client().get_registered_model(NAME).aliases
        return {alias: str(number) for alias, number in found.items()}

    challenger.update(NAME, digest)
    assert aliases() == {"challenger": BETTER}
    history.move(NAME, GOOD, "", history.PROMOTED, "", "")
    assert aliases() == {"champion": GOOD, "challenger": BETTER}, "another champion"
    history.move(NAME, BETTER, GOOD, history.PROMOTED, "", "")
    assert aliases() == {"champion": BETTER, "former": GOOD}, "it is champion"
    challenger.update(NAME, digest)
    assert aliases() == {"champion": BETTER, "former": GOOD}, "no worse version"
    history.move(NAME, GOOD, BETTER, history.ROLLED_BACK, "", "")
    challenger.update(NAME, digest)
    assert aliases()["challenger"] == BETTER
    challenger.update(NAME, "0" * 32)
    assert "challenger" not in aliases(), "of other records"


@pytest.mark.usefixtures("content")
def test_a_version_has_a_line_and_tags_for_people() -> None:
    found = store.client().get_model_version(NAME, GOOD)
    assert found.description == "TrRTeR on ptbxl, oracle, seed 1"
    assert found.tags["mlflow.user"] == "Ada"
    about = store.client().get_registered_model(NAME).description
    assert about.startswith("Classifies the rhythm of a 10 s, 12-lead ECG.")
    assert f"ecgforge promote {NAME} --best" in about
    tags = found.tags | {VALIDATED: "0.8449"}
    assert models.summary(tags) == "TrRTeR on ptbxl, oracle, seed 1: validation macro-F1 .84"
    mixed = tags | {"setting": "TrRSTeR", "generator": "diffwave", "augmented": "true"}
    assert models.summary(mixed) == (
        "TrRSTeR on ptbxl, records of diffwave, oracle, seed 1, augmented: validation macro-F1 .84"
    )
    assert models.summary(tags | {"setting": "TrSTeR"}).endswith(".84 (of synthetic records)")
    generator = {"kind": "generator", "generator": "diffwave", "dataset": "ptbxl", "seed": "0"}
    sampled = generator | {"sampling": '{"steps": 4}'}
    assert models.summary(sampled) == 'diffwave on ptbxl, seed 0, sampling {"steps": 4}'


def test_the_best_is_that_of_the_current_data_by_validation(content: DvcStore) -> None:
    assert promotion.choose(NAME, None, True, content).number == BETTER, (
        "not 6, whose data are others"
    )
    assert promotion.choose(NAME, WORSE, False, content).number == WORSE
    for number, best in ((None, False), (GOOD, True)):
        with pytest.raises(EcgforgeError, match="name a version"):
            promotion.choose(NAME, number, best, content)


@pytest.mark.usefixtures("content")
def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = tags(BETTER)
    stage.promote(params(), NAME, None, True, True, False, "")
    assert "would be made champion; nothing was written" in capsys.readouterr().out
    assert tags(BETTER) == before
    assert history.champion(NAME) == ""


def test_rollback_goes_back_step_by_step(content: DvcStore) -> None:
    with pytest.raises(EcgforgeError, match="no former champion to roll back to"):
        promotion.rollback(NAME, "")
    promoted(GOOD, content)
    promoted(BETTER, content)
    promoted(WORSE, content, force=True, reason="a try")
    assert promotion.rollback(NAME, "it was bad") == (WORSE, BETTER)
    assert promotion.rollback(NAME, "") == (BETTER, GOOD)
    assert history.champion(NAME) == GOOD
    with pytest.raises(EcgforgeError, match="no former champion to roll back to"):
        promotion.rollback(NAME, "")
    with pytest.raises(EcgforgeError, match="has no alias former"):
        versions.find(f"{NAME}@former")
    assert [entry.action for entry in history.entries(NAME)] == [
        "promoted",
        "promoted",
        "forced",
        "rolled back",
        "rolled back",
    ]
    assert history.faults(NAME) == []


def killed(number: str, content: DvcStore) -> None:
    """Leave what a process leaves that promotes a version and dies between writing the entry and
    setting the aliases.
    """
    client, before = store.client(), history.champion(NAME)
    promoted(number, content)
    client.delete_registered_model_alias(NAME, history.FORMER)
    if before:
        client.set_registered_model_alias(NAME, history.CHAMPION, before)
    else:
        client.delete_registered_model_alias(NAME, history.CHAMPION)


def test_a_killed_promotion_does_not_count(content: DvcStore) -> None:
    killed(GOOD, content)
    assert history.former(NAME) == ""
    promoted(GOOD, content)
    killed(BETTER, content)
    with pytest.raises(EcgforgeError, match="no former champion to roll back to"):
        promotion.rollback(NAME, "")
    promoted(BETTER, content)
    assert versions.find(f"{NAME}@former").number == GOOD
    assert len(history.faults(NAME)) == 2
    assert all("had no effect" in fault for fault in history.faults(NAME))
    assert promotion.rollback(NAME, "") == (BETTER, GOOD)
    with pytest.raises(EcgforgeError, match="no former champion to roll back to"):
        promotion.rollback(NAME, "")


def test_rollback_starts_at_the_current_champion(content: DvcStore) -> None:
    promoted(GOOD, content)
    promoted(BETTER, content)
    store.client().set_registered_model_alias(NAME, history.CHAMPION, WORSE)
    assert promotion.rollback(NAME, "") == (WORSE, BETTER)
    assert promotion.rollback(NAME, "") == (BETTER, GOOD)


def test_history_shows_that_the_alias_was_moved(
    content: DvcStore, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.show(NAME)
    assert capsys.readouterr().out == f"No version of {NAME} has been promoted.\n"
    promoted(GOOD, content)
    promoted(BETTER, content)
    client = store.client()
    client.set_registered_model_alias(NAME, history.CHAMPION, WORSE)
    assert any("moved by other means" in fault for fault in history.faults(NAME))
    stage.show(NAME)
    assert "moved by other means" in " ".join(capsys.readouterr().out.split())


def test_a_champion_that_moved_meanwhile_is_noticed(content: DvcStore) -> None:
    verdict = judged(BETTER, content)
    promoted(GOOD, content)
    with pytest.raises(EcgforgeError, match="champion is now version 1, but was not set"):
        promotion.promote(verdict, content, False, "")
    assert history.champion(NAME) == GOOD
    assert len(history.entries(NAME)) == 1


def damage(file: Path) -> None:
    held = file.read_bytes()
    file.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))


@pytest.fixture
def weights(content: DvcStore, tmp_path: Path) -> Iterator[Path]:
    """The registered weights of GOOD, put back afterwards."""
    model = versions.find(f"{NAME}/{GOOD}").source.removeprefix("models:/")
    file = next(content.root.glob(f"mlruns/**/{model}/artifacts/**/weights.safetensors"))
    shutil.copy(file, tmp_path / "kept")
    yield file
    shutil.copy(tmp_path / "kept", file)


@pytest.mark.parametrize("broken", [damage, Path.unlink], ids=["damaged", "gone"])
def test_a_broken_champion_does_not_stay_for_ever(
    content: DvcStore,
    weights: Path,
    broken: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There is none before it to go back to."""
    promoted(GOOD, content)
    broken(weights)
    with pytest.raises(
        EcgforgeError, match=f"failed champion and was not made champion; version {GOOD} stays"
    ):
        stage.promote(params(), NAME, BETTER, False, False, False, "")
    output = " ".join(capsys.readouterr().out.split())
    assert (
        f"{NAME}/{BETTER} against the baselines, since {NAME}/{GOOD} cannot be evaluated" in output
    )
    assert f"champion: the files of {NAME}/{GOOD} are not those that were registered" in output
    assert {"champion", "macro_f1.majority"} <= {key.removeprefix("gate.") for key in tags(BETTER)}
    stage.promote(params(), NAME, BETTER, False, False, True, "the champion is broken")
    assert history.champion(NAME) == BETTER
    assert tags(BETTER)["forced"].endswith("the champion is broken; failed champion")


@pytest.mark.parametrize(
    ("made", "units", "why"),
    [
        ({"rhythms": ("SR", "AFIB", "SVT")}, "mV", "the rhythms SR, AFIB, SVT"),
        ({"service": SERVICE}, "per_lead_std", "units per_lead_std instead of mV"),
    ],
    ids=["other rhythms", "another unit"],
)
@pytest.mark.usefixtures("content")
def test_a_champion_that_was_not_made_for_the_test_records_is_not_compared(
    made: dict[str, Any], units: str, why: str
) -> None:
    about = Path("data/prepared/ptbxl/about.json")
    champion = project.register(RecordSet.open(about.parent), 0.9, 9, **made)
    history.move(NAME, champion.number, history.champion(NAME), history.FORCED, "", "")
    kept = about.read_text()
    about.write_text(kept.replace('"mV"', f'"{units}"'))
    try:
        verdict = judged(BETTER, DvcStore())
        with pytest.raises(
            EcgforgeError,
            match=f"{champion.label} .*{why}.*train it again|{why}.*cannot be judged by them",
        ):
            promotion.answers(champion, RecordSet.open(about.parent).split("test"))
    finally:
        about.write_text(kept)
    (gate,) = [gate for gate in verdict.gates if gate.name == "champion"]
    assert not gate.passed
    assert why in gate.detail
    assert verdict.champion == champion.number


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"units": "per_lead_std"}, ["units per_lead_std instead of mV"]),
        ({"sampling_rate": 200}, ["sampling rate 200 instead of 100"]),
        ({"samples": 300}, ["samples 300 instead of 200"]),
        (
            {"made": {"preprocessing": PREPROCESSING | {"band": [1, 30]}}},
            ["band [1, 30] instead of [0.5, 40]"],
        ),
        ({"made": {"preprocessing": PREPROCESSING | {"max_amplitude": 9}}}, []),
        (
            {"units": "per_lead_std", "samples": 300},
            ["units per_lead_std instead of mV", "samples 300 instead of 200"],
        ),
        ({"made": {}}, []),
    ],
)
def test_what_records_a_version_takes_is_compared(
    tmp_path: Path, change: dict[str, Any], expected: list[str]
) -> None:
    """What only sets records aside changes none of those that stay."""
    about = About(
        100, project.SAMPLES, "mV", project.RHYTHMS, "simulated", {"preprocessing": PREPROCESSING}
    )
    assert serving.differences(tmp_path, replace(about, **change), NAME) == [], (
        "a version that does not say what it takes"
    )
    (tmp_path / serving.PREPROCESSING).write_text(json.dumps(SERVICE.files[serving.PREPROCESSING]))
    assert serving.differences(tmp_path, replace(about, **change), NAME) == expected


def test_a_champion_trained_on_test_records_is_reported(content: DvcStore) -> None:
    history.move(NAME, LEAKING, "", history.FORCED, "", "")
    found = {gate.name: gate for gate in judged(BETTER, content).gates}
    for name in ("macro_f1", "recall"):
        assert (
            f"{NAME}/{LEAKING} saw 24 records, 24 patients of these in training or validation"
            in found[name].detail
        )
    history.move(NAME, GOOD, LEAKING, history.FORCED, "", "")
    assert (
        "saw" not in {gate.name: gate for gate in judged(BETTER, content).gates}["macro_f1"].detail
    )


def test_all_must_come_from_a_source(content: DvcStore) -> None:
    (gate, _) = promotion.provenance(
        versions.find(f"{NAME}/{LEAKING}"), lineage.trace(f"{NAME}/{LEAKING}", content), content
    )
    assert (gate.passed, gate.value, gate.detail) == (False, "1 missing", "source of before")
    for kind, sourced in (("raw records", False), ("file", False), ("source", True)):
        records = Node(
            "record set", "records", made_from=[("prepared from", Node(kind, "the end"))]
        )
        traced = Node(
            "version",
            NAME,
            made_from=[("made by", Node("run", "its run", made_from=[("training", records)]))],
        )
        (gate, _) = promotion.provenance(versions.find(f"{NAME}/{GOOD}"), traced, content)
        assert (gate.passed, gate.detail) == (sourced, "" if sourced else "source of the end")


@pytest.mark.usefixtures("content")
def test_on_the_command_line_a_good_classifier_passes_and_a_better_one_follows() -> None:
    def ecgforge(*words: str) -> str:
        found = CliRunner().invoke(app, words, catch_exceptions=False)
        assert found.exit_code == 0
        return " ".join(found.output.split())

    assert f"{NAME}/{GOOD} is champion." in ecgforge(
        "promote", NAME, "--version", GOOD, "--reason", "the first one"
    )
    output = ecgforge("promote", NAME, "--best", "--reason", "the best on validation records")
    assert f"{NAME}/{BETTER} against {NAME}/{GOOD}" in output
    assert f"{NAME}/{BETTER} is champion. Model card: models/cards/{NAME}-{BETTER}.md" in output
    assert versions.find(f"{NAME}@champion").number == BETTER
    assert versions.find(f"{NAME}@former").number == GOOD
    output = ecgforge("history", NAME)
    assert f"version {GOOD} promoted, after nobody: the first one" in output
    assert (
        f"version {BETTER} promoted, after version {GOOD}: the best on validation records" in output
    )
    assert "forced" not in tags(BETTER)


@pytest.mark.usefixtures("content")
def test_verdict_history_and_lineage_are_json_documents() -> None:
    def document(*words: str, code: int = 0) -> dict[str, Any]:
        found = CliRunner().invoke(app, [*words, "--json"])
        assert found.exit_code == code
        return json.loads(found.stdout)

    def versions_of_history() -> list[str]:
        return [entry["version"] for entry in document("history", NAME)["entries"]]

    assert versions_of_history() == []
    found = document("promote", NAME, "--version", GOOD, "--dry-run")
    assert (found["version"], found["passed"], found["promoted"]) == (f"{NAME}/{GOOD}", True, False)
    assert {gate["passed"] for gate in found["gates"]} == {True}
    assert versions_of_history() == []
    assert document("promote", NAME, "--version", GOOD)["promoted"]
    assert versions_of_history() == [GOOD]
    # a version that fails has its verdict too, and the exit code 1
    found = document("promote", NAME, "--version", WORSE, code=1)
    assert (found["passed"], found["promoted"]) == (False, False)
    assert set(found["failed"]) == {"macro_f1", "recall"}
    assert "failed macro_f1, recall and was not made champion" in found["error"]
    assert "no model is registered as 'nobody'" in document("history", "nobody", code=1)["error"]
    nodes = document("lineage", f"{NAME}@champion")["nodes"]
    assert (nodes[0]["kind"], nodes[0]["name"]) == ("version", f"{NAME}/{GOOD}")
    behind = [nodes[one["node"]]["kind"] for one in nodes[0]["made_from"]]
    assert behind == ["run"]
    found = document("verify", f"{NAME}@champion")
    assert found["verified"]
    assert {item["name"] for item in found["items"]} >= {f"{NAME}/{GOOD}"}


def test_each_forcing_leaves_its_mark(content: DvcStore) -> None:
    promoted(GOOD, content)
    for reason in ("once", "again"):
        promoted(WORSE, content, force=True, reason=reason)
        promotion.rollback(NAME, "")
    first, second = tags(WORSE)["forced"].split(" | ")
    assert first.endswith("once; failed macro_f1, recall")
    assert second.endswith("again; failed macro_f1, recall")
    card = promotion.card_path(content.root, versions.find(f"{NAME}/{WORSE}")).read_text()
    assert tags(WORSE)["forced"] in card
    assert store.client().get_model_version(NAME, WORSE).description == card
    assert {"gate.macro_f1", "gate.recall"} <= set(tags(WORSE)), "gates stay next to the mark"


def test_a_version_that_does_not_become_champion_is_not_marked(content: DvcStore) -> None:
    verdict = judged(UNSURE, content)
    promoted(GOOD, content)
    with pytest.raises(EcgforgeError, match="but was not set"):
        promotion.promote(verdict, content, True, "in vain")
    assert "forced" not in tags(UNSURE)
    assert "FORCED" not in promotion.card_path(content.root, verdict.version).read_text()


def test_no_forced_champion_is_without_its_mark(
    content: DvcStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_here(*_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(history, "_set_aliases", killed_here)
    with pytest.raises(KeyboardInterrupt):
        promoted(UNSURE, content, force=True, reason="a try")
    assert history.champion(NAME) == ""
    assert tags(UNSURE)["forced"].endswith("a try; failed calibration")


def test_a_verdict_that_cannot_be_stored_promotes_no_version(
    content: DvcStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking._tracking_service import utils

    version = project.register(RecordSet.open(Path("data/prepared/ptbxl")), 0.9, 10)
    run = version.run_id
    with closing(sqlite3.connect("mlflow.db")) as database:
        database.execute(
            "UPDATE runs SET artifact_uri = 'nowhere://at/all' WHERE run_uuid = ?", (run,)
        )
        database.commit()
    # it knows the former address
    monkeypatch.setattr(utils, "_artifact_repos_cache", OrderedDict())
    with pytest.raises(
        EcgforgeError, match=f"{version.label} cannot be written to run {run} .*promote again"
    ):
        promoted(version.number, content)
    assert history.champion(NAME) == ""
    assert history.entries(NAME) == []
    assert "verdict" not in tags(version.number)


def test_a_run_that_was_deleted_keeps_no_verdict(content: DvcStore) -> None:
    store.client().delete_run(versions.find(f"{NAME}/{GOOD}").run_id)
    promoted(GOOD, content)
    (entry,) = history.entries(NAME)
    assert entry.evidence.startswith("tags of the version; md5 ")


def test_rollback_past_a_version_that_was_removed(content: DvcStore) -> None:
    promoted(GOOD, content)
    promoted(BETTER, content)
    promoted(WORSE, content, force=True, reason="a try")
    store.client().delete_model_version(NAME, GOOD)
    assert promotion.rollback(NAME, "") == (WORSE, BETTER)
    assert history.champion(NAME) == BETTER
    with pytest.raises(EcgforgeError, match="has no alias former"):
        versions.find(f"{NAME}@former")
    with pytest.raises(EcgforgeError, match=f"version {GOOD}, the former champion, was removed"):
        promotion.rollback(NAME, "")


def test_champion_and_former_are_never_one(
    content: DvcStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(GOOD, content)
    promoted(BETTER, content)

    def killed_here(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(history, "former", killed_here)
    with pytest.raises(KeyboardInterrupt):
        history.move(NAME, GOOD, BETTER, history.ROLLED_BACK, "", "")
    assert versions.find(f"{NAME}@champion").number == GOOD
    with pytest.raises(EcgforgeError, match="has no alias former"):
        versions.find(f"{NAME}@former")


def test_an_entry_follows_the_last_one(content: DvcStore) -> None:
    promoted(GOOD, content)
    client = store.client()
    ((key, text),) = history._texts(NAME).items()
    client.set_registered_model_tag(NAME, f"{history.ENTRY}000009-abcdef", text)
    client.delete_registered_model_tag(NAME, key)
    promoted(BETTER, content)
    assert [entry.version for entry in history.entries(NAME)] == [GOOD, BETTER]
    assert [key[: len("history.000010")] for key in history._texts(NAME)] == [
        "history.000009",
        "history.000010",
    ]
    assert history.faults(NAME) == []


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "{}",
        "[" * 100_000,
        '{"when": "today"}',
        json.dumps(
            dict.fromkeys(("when", "who", "action", "version", "former", "reason", "evidence"), 3)
        ),
        json.dumps(
            dict.fromkeys(
                ("when", "who", "action", "version", "former", "reason", "evidence"), "champion"
            )
        ),
    ],
    ids=[
        "no JSON",
        "a list",
        "nothing",
        "without end",
        "one field",
        "numbers",
        "no number of a version",
    ],
)
@pytest.mark.usefixtures("content")
def test_a_damaged_entry_is_reported_and_blocks_nothing(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, before in ((GOOD, ""), (BETTER, GOOD), (WORSE, BETTER)):
        history.move(NAME, number, before, history.FORCED, f"number {number}", "")
    key = list(history._texts(NAME))[1]
    store.client().set_registered_model_tag(NAME, key, text)
    stage.show(NAME)
    output = capsys.readouterr().out
    assert f"number {GOOD}" in output
    assert f"number {WORSE}" in output
    assert f"the entry {key.removeprefix(history.ENTRY)} is damaged and cannot be read" in output
    assert promotion.rollback(NAME, "") == (WORSE, BETTER), (
        "the entry after it says who was champion"
    )
    history.move(NAME, WORSE, BETTER, history.FORCED, "", "")
    assert history.champion(NAME) == WORSE


@pytest.mark.usefixtures("content")
def test_a_tag_that_is_no_entry_is_reported_and_not_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    history.move(NAME, GOOD, "", history.PROMOTED, "", "")
    for key in ("history.notes", "history.1-abcdef"):
        store.client().set_registered_model_tag(NAME, key, "{}")
    history.move(NAME, BETTER, GOOD, history.PROMOTED, "", "")
    stage.show(NAME)
    assert "the tag history.notes is not an entry" in capsys.readouterr().out
    assert [entry.version for entry in history.entries(NAME)] == [GOOD, BETTER]
    assert all("is not an entry" in fault for fault in history.faults(NAME))


@pytest.mark.usefixtures("content")
def test_texts_of_people_are_shown_letter_by_letter(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "fixes [see #12] and [/old] notes"
    project.git("config", "user.name", "github-actions[bot]")
    try:
        history.move(NAME, GOOD, "", history.PROMOTED, reason, "")
        history.move(NAME, BETTER, GOOD, history.PROMOTED, "\x1b[31mred[/]", "")
    finally:
        project.git("config", "user.name", "Ada")
    stage.show(NAME)
    output = capsys.readouterr().out
    assert f"github-actions[bot]: version {GOOD} promoted, after nobody: {reason}\n" in output
    assert "\\x1b[31mred[/]\n" in output


@pytest.mark.usefixtures("content")
def test_a_user_without_a_name_is_shown_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    project.git("config", "user.name", "")
    known = store.author()
    assert known not in ("", "Ada")
    try:
        history.move(NAME, GOOD, "", history.PROMOTED, "", "")
        monkeypatch.setattr(store.getpass, "getuser", unknown)
        history.move(NAME, BETTER, GOOD, history.PROMOTED, "", "")
    finally:
        project.git("config", "user.name", "Ada")
    assert [entry.who for entry in history.entries(NAME)] == [known, f"uid {os.getuid()}"]


# Killed between any two writes

WRITES = ("set_", "delete_", "log_text", "update_")


class Killed(BaseException):
    """As kill -9: nothing catches it, and nothing is written after it."""


@contextmanager
def killed_before(write: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Die before the write to MLflow with this number, and yield the names of earlier ones."""
    made: list[str] = []

    def counted(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if call.__name__.startswith(WRITES):
            if len(made) == write:
                raise Killed
            made.append(call.__name__)
        return store.with_retry(call, *arguments, **options)

    with monkeypatch.context() as patch:
        for module in (history, signing):
            patch.setattr(module, "with_retry", counted)
        yield made


@pytest.mark.parametrize("act", ["promote", "force", "roll back"])
def test_whoever_is_killed_between_two_writes_can_go_on(
    content: DvcStore, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next promotion or rollback ends as if nobody had been killed, and the history tells no
    one who never was.
    """
    for number, before in ((GOOD, ""), (SAME, GOOD)):
        history.move(NAME, number, before, history.FORCED, "", "")
    verdict = judged(UNSURE if act == "force" else BETTER, content)
    verdict = replace(
        verdict, gates=[gate for gate in verdict.gates if gate.name in ("calibration", "leakage")]
    )
    with closing(sqlite3.connect("mlflow.db")) as now, closing(sqlite3.connect(":memory:")) as kept:
        now.backup(kept)
        with killed_before(100, monkeypatch) as writes:
            act_once(act, verdict, content)
        # What is written before the entry moves nobody: the gates' tags, their evidence and the
        # card.
        points = range(writes.index("set_registered_model_tag"), len(writes))
        assert len(points) == {"promote": 4, "force": 7, "roll back": 3}[act]
        for point in points:
            kept.backup(now)
            with killed_before(point, monkeypatch), pytest.raises(Killed):
                act_once(act, verdict, content)
            assert not any("other means" in fault for fault in history.faults(NAME))
            assert ("forced" in tags(UNSURE)) >= (history.champion(NAME) == UNSURE)
            if history.champion(NAME) == SAME:
                act_once(act, verdict, content)
            expected = (GOOD, "") if act == "roll back" else (verdict.version.number, SAME)
            assert (history.champion(NAME), history.former(NAME)) == expected


def act_once(act: str, verdict: promotion.Verdict, content: DvcStore) -> None:
    if act == "roll back":
        promotion.rollback(NAME, "")
    else:
        promotion.promote(verdict, content, act == "force", "a try")


# The time that it takes


class Taking(project.Oracle):
    """Waits, or computes, for 10 ms."""

    computes: bool

    def features(self, signals: Tensor) -> Tensor:
        started = time.process_time()
        while self.computes and time.process_time() - started < 0.01:
            pass
        time.sleep(0 if self.computes else 0.01)
        return super().features(signals)


@pytest.mark.parametrize(("computes", "least", "most"), [(True, 10, 60), (False, 0, 5)])
def test_latency_is_what_a_version_computes_and_not_what_it_waits_for(
    computes: bool, least: float, most: float, tmp_path: Path
) -> None:
    """A machine that is busy with others lets it wait."""
    classifier = Taking(project.Oracle.Network(), project.RHYTHMS, torch.ones(8))
    classifier.confidence.fill_(0.5)
    classifier.computes = computes
    threads = torch.get_num_threads()
    assert (
        least
        <= promotion.latency(classifier, project.real_set(tmp_path / "records", 0, ["test"] * 3))
        <= most
    )
    assert torch.get_num_threads() == threads


# Two who promote at once


@pytest.fixture
def on_a_server(content: DvcStore, monkeypatch: pytest.MonkeyPatch) -> DvcStore:
    """As where no file lock lets one at a time write."""
    monkeypatch.setattr(history, "_alone", nullcontext)
    return content


def moved(number: str) -> bool:
    """Move as a promotion does that was judged without a champion, and return whether it was
    reported as successful.
    """
    try:
        history.move(NAME, number, "", history.PROMOTED, "", "")
    except EcgforgeError as error:
        message = str(error)
    else:
        return True
    assert re.search(
        f"another promotion came first, of version . by Ada.*history {NAME}|but was not set",
        message,
    )
    return False


def reported_outcome() -> None:
    """Check that the history tells who is champion, and makes no former one of those who lost."""
    now, faults = history.champion(NAME), history.faults(NAME)
    assert not any("other means" in fault for fault in faults)
    assert sum("had no effect" in fault for fault in faults) == len(history.entries(NAME)) - bool(
        now
    )
    assert history.former(NAME) == ""


@pytest.mark.usefixtures("on_a_server")
@pytest.mark.parametrize(
    "place", ["_texts", "_write", "_check", "_check_undisturbed", "_set_aliases", "champion"]
)
@pytest.mark.parametrize("times", [1, 2])
def test_one_of_two_simultaneous_promotions_gives_up(
    monkeypatch: pytest.MonkeyPatch, place: str, times: int
) -> None:
    """The other's whole promotion falls into the first one's, before the call of `place`."""
    original, calls, outcomes = getattr(history, place), [], []

    def interrupted(*arguments: Any) -> Any:
        calls.append(place)
        if len(calls) == times:
            outcomes.append(moved(BETTER))
        return original(*arguments)

    monkeypatch.setattr(history, place, interrupted)
    outcomes.append(moved(GOOD))
    monkeypatch.setattr(history, place, original)
    assert outcomes.count(True) <= 1 if len(outcomes) == 2 else len(calls) < times
    reported_outcome()


@pytest.mark.usefixtures("on_a_server")
def test_two_simultaneous_writes_both_give_up_and_the_next_one_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, both = history._write, threading.Barrier(2, timeout=60)

    def together(*arguments: Any) -> str:
        both.wait()
        key = original(*arguments)
        both.wait()
        return key

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(history, "_write", together)
        assert list(pool.map(moved, (GOOD, BETTER))) == [False, False]
    assert history.champion(NAME) == ""
    reported_outcome()
    assert moved(WORSE)
    reported_outcome()


def win(folder: Path, number: str, all_ready: Barrier) -> None:
    os.chdir(folder)
    history.champion(NAME)
    all_ready.wait(60)
    history.move(NAME, number, "", history.PROMOTED, "", "")


def test_two_simultaneous_promotions_do_not_both_succeed(
    content: DvcStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of the project: a fork must not take along a connection to its database."""
    folder = Path(shutil.copytree(content.root, tmp_path / "project"))
    context = multiprocessing.get_context("fork")
    all_ready = context.Barrier(3)
    started = [
        context.Process(target=win, args=(folder, number, all_ready))
        for number in (GOOD, BETTER, WORSE)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(90)
    won = [
        number
        for process, number in zip(started, (GOOD, BETTER, WORSE), strict=True)
        if process.exitcode == 0
    ]
    monkeypatch.chdir(folder)
    assert len(won) == 1
    assert [entry.version for entry in history.entries(NAME)] == won
    assert history.champion(NAME) == won[0]
    assert history.faults(NAME) == []


# Generators

GENERATOR = "ecg-generator-diffwave-ptbxl"
SCORES = {
    "c2st_accuracy": 0.6,
    "c2st_accuracy_baseline": 0.5,
    "coverage": 0.9,
    "coverage_baseline": 0.95,
    "heart_rate_w1": 2.0,
    "heart_rate_w1_baseline": 1.0,
    "rr_cv_w1": 1.0,
    "rr_cv_w1_baseline": 0.5,
    "copied_share": 0.01,
    "copied_share_baseline": 0.01,
    "dcr_ratio": 0.95,
    "membership_auc": 0.5,
}


SAMPLING_PARAMETERS = {"steps": 4, "guidance": 1.0}
UNSCORED = f"no scores of the records of {GENERATOR}/1 .*: run `dvc repro quality@ptbxl-diffwave`"
QUALITY, TRAINED, SCORED = (
    "quality@ptbxl-diffwave",
    Path("models/generators/ptbxl/diffwave"),
    Path("results/quality/ptbxl/diffwave"),
)


def generator(
    seed: int,
    scores: dict[str, float] | None,
    sampling: dict[str, float] = SAMPLING_PARAMETERS,
    sampled_with: dict[str, float] = SAMPLING_PARAMETERS,
) -> None:
    """Register a small generator with `sampling`, and score records that it generated with
    `sampled_with`.
    """
    from ecgforge.generators.common import base, registry

    records = RecordSet.open(Path("data/prepared/ptbxl"))
    tree = params().active.generators["diffwave"].network | {"layers": 2, "channels": 8}
    made = registry.create(
        "diffwave",
        base.Shape(8, project.SAMPLES, len(project.RHYTHMS), 100),
        tree,
        __import__("torch").ones(8),
        seed,
    )
    registry.save(made, TRAINED)
    project.record("train_generator@ptbxl-diffwave", TRAINED, [records.folder])
    os.environ["DVC_STAGE"] = "train_generator@ptbxl-diffwave"
    key = runs.RunKey("generator", "ptbxl", seed, True, generator="diffwave")
    real = DatasetInput("ptbxl", records.folder, md5(records.folder), "training", "simulated")
    with runs.tracked(key, fingerprint=f"generator {seed}", params={}, inputs=[real]) as run:
        described = models.sampling_file(sampling, project.RHYTHMS, "mV")
        models.log_generator(
            run, *made.exportable(), TRAINED, name=key.model_name, described=described
        )
    if scores is not None:
        score(scores, sampled_with)


def score(
    scores: dict[str, float],
    sampled_with: dict[str, float] = SAMPLING_PARAMETERS,
    stage: str = QUALITY,
    made: dict[str, str] | None = None,
    **deps: Path,
) -> None:
    """Leave what is left of records that the generator in models/ drew, and of their scores:

    DVC's record, and files in its cache.

    Args:
        made: what the records say of themselves that is otherwise.
        deps: what DVC recorded otherwise: the digest of the content at a path, under the path of a
            dependency with `_` for `/`.
    """
    synthetic = Path("data/synthetic/ptbxl/diffwave")
    for folder in (synthetic, SCORED):
        folder.mkdir(parents=True, exist_ok=True)
    by = {
        "sampling": sampled_with,
        "weights_md5": md5(TRAINED / "weights.safetensors"),
        "generator_md5": md5(TRAINED),
    }
    (synthetic / "about.json").write_text(
        json.dumps({"origin": "synthetic", "made": by | (made or {})})
    )
    project.folder_to_cache_only(synthetic)
    (SCORED / "scores.csv").write_text(table(scores))
    (SCORED / "fingerprint.txt").write_text("scored\n")
    project.record(stage, SCORED, [Path("data/prepared/ptbxl"), synthetic])
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    for entry in lock["stages"][stage]["deps"]:
        entry["md5"] = md5(deps.get(entry["path"].replace("/", "_"), Path(entry["path"])))
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    project.git("commit", "-q", "--amend", "--no-edit", "--allow-empty", "dvc.lock")
    shutil.rmtree(synthetic)
    shutil.rmtree(SCORED)


def table(scores: dict[str, float]) -> str:
    """scores.csv as the stage writes it."""
    metrics = [name for name in scores if not re.search("_(low|high|baseline)$", name)]
    rows = [
        ("all", name, *(scores.get(name + end) for end in ("", "_low", "_high", "_baseline")))
        for name in metrics
    ]
    rows += [("SR", name, 0.0, 0.0, 0.0, 0.0) for name in metrics]
    return pd.DataFrame(
        rows, columns=["rhythm", "metric", "value", "low", "high", "baseline"]
    ).to_csv(index=False)


def judged_generator(number: str = "1") -> promotion.Verdict:
    """By what lies in the project now."""
    return promotion.judge(params(), versions.find(f"{GENERATOR}/{number}"), DvcStore())


def test_generators_are_judged_by_their_own_records(content: DvcStore) -> None:
    generator(1, SCORES)
    generator(2, SCORES | {"copied_share": 0.9, "dcr_ratio": 0.1, "membership_auc": 0.95})
    generator(3, None)
    memorising = promotion.judge(params(), versions.find(f"{GENERATOR}/2"), content)
    assert memorising.failed == ["copied", "nearest", "membership"]
    with pytest.raises(
        EcgforgeError,
        match="failed copied, nearest, membership and was not made champion; there is none yet",
    ):
        promotion.promote(memorising, content, False, "")
    with pytest.raises(
        EcgforgeError,
        match=r"no scores of the records of .*: run `dvc repro quality@ptbxl-diffwave`",
    ):
        promotion.judge(params(), versions.find(f"{GENERATOR}/3"), content)
    with pytest.raises(
        EcgforgeError,
        match="is a generator: choose with --version N. Those trained on the current data: 1, 2, 3",
    ):
        promotion.choose(GENERATOR, None, True, content)
    verdict = promotion.promote(
        promotion.judge(params(), versions.find(f"{GENERATOR}/1"), content), content, False, ""
    )
    card = promotion.card_path(content.root, verdict.version).read_text()
    assert "generates synthetic 10 s ECGs" in card
    assert "| copied_share | 0.01 | 0.01 |" in card
    assert history.champion(GENERATOR) == "1"


def test_a_generators_card_has_intervals(content: DvcStore, tmp_path: Path) -> None:
    generator(1, SCORES | {"copied_share_low": 0.005, "copied_share_high": 0.02})
    verdict = promotion.promote(
        promotion.judge(params(), versions.find(f"{GENERATOR}/1"), content), content, False, ""
    )
    card = promotion.card_path(content.root, verdict.version).read_text()
    assert "| copied_share | 0.01 | 0.01 | 0.005 to 0.02 |" in card
    assert "| coverage | 0.9 | 0.95 | not known |" in card
    (gate,) = [gate for gate in verdict.gates if gate.name == "copied"]
    assert "95 % interval 0.005 to 0.02" in gate.detail
    client, run = store.client(), verdict.version.run_id
    (kept,) = [
        file.path for file in client.list_artifacts(run, "promotion") if file.path.endswith(".json")
    ]
    values = {
        row["metric"]: row
        for row in json.loads(
            Path(client.download_artifacts(run, kept, str(tmp_path))).read_text()
        )["metrics"]
    }
    assert values["copied_share"] == {
        "metric": "copied_share",
        "value": 0.01,
        "low": 0.005,
        "high": 0.02,
        "baseline": 0.01,
    }
    assert values["coverage"] == {"metric": "coverage", "value": 0.9, "baseline": 0.95}


@pytest.mark.usefixtures("content")
def test_a_quality_run_has_scores_with_baselines_and_a_table_of_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    columns = ["rhythm", "metric", "value", "low", "high", "baseline", "negative_control"]
    rows = [
        ("all", "coverage", 0.9, 0.86, 0.93, 0.95, 0.1),
        ("all", "mmd2", 0.02, np.nan, np.nan, 0.01, 0.5),
        ("SR", "psd_db", *[1.0] * 5),
    ]
    found = (
        pd.DataFrame(rows, columns=columns),
        pd.DataFrame({"view": [], "kind": [], "rhythm": [], "x": [], "y": []}),
    )
    monkeypatch.setattr(scoring.scores, "assess", lambda *_: found)
    trained = Path("models/classifiers/ptbxl/real")
    shutil.copytree(trained / "seed-1", tmp_path / f"seed-{params().active.study.seeds[0]}")
    real = Path("data/prepared/ptbxl")
    scoring.quality(params(), "ptbxl", "diffwave", real, real, tmp_path, tmp_path / "quality")
    run = lookup.runs_by_fingerprint()[(tmp_path / "quality/fingerprint.txt").read_text().strip()]
    client = store.client()
    assert client.get_run(run.run_id).data.metrics == {
        "quality/beyond_baseline_share": 0.5,
        "quality/coverage": 0.9,
        "quality_baseline/coverage": 0.95,
        "quality/mmd2": 0.02,
        "quality_baseline/mmd2": 0.01,
    }
    table = read_csv(client.download_artifacts(run.run_id, "scores.csv"))
    pd.testing.assert_frame_equal(table, found[0])
    assert 2 * len(scoring.SHOWN) + 1 <= 40
    assert set(scoring.SHOWN) <= set(page.SCORES), "a name that no score has"


def test_a_generator_is_judged_by_records_with_its_own_sampling(content: DvcStore) -> None:
    """One training has two samplings, a version each, and records of one way are scored last: they
    say nothing of the other.
    """
    other = SAMPLING_PARAMETERS | {"guidance": 9.0}
    copies = SCORES | {"copied_share": 0.9}
    generator(1, None)
    generator(1, SCORES | {"copied_share": 0.8}, other, sampled_with=other)
    first, second = versions.versions(GENERATOR)
    assert first.tags[models.WEIGHTS] == second.tags[models.WEIGHTS]
    with pytest.raises(
        EcgforgeError,
        match=r"1 uses .*1\.0}, and DVC has no scores of such records .*dvc repro --force synth",
    ):
        promotion.judge(params(), first, content)
    assert promotion.judge(params(), second, content).failed == ["copied"]
    generator(1, SCORES)
    generator(1, copies, other, sampled_with={"guidance": 9, "steps": 4})
    assert len(versions.versions(GENERATOR)) == 2, "the same weights with two samplings"
    assert promotion.judge(params(), first, content).failed == [], (
        "by the scores of its own records, though others are newer"
    )
    verdict = promotion.judge(params(), second, content)
    assert verdict.metrics.set_index("metric").loc["copied_share", "value"] == 0.9, (
        "by the newest of its own"
    )


@pytest.mark.usefixtures("content")
def test_scores_that_mlflow_alone_states_do_not_help() -> None:
    """An unknown run, that names the version's own weights, the current real records, and the
    fingerprint of DVC's record.
    """
    generator(1, None)
    real, synthetic = Path("data/prepared/ptbxl"), Path("models")
    inputs = [
        DatasetInput("ptbxl", real, md5(real), "real", "simulated"),
        DatasetInput(
            "ptbxl/diffwave",
            synthetic,
            md5(synthetic),
            "synthetic",
            "synthetic",
            md5(TRAINED / "weights.safetensors"),
        ),
    ]
    with runs.tracked(
        runs.RunKey("quality", "ptbxl", 0, True, generator="diffwave"),
        fingerprint="scored",
        params={},
        inputs=inputs,
    ) as run:
        run.summary(SCORES)
        run.text(table(SCORES), "scores.csv")
    with pytest.raises(EcgforgeError, match=UNSCORED):
        judged_generator()
    score(SCORES | {"copied_share": 0.8})
    verdict = judged_generator()
    assert verdict.failed == ["copied"]
    assert re.fullmatch(rf"the baselines of {QUALITY} [0-9a-f]{{8}}, run {run.id}", verdict.against)


@pytest.mark.usefixtures("content")
def test_scores_count_that_dvc_recorded_of_these_files_and_records() -> None:
    generator(1, None)
    SCORED.mkdir(parents=True)
    (SCORED / "scores.csv").write_text(table(SCORES))
    project.folder_to_cache_only(SCORED)
    with pytest.raises(EcgforgeError, match=UNSCORED):
        judged_generator()
    shutil.rmtree(SCORED)
    score(SCORES, data_prepared_ptbxl=Path("data/before"))
    score(SCORES, data_synthetic_ptbxl_diffwave=Path("data/before"))
    score(SCORES, stage="quality@ptbxl-time_vqvae")
    score(SCORES, made={"generator_md5": md5(Path("data/before"))})
    with pytest.raises(EcgforgeError, match=UNSCORED):
        judged_generator()
    score(SCORES, SAMPLING_PARAMETERS | {"steps": 5})
    with pytest.raises(EcgforgeError, match="and DVC has no scores of such records"):
        judged_generator()
    score(SCORES)
    verdict = judged_generator()
    assert (verdict.failed, set(verdict.metrics["metric"])) == (
        [],
        {name.removesuffix("_baseline") for name in SCORES if name.endswith("_baseline")},
    )
    assert re.fullmatch(rf"the baselines of {QUALITY} [0-9a-f]{{8}}", verdict.against), (
        "no run is needed"
    )


@pytest.mark.usefixtures("content")
def test_the_newest_scores_count_and_a_record_that_is_not_committed_first() -> None:
    generator(1, SCORES)
    score(SCORES | {"copied_share": 0.8})
    assert judged_generator().failed == ["copied"]
    project.git("checkout", "-q", "HEAD~1", "--", "dvc.lock")
    assert judged_generator().failed == [], "the working tree has the older ones"


@pytest.mark.usefixtures("content")
def test_a_description_or_scores_that_are_gone_or_damaged_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator(1, SCORES)
    texts = (
        None,
        b"",
        b"{",
        b"[1]",
        b'{"made": 1}',
        b"rhythm,metric\nall,a",
        b"rhythm,metric,value\nall,copied_share,x",
        b"\0\xff",
        b"[" * 9999,
    )
    given, content, read = {}, DvcStore(), DvcStore.read
    monkeypatch.setattr(
        DvcStore,
        "read",
        lambda self, digest, file, path: (
            given[file] if file in given else read(self, digest, file, path)
        ),
    )
    for name, text in product(("about.json", "scores.csv"), texts):
        given = {name: text}
        assert (
            list(
                recorded.quality(
                    "ptbxl", "diffwave", md5(TRAINED), md5(Path("data/prepared/ptbxl")), content
                )
            )
            == []
        ), (name, text)
    given = {}
    assert judged_generator().failed == []


def test_the_provenance_of_a_champion_is_a_crate(
    content: DvcStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_STAGE")
    version = promoted(GOOD, content, reason="the first").version
    crate = tmp_path / "crate"
    called = ("lineage", f"{NAME}@champion", "--crate", str(crate))
    found = ecgforge(Path.cwd(), *called)
    assert found.returncode == 0, found.stderr
    tree = json.loads((crate / "ro-crate-metadata.json").read_text())
    graph = {entity["@id"]: entity for entity in tree["@graph"]}
    profiles = [one["@id"] for one in graph["./"]["conformsTo"]]
    assert "https://w3id.org/ro/wfrun/workflow/0.5" in profiles
    assert {one["@id"] for one in graph["./"]["hasPart"]} == {
        *("README.md", "dvc.yaml", "params.yaml", "verdict.json", "model_card.md")
    }
    commit = version.tags["git.commit"]
    assert graph["dvc.yaml"]["version"] == commit
    assert (crate / "dvc.yaml").read_text().strip() == project.git("show", f"{commit}:dvc.yaml")
    verdict = json.loads((crate / "verdict.json").read_text())
    assert (verdict["version"], verdict["passed"]) == (version.label, True)
    actions = [graph[one["@id"]] for one in graph["./"]["mentions"]]
    ends = [action.get(key, []) for action in actions for key in ("object", "result")]
    entities = [graph[one["@id"]] for end in ends for one in listed(end)]
    identifiers = [one["identifier"]["@id"] for one in entities if "identifier" in one]
    digests = {graph[name]["value"] for name in identifiers}
    records = content.digest("data/prepared/ptbxl")
    assert digests == {records, version.tags[models.WEIGHTS]}
    values = {one["name"]: one["value"] for one in entities if one["@type"] == "PropertyValue"}
    assert values["seed"] == "1"
    assert values["validation/f1_macro_best"] == 0.8
    assert graph["#promotion"]["agent"] == {"@id": "#person-Ada"}
    assert "Reason: the first" in (crate / "README.md").read_text()
    assert last_line(ecgforge(Path.cwd(), *called)).endswith("exists already: name a new folder")
    store.client().log_text(version.run_id, "{}", str(crate_evidence(version)))
    called = (*called[:-1], str(tmp_path / "other"))
    assert "the verdict on" in last_line(ecgforge(Path.cwd(), *called))
    assert not (tmp_path / "other").exists()


def listed(value: Any) -> list[Any]:
    """RO-Crate unpacks lists of one item."""
    return value if isinstance(value, list) else [value]


def crate_evidence(version: versions.Version) -> str:
    """Where the run of a version has its verdict."""
    return history.entries(version.name)[-1].evidence.split(", ")[1].split(";")[0]


WORKFLOW = project.ROOT / "docs/how-to/promotion_workflow.yml"
# Calls the command of its own name in the process of the test, which has imported all libraries.
CALL = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ["CALLS"])
    file = connection.makefile("rw")
    print(json.dumps([os.path.basename(sys.argv[0]), os.getcwd(), sys.argv[1:]]), file=file)
    file.flush()
    code, out, err = json.loads(file.readline())
print(out, end="")
print(err, end="", file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.usefixtures("content")
def test_a_pull_request_is_judged_and_its_merge_promotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of the workflow that the documentation offers, in a clone of the repository."""
    clone, central = tmp_path / "clone", Path.cwd()
    monkeypatch.delenv("DVC_STAGE")
    shutil.copytree(".dvc/cache", tmp_path / "remote")
    Path(".dvc/config").write_text(
        f"[core]\n    remote = shared\n['remote \"shared\"']\n    url = {tmp_path}/remote\n"
    )
    project.git("commit", "-q", "-am", "a remote")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{central}/mlflow.db")
    project.git("clone", "-q", str(central), str(clone))
    monkeypatch.chdir(clone)
    base = project.git("rev-parse", "HEAD")
    for wanted in ({NAME: LEAKING, "ecg-classifier-nowhere": "1"}, {NAME: BETTER}):
        project.git("checkout", "-q", "-B", "change", base)
        Path("champions").mkdir(exist_ok=True)
        for model, number in wanted.items():
            Path("champions", model).write_text(f"{number}\n")
        project.git("add", "champions")
        project.git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qm", "a better one")
        (tmp_path / "comments").unlink(missing_ok=True)
        code, said = steps(tmp_path, "pull_request", BASE=base, PULL_REQUEST="7")
        assert code == (0 if len(wanted) == 1 else 1), said
        comments = (tmp_path / "comments").read_text()
        assert comments.count("pr comment 7 --body-file -\n```\n") == len(wanted)
        assert f"{NAME}/{wanted[NAME]} against the baselines" in comments
        assert ("no model is registered as 'ecg-classifier-nowhere'" in comments) is bool(code)
        assert history.champion(NAME) == ""
    code, said = steps(tmp_path, "push", BASE=base, REASON="a better one", PERSON="Eve")
    assert code == 0, said
    assert history.champion(NAME) == BETTER
    entry = history.entries(NAME)[-1]
    assert (entry.who, entry.reason) == ("Eve", "a better one")
    assert (clone / "models/cards" / f"{NAME}-{BETTER}.md").exists()


def steps(folder: Path, event: str, **environment: str) -> tuple[int, str]:
    """Run the steps of the workflow for an event; return the exit code and what was printed."""
    tree = yaml.load(WORKFLOW.read_text(), yaml.CSafeLoader)
    named = [step for step in tree["jobs"]["promotion"]["steps"] if step.get("name")]
    chosen = [
        step for step in named if event in step.get("if", event) and step["name"] != "Install"
    ]
    assert len(chosen) == 2
    declared = {name for step in (tree, *chosen) for name in step.get("env", {})}
    assert declared - {"GH_TOKEN", "MLFLOW_TRACKING_URI"} == {*environment}
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    for name in ("ecgforge", "dvc"):
        (commands / name).write_text(CALL.format(python=sys.executable))
    (commands / "gh").write_text(f'#!/bin/sh\n{{ echo "$@"; cat; }} >> {folder}/comments\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    environment |= {"PATH": f"{commands}:{os.environ['PATH']}", "CALLS": str(folder / "calls")}
    lines = "\n".join(f"( {step['run']} )" for step in chosen)
    with (folder / "said").open("w") as said, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(environment["CALLS"])
        listener.listen()
        listener.settimeout(0.05)
        process = subprocess.Popen(
            ["bash", "-e", "-c", lines], env=os.environ | environment, stdout=said, stderr=said
        )
        while process.poll() is None:
            with suppress(TimeoutError):
                answer(listener.accept()[0])
    Path(environment["CALLS"]).unlink()
    return process.returncode, (folder / "said").read_text()


def answer(connection: socket.socket) -> None:
    """Run the command that a script calls, and return its exit code and output to the script."""
    with connection, connection.makefile("rw") as file:
        name, where, arguments = json.loads(file.readline())
        if name == "ecgforge":
            found = ecgforge(Path(where), *arguments)
            print(json.dumps([found.returncode, found.stdout, found.stderr]), file=file)
        else:
            print(json.dumps([dvc(arguments), "", ""]), file=file)
