"""Commands that classify own records and generate synthetic ones with champions."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import wfdb

from champions import (
    CLASSIFIER,
    GENERATOR,
    PARAMS,
    Bomb,
    prepared_records,
    register_classifier,
    register_generator,
    stored,
)
from ecgforge.classifiers.common import base, registry
from ecgforge.errors import EcgforgeError
from ecgforge.files import read_csv
from ecgforge.generators import synthesis
from ecgforge.params import FolderSource, Preparation, SimulatedSource
from ecgforge.records.leads import LEADS, STANDARD_LEADS
from ecgforge.records.record_set import RecordSet
from ecgforge.sources import folder as own
from ecgforge.sources import simulated
from ecgforge.stages import prepare as prepare_stage
from ecgforge.tracking import store
from ecgforge.wfdb_io import files as wfdb_files
from test_cli import ecgforge, last_line

pytestmark = pytest.mark.slow

CHAMPION, STANDARDISED = f"{GENERATOR}@champion", "ecg-generator-diffwave-chapman"
GENERATE = ("generate", "--model", CHAMPION, "--rhythm", "SR")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Raw and prepared records, and a champion of a classifier and of two generators."""
    patch, project = pytest.MonkeyPatch(), tmp_path_factory.mktemp("project")
    patch.chdir(project)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    register_classifier(project, prepared_records(project))
    register_generator(project)
    register_generator(project, STANDARDISED, "per_lead_std")
    yield project
    patch.undo()


@pytest.fixture(scope="module")
def records(project: Path) -> RecordSet:
    return RecordSet.open(project / "prepared-mV")


def generate(project: Path, out: Path, *arguments: str, model: str = CHAMPION) -> str:
    found = ecgforge(
        project, "generate", "--model", model, "--rhythm", "AFIB", "--out", str(out), *arguments
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


# Classify


def test_a_folder_is_classified_as_the_study_tested(
    project: Path, records: RecordSet, tmp_path: Path
) -> None:
    found = ecgforge(project, "classify", "raw", "--out", str(tmp_path / "a.csv"))
    assert found.returncode == 0, found.stderr
    table = read_csv(tmp_path / "a.csv", keep_default_na=False).set_index("record")
    assert len(table) == 40
    kept = [f"raw/ptbxl/records100/30000/{int(name):05d}_lr" for name in records.records["id"]]
    expected = base.probabilities(registry.load(project / "classifier"), records)
    rhythms = list(records.about.rhythms)
    np.testing.assert_allclose(table.loc[kept, rhythms].to_numpy(float), expected, atol=1e-5)
    assert table.loc[kept, "rhythm"].to_list() == [rhythms[index] for index in expected.argmax(1)]
    assert set(table["reason"]) == {""}
    assert f"{CLASSIFIER}/1" in found.stdout
    assert f"{expected[0].max():.2f}" in found.stdout
    assert "40 records: " in found.stdout


def test_classes_are_a_json_document(project: Path) -> None:
    first = "raw/ptbxl/records100/30000/30001_lr"
    found = ecgforge(project, "classify", first, "nowhere", "--json")
    assert found.returncode == 0, found.stderr
    tree = json.loads(found.stdout)
    assert tree["model"] == f"{CLASSIFIER}/1"
    good, bad = tree["records"]
    assert good["rhythm"] == max(good["probabilities"], key=good["probabilities"].get)
    assert sum(good["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert (bad["record"], bad["rhythm"], bad["probabilities"]) == ("nowhere", None, None)
    assert bad["reason"].startswith("missing file")
    found = ecgforge(project, "classify", "nowhere", "--json")
    assert found.returncode == 1
    assert "cannot classify the record" in json.loads(found.stdout)["error"]


def test_records_of_another_site_rate_and_format_are_classified(
    project: Path, tmp_path: Path
) -> None:
    settings = SimulatedSource(kind="simulated", layout="chapman", records=8, seed=2)
    simulated.write(tmp_path / "chapman", settings)
    headers = sorted((tmp_path / "chapman").rglob("*.hea"))
    named = [str(headers[0]), str(headers[1].with_suffix(""))]
    plot, out = tmp_path / "page.svg", tmp_path / "a.csv"
    found = ecgforge(
        project,
        "classify",
        *named,
        "--model",
        f"{CLASSIFIER}/1",
        "--plot",
        str(plot),
        "--out",
        str(out),
    )
    assert found.returncode == 0, found.stderr
    table = read_csv(out)
    assert table["record"].to_list() == [name.removesuffix(".hea") for name in named]
    shown = ElementTree.fromstring(plot.read_text())
    words = ["".join(text.itertext()) for text in shown.iter("{http://www.w3.org/2000/svg}text")]
    for record, rhythm in zip(table["record"], table["rhythm"], strict=True):
        assert f"{record}: {rhythm} by {CLASSIFIER}/1; not a diagnosis" in words
    assert {*STANDARD_LEADS, rhythm, f"{table[rhythm].iloc[-1]:.2f}"} <= set(words)


def test_a_bad_record_has_its_reason_and_the_others_are_classified(
    project: Path, tmp_path: Path
) -> None:
    header = next((project / "raw").rglob("*.hea"))
    for name in ("short", "good"):
        shutil.copy(header.with_suffix(".dat"), tmp_path / f"{name}.dat")
        (tmp_path / f"{name}.hea").write_text(header.read_text().replace(header.stem, name))
    (tmp_path / "short.hea").write_text(
        (tmp_path / "short.hea").read_text().replace(" 12 100 1000", " 12 500 1000")
    )
    found = ecgforge(
        project,
        "classify",
        str(tmp_path),
        str(tmp_path / "absent"),
        "--out",
        str(tmp_path / "a.csv"),
    )
    assert found.returncode == 0
    table = read_csv(tmp_path / "a.csv", keep_default_na=False).set_index("record")["reason"]
    assert table.to_list() == [
        "",
        "wrong length: 2 s, and 10 s are needed",
        "missing file: absent.hea",
    ]
    assert "3 records: 1 " in found.stdout
    assert "2 cannot be used" in found.stdout
    none = ecgforge(project, "classify", str(tmp_path / "absent"), "--out", str(tmp_path / "b.csv"))
    assert last_line(none).startswith("ecgforge: cannot classify the record; ")
    assert "missing file" in (tmp_path / "b.csv").read_text()


def test_odd_names_and_links_are_classified_and_shown(project: Path, tmp_path: Path) -> None:
    header = next((project / "raw").rglob("*.hea"))
    odd, elsewhere = tmp_path / "odd", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for ending in (".hea", ".dat"):
        shutil.copy(header.with_suffix(ending), elsewhere / f"{header.stem}{ending}")
    (odd / "[old] x").mkdir(parents=True)
    shutil.copy(header.with_suffix(".dat"), odd)
    for name in (
        b"a b",
        b"latin\xfc",
        b"esc\x1b[31m",
        b"two\nlines",
        b"r.mat",
        b"\xef\xbf\xbf",
        b"[bold]",
    ):
        (odd / os.fsdecode(name + b".hea")).symlink_to(elsewhere / header.name)
    (odd / "deep").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(odd)
    (odd / "[old] x/bad.hea").write_text("bad [/red] 1 100(\x1b[31m\n")
    found = ecgforge(
        project,
        "classify",
        str(odd),
        "--out",
        str(tmp_path / "a.csv"),
        "--plot",
        str(tmp_path / "a.svg"),
    )
    assert found.returncode == 0, found.stderr
    table = read_csv(tmp_path / "a.csv", keep_default_na=False).set_index("record")["reason"]
    shown = {record.removeprefix(f"{odd}/") for record in table.index}
    good = {
        "a b",
        r"latin\xfc",
        r"esc\x1b[31m",
        r"two\nlines",
        "r.mat",
        "\uffff",
        "[bold]",
        f"deep/{header.stem}",
    }
    assert shown == good | {"[old] x/bad"}
    assert table[table != ""].index.tolist() == [f"{odd}/[old] x/bad"]
    assert "[bold]" in found.stdout
    assert "\x1b" not in found.stdout
    ElementTree.fromstring((tmp_path / "a.svg").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("raw", "--model", "ecg-classifier-ptbxl@champion"),
            f"'ecg-classifier-ptbxl': there are {CLASSIFIER}, {STANDARDISED}, {GENERATOR}; choose "
            "a classifier with --model",
        ),
        (
            ("raw", "--model", f"{CLASSIFIER}@challenger"),
            "has no alias challenger: it has version 1, and the alias champion",
        ),
        (("raw", "--model", CHAMPION), f"{GENERATOR}/1 is not a classifier"),
        (("classifier",), "the folder classifier has no records"),
        (("raw", "--out", "raw"), "raw cannot be written: name a file that ends in .csv"),
        (
            ("raw", "--plot", "page.png"),
            "page.png cannot be written: name a file that ends in .svg",
        ),
    ],
)
def test_what_cannot_be_classified_is_one_line(
    project: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in last_line(ecgforge(project, "classify", *arguments))
    assert (project / "raw/ptbxl").exists()


# Generate


def test_synthetic_records_say_so_and_are_read_back(project: Path, tmp_path: Path) -> None:
    assert f"{tmp_path}/generated: 3 synthetic records of AFIB" in generate(
        project, tmp_path / "generated", "-n", "3", "--seed", "5"
    )
    assert len(list((tmp_path / "generated").glob("*.hea"))) == 3
    record = wfdb.rdrecord(str(tmp_path / "generated/synthetic_AFIB_00001"))
    assert (record.fs, record.sig_len, tuple(record.sig_name)) == (100, 1000, STANDARD_LEADS)
    assert set(record.units) == {"mV"}
    comments = "\n".join(record.comments)
    for comment in (
        "SYNTHETIC ECG",
        "not a recording of a patient",
        f"{GENERATOR}/1, trained on simulated patients",
        "requested rhythm: AFIB",
        "seed: 5",
    ):
        assert comment in comments
    one, two, three = record.p_signal.T[:3]
    np.testing.assert_allclose(three, two - one, atol=0.0016)
    read = wfdb_files.read(tmp_path / "generated", "synthetic_AFIB_00001")
    assert (read.units, read.sampling_rate) == ("mV", 100)
    np.testing.assert_allclose(
        read.signals, record.p_signal.T[[STANDARD_LEADS.index(lead) for lead in LEADS]]
    )


def test_records_are_generated_as_in_the_study(project: Path, tmp_path: Path) -> None:
    from champions import RHYTHMS
    from ecgforge.generators.common import registry as generators

    generate(project, tmp_path / "generated", "-n", "2", "--seed", "7")
    generator = generators.load(project / GENERATOR)
    rows = synthesis.plan(RHYTHMS, {"train": {"AFIB": 2}}, 7)
    sampling = type(generator).Sampling(**PARAMS.generator("diffwave").sampling)
    with torch.inference_mode():
        expected = generator.sample(
            torch.tensor(rows["label"]), torch.tensor(rows["seed"]), sampling
        ).numpy()
    found = [
        wfdb_files.read(tmp_path / "generated", f"synthetic_AFIB_{number:05d}").signals
        for number in range(2)
    ]
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=0.0006)


def test_the_same_seed_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        generate(project, tmp_path / name, "-n", "2", "--seed", seed)
    files = [
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "abc"
    ]
    assert files[0] == files[1]
    assert all(
        files[0][name] != files[2][name] for name in files[0] if name.endswith((".dat", ".hea"))
    )


def test_records_in_standard_deviations_do_not_claim_millivolts(
    project: Path, tmp_path: Path
) -> None:
    generate(project, tmp_path / "generated", model=f"{STANDARDISED}@champion")
    record = wfdb.rdrecord(str(tmp_path / "generated/synthetic_AFIB_00000"))
    assert (tuple(record.sig_name), set(record.units)) == (LEADS, {"per_lead_std"})
    assert "standard deviations, not in mV" in "\n".join(record.comments)
    assert wfdb_files.read(tmp_path / "generated", "synthetic_AFIB_00000").units == "per_lead_std"
    assert "wrong units: per_lead_std, not mV" in last_line(
        ecgforge(project, "classify", str(tmp_path / "generated"))
    )


def test_a_folder_source_reads_generated_records_and_marks_them_as_synthetic(
    project: Path, tmp_path: Path
) -> None:
    sources = {}
    for rhythm in ("AFIB", "SR"):
        generate(project, tmp_path / "generated" / rhythm, "--rhythm", rhythm, "-n", "3")
        name = f"own_{rhythm.lower()}"
        sources[name] = FolderSource(
            kind="folder",
            layout="folder",
            path=str(tmp_path / "generated" / rhythm),
            table="records.csv",
        )
        own.fetch(tmp_path / name, sources[name])
    active = PARAMS.active.model_copy(
        update={
            "sources": sources,
            "preparation": Preparation(min_records=1, max_damaged=0, amplitude="mV"),
        }
    )
    params = PARAMS.model_copy(update={"profiles": {PARAMS.profile: active}})
    with pytest.raises(
        EcgforgeError, match=r"own_afib: one rhythm alone \(AFIB: 1 train, 1 validation, 1 test\)"
    ):
        prepare_stage.prepare(params, [tmp_path / "own_afib"], tmp_path / "set")
    assert not (tmp_path / "set").exists()
    prepare_stage.prepare(params, [tmp_path / name for name in sources], tmp_path / "set")
    found = RecordSet.open(tmp_path / "set")
    assert found.counts() == {"SR": 3, "AFIB": 3}
    assert found.about.origin == "simulated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--model", CHAMPION, "--rhythm", "SVT", "--out", "new"),
            "was not trained on the rhythm 'SVT': use one of SR, AFIB, SB",
        ),
        (
            ("--model", f"{CLASSIFIER}@champion", "--rhythm", "SR", "--out", "new"),
            f"{CLASSIFIER}/1 is not a generator",
        ),
        (("--model", f"{GENERATOR}/9", "--rhythm", "SR", "--out", "new"), "has no version 9"),
        (
            ("--model", CHAMPION, "--rhythm", "SR", "--out", "new", "--rate", "70"),
            f"{GENERATOR}/1 takes no heart rate: leave it out",
        ),
        (
            ("--model", CHAMPION, "--rhythm", "SR", "--out", "raw"),
            "raw exists already: name a new folder",
        ),
    ],
)
def test_an_impossible_request_is_one_line(
    project: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in last_line(ecgforge(project, "generate", *arguments))
    assert not (project / "new").exists()
    assert (project / "raw/ptbxl").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_an_interrupted_generation_leaves_nothing(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    message: str,
) -> None:
    real = wfdb.wrsamp

    def third_fails(name: str, *arguments: object, **others: object) -> None:
        if name.endswith("2"):
            raise error
        real(name, *arguments, **others)

    (tmp_path / ".generated.partial").mkdir()  # what a killed process leaves
    (tmp_path / ".generated.partial/rest").write_text("")
    monkeypatch.setattr(wfdb, "wrsamp", third_fails)
    found = ecgforge(project, *GENERATE, "-n", "4", "--out", str(tmp_path / "generated"))
    assert message in last_line(found)
    assert list(tmp_path.iterdir()) == []


def test_signals_that_no_file_holds_are_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        synthesis.Sampler, "sample", lambda *_: np.full((1, 8, 1000), np.nan, np.float32)
    )
    found = ecgforge(project, *GENERATE, "--out", str(tmp_path / "generated"))
    assert "signals are not finite" in last_line(found)
    assert list(tmp_path.iterdir()) == []


# Files that are refused


COMMANDS = {
    CLASSIFIER: ("classify", "raw"),
    GENERATOR: ("generate", "--model", CHAMPION, "--rhythm", "SR", "--out", "new"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("damage", ["tampered", "pickle"])
def test_tampered_files_and_pickle_are_refused_and_not_executed(
    project: Path, name: str, damage: str
) -> None:
    file = stored(project, name) / "extra_files/weights.safetensors"
    before = file.read_bytes()
    file.write_bytes(
        pickle.dumps(Bomb()) if damage == "pickle" else before[:-1] + bytes([before[-1] ^ 1])
    )
    try:
        message = (
            "could execute"
            if damage == "pickle"
            else f"the files of {name}/1 are not those that were registered"
        )
        assert message in last_line(ecgforge(project, *COMMANDS[name]))
    finally:
        file.write_bytes(before)
    assert not (project / "new").exists()
    assert not list(project.rglob("exploded"))


def test_a_version_without_preprocessing_is_reported(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecgforge.registry.serving.PREPROCESSING", "other.json")
    assert "does not state the preprocessing of its records" in last_line(
        ecgforge(project, *COMMANDS[CLASSIFIER])
    )
    assert store.client().get_model_version(CLASSIFIER, "1")
