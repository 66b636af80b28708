"""Withdrawn patients: the list in params.yaml, the affected versions, and promotion."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import registry_project as project
from ecgforge.cli import app
from ecgforge.commands import withdraw as stage
from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import history, versions
from ecgforge.model_versions.history import WITHDRAWN
from ecgforge.params import Params, read_yaml
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.records.record_set import RecordSet
from ecgforge.registry import promotion
from ecgforge.tracking import store
from registry_project import NAME

BOTH, OTHERS = "1", "2"  # versions: one learned from patients 0 to 35, one from 36 on
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1
)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with two versions; the first is champion."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("project")
    patch.chdir(folder)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.setenv("DVC_SWITHDRAWNE", "")
    project.make(folder)
    records = RecordSet.open(Path("data/prepared/ptbxl"))
    splits = ["test"] * 36 + ["train"] * 150
    others = project.real_set(Path("data/others"), 1, splits)
    project.to_cache(others.folder)
    project.git("add", ".")
    project.git("commit", "-q", "-m", "records with other splits")
    project.register(records, 0.9, 1)
    project.register(others, 0.9, 2)
    project.record(
        "classify_real@ptbxl",
        Path("models/classifiers/ptbxl/real"),
        [records.folder, others.folder],
    )
    yield folder
    patch.undo()


@pytest.fixture
def withdrawn(registered: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project, with patients 0 to 185 known; params.yaml and aliases are restored."""
    monkeypatch.setattr(stage, "_patients", lambda *_: {str(number) for number in range(186)})
    before = Path("params.yaml").read_bytes()
    history.move(NAME, BOTH, history.champion(NAME), history.PROMOTED, "", "")
    for number in (BOTH, OTHERS):
        if WITHDRAWN in versions.find(f"{NAME}/{number}").tags:
            store.client().delete_model_version_tag(NAME, number, WITHDRAWN)
    yield registered
    Path("params.yaml").write_bytes(before)


def called(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["withdraw", *arguments])
    text = str(result.exception) if isinstance(result.exception, EcgforgeError) else ""
    return result.exit_code, result.output + text


@pytest.mark.usefixtures("withdrawn")
def test_a_former_champion_that_learned_from_a_patient_loses_its_alias() -> None:
    history.move(NAME, OTHERS, BOTH, history.PROMOTED, "", "")
    assert "former" in versions.find(f"{NAME}/{BOTH}").aliases
    assert called("ptbxl", "3")[0] == 0
    assert versions.find(f"{NAME}/{BOTH}").aliases == ()
    assert called("--check")[0] == 0


@pytest.mark.usefixtures("withdrawn")
def test_what_learned_from_a_patient_is_listed_marked_and_not_promoted() -> None:
    """Patient 3 trained the first version, and was a test patient of the second."""
    trained = [f"models/variations/size/{name}/diffwave/25" for name in ("ptbxl_1of3", "chapman")]
    for folder in map(Path, trained):
        folder.mkdir(parents=True)
        (folder / "generator.json").touch()
    code, said = called("ptbxl", "3")
    assert code == 0
    assert f"generator {trained[0]}" in said
    assert trained[1] not in said
    assert f"version {NAME}/{BOTH} (champion): 1 withdrawn patient in ptbxl" in said
    assert "record set ptbxl" in said
    assert f"{NAME}/{OTHERS}" not in said
    assert "1 withdrawn patient in ptbxl" in versions.find(f"{NAME}/{BOTH}").tags[WITHDRAWN]
    assert WITHDRAWN not in versions.find(f"{NAME}/{OTHERS}").tags
    assert Params.read(Path("params.yaml")).withdrawn == {"ptbxl": ["3"]}

    code, said = called("--check")
    assert code
    assert "1 version with an alias learned from a withdrawn patient" in said
    history.move(NAME, OTHERS, BOTH, history.PROMOTED, "", "")
    code, said = called("--check")
    assert code == 0
    assert "No version with an alias learned from a withdrawn patient (1 patient)." in said

    params = Params.read(Path("params.yaml"))
    with pytest.raises(EcgforgeError, match="cannot be promoted \\(1 withdrawn patient in ptbxl"):
        promotion.judge(params, versions.find(f"{NAME}/{BOTH}"), DvcStore())
    with pytest.raises(EcgforgeError, match="cannot become champion again"):
        promotion.rollback(NAME, "")


@pytest.mark.usefixtures("withdrawn")
def test_sets_that_are_gone_may_have_had_the_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DvcStore, "read", lambda *_: None)
    code, said = called("ptbxl", "100")
    assert code == 0
    assert f"{NAME}/{BOTH} (champion): ptbxl" in said
    assert "is no longer available, so its patients are unknown" in said


@pytest.mark.usefixtures("withdrawn")
def test_patients_come_from_the_command_and_a_file_and_add_up() -> None:
    Path("list.txt").write_bytes(b"\xef\xbb\xbf40\r\n\r\n 41 \r\n")
    assert called("ptbxl", "40", "--file", "list.txt")[0] == 0
    code, said = called("ptbxl", "41", "39")
    assert code == 0
    assert "1 patient of ptbxl added to `withdrawn`; already in it: 1" in said
    assert Params.read(Path("params.yaml")).withdrawn == {"ptbxl": ["39", "40", "41"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["ptbxl", "3", "x"],
            "ptbxl has no patient x; an example of its patients is 0. Nothing was changed",
        ),
        (["elsewhere", "3"], "'elsewhere' is not a source: use one of ptbxl, chapman"),
        (["ptbxl"], "name a patient, or give a file"),
        (["ptbxl", ""], "name a patient, or give a file"),
        (["ptbxl", "--file", "none.txt"], "none.txt cannot be read"),
        (["ptbxl", "--file", os.devnull], "/dev/null is empty: write one patient per line"),
        (["ptbxl", "3", "--check"], "or give only --check"),
        ([], "or give only --check"),
    ],
)
@pytest.mark.usefixtures("withdrawn")
def test_a_wrong_call_changes_nothing(arguments: list[str], words: str) -> None:
    before = Path("params.yaml").read_bytes()
    code, said = called(*arguments)
    assert code
    assert words in said
    assert Path("params.yaml").read_bytes() == before


TEXT = "profile: demo # the first\nsources: [ptbxl,\n  chapman]\n"


@given(first=st.lists(NAMES, min_size=1), second=st.lists(NAMES, min_size=1))
def test_the_list_is_written_and_every_other_byte_stays(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str]
) -> None:
    # not in the folder of all tests, which would become the project of those after this one
    file = tmp_path_factory.getbasetemp() / "withdrawn" / "params.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(TEXT)
    stage._write(file, {"ptbxl": first})
    assert file.read_text().startswith(TEXT)
    stage._write(file, {"ptbxl": second, "chapman": first})
    assert file.read_text().startswith(TEXT)
    tree = read_yaml(file, "")
    assert tree.pop("withdrawn") == {"ptbxl": second, "chapman": first}
    assert tree == yaml.safe_load(TEXT)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_within_the_file_is_replaced_where_it_is(tmp_path: Path, end: str) -> None:
    file = tmp_path / "params.yaml"
    lines = ["a: 1  # one", "withdrawn: {x: ['1']}", "", "# two", "b: [2,", "  3]", ""]
    file.write_bytes(end.join(lines).encode())
    stage._write(file, {"x": ["1", "2"]})
    expected = end.join(lines).replace(
        "withdrawn: {x: ['1']}" + end, 'withdrawn:\n  x: ["1", "2"]\n'
    )
    assert file.read_bytes().decode() == expected
