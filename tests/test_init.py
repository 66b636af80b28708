"""A folder of own records is surveyed, and the parameters of a study of it are written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import wfdb
import yaml

from ecgforge.commands import init as stage
from ecgforge.commands.survey import survey
from ecgforge.errors import EcgforgeError
from ecgforge.params import FolderSource, Params
from ecgforge.records.leads import STANDARD_LEADS
from ecgforge.sources import folder, found
from ecgforge.sources.own_table import codes, parts
from ecgforge.stages import parameters, taken_over

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / "params.yaml"


def record(
    home: Path,
    name: str,
    seed: int = 0,
    rate: int = 100,
    seconds: float = 10,
    leads: Sequence[str] = STANDARD_LEADS,
    comments: Sequence[str] = (),
) -> None:
    """Write a record of noise."""
    home.mkdir(parents=True, exist_ok=True)
    count = len(leads)
    signals = np.random.default_rng([seed, rate]).standard_normal((round(rate * seconds), count))
    wfdb.wrsamp(
        name,
        rate,
        ["mV"] * count,
        list(leads),
        signals,
        fmt=["16"] * count,
        adc_gain=[1000] * count,
        baseline=[0] * count,
        comments=list(comments),
        write_dir=str(home),
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Records of two rhythms, as a spreadsheet program and a hospital name them."""
    rows = []
    for number in range(18):
        record(tmp_path / "ecgs", f"r{number}", number)
        label = "Normal Sinus Rhythm" if number < 12 else "Sinus bradycardia."
        rows.append(f"r{number}.dat;P{number};{label};61,5;m\r\n")
    (tmp_path / "ecgs/Liste.csv").write_bytes(
        ("\ufeffDatei;MRN;Diagnosis;Age;Gender\r\n" + "".join(rows)).encode()
    )
    return tmp_path / "ecgs"


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.plan, "estimate", lambda _: SimpleNamespace(parallel=120.0))


def init(home: Path, out: Path | None = None, **options: object) -> Path:
    file = out or home.parent / "mine.yaml"
    stage.init(home, options.get("name", "mine"), options.get("table"), file, PARAMS)  # type: ignore[arg-type]
    return file


def surveyed(home: Path) -> pd.DataFrame:
    table = survey(home, None, Params.read(PARAMS).preprocessing).table
    return table.set_index("record")


def add(home: Path, line: str) -> None:
    with (home / "Liste.csv").open("a", newline="") as table:
        table.write(f"{line}\r\n")


def test_rhythms_with_too_few_records_are_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(home)
    assert "left out" not in capsys.readouterr().out
    for number, label in enumerate(["AFIB", "AFIB", "SVT"], 18):
        record(home, f"r{number}", number)
        add(home, f"r{number}.dat;P{number};{label};61,5;m")
    init(home, home.parent / "other.yaml")
    assert "left out, too few records: 2 AFIB, 1 SVT\n" in capsys.readouterr().out


def test_a_folder_becomes_a_study_without_an_edit(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = init(home)
    output = capsys.readouterr().out
    assert "18 patients" in output
    assert "SR: 12 records, from 'Normal Sinus Rhythm'" in output
    assert "records of the study: 12 SR, 6 SB" in output
    assert (
        f"in about 2.0 min if nothing else runs on this machine: ecgforge repro --params {file}"
        in output
    )
    params = parameters.read(file)
    assert params.record_sets == ["mine", *(f"mine_{number}of5" for number in range(1, 6))]
    assert params.active.preparation.min_records == 5
    folder.fetch(tmp_path / "raw", params.source("mine"))  # type: ignore[arg-type]
    table = folder.catalogue(tmp_path / "raw")
    assert table["codes"].map(tuple).value_counts().to_dict() == {("SR",): 12, ("SB",): 6}
    assert table["id"].tolist() == [f"r{number}" for number in range(18)]
    assert table["age"].unique().tolist() == [61.5]
    assert (table["patient"] == [f"P{number}" for number in range(18)]).all()
    assert folder.counts(params.source("mine")) == {"SR": 12, "SB": 6}  # type: ignore[arg-type]


def test_labels_of_headers_are_read(tmp_path: Path) -> None:
    for number in range(16):
        dx = "426783006,39732003" if number < 10 else "426177001"
        comments = [f"Patient: {number % 14}", "Age: 50", "Sex: Male", f"Dx: {dx}"]
        record(tmp_path / "ecgs/deep", f"b{number}", number, comments=comments)
    file = init(tmp_path / "ecgs")
    assert len(file.read_text().splitlines()) == 10
    params = parameters.read(file)
    assert (params.datasets, params.merged, params.sweep_targets.sweeps) == (["mine"], [], [])
    source = params.source("mine")
    assert isinstance(source, FolderSource)
    assert (source.table, source.map) == (None, {})
    folder.fetch(tmp_path / "raw", source)
    table = folder.catalogue(tmp_path / "raw")
    assert table["patient"].nunique() == 14
    assert table["codes"].iloc[0] == ["426783006", "39732003"]
    assert set(table["sex"]) == {"male"}


def test_no_existing_file_is_changed(home: Path) -> None:
    file = home.parent / "mine.yaml"
    file.write_text("mine: 1\n")
    with pytest.raises(EcgforgeError, match="exists already: name a new file with --out"):
        init(home)
    assert file.read_text() == "mine: 1\n"


def test_af_is_asked_and_not_guessed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        record(home, f"af{number}", 100 + number)
        add(home, f"af{number};Q{number};AF;60;f")
    file = init(home)
    assert "unknown label 'AF': 6 records; AFIB or AFLT?" in capsys.readouterr().out
    tree = yaml.safe_load(file.read_text())["profiles"]["mine"]["sources"]["mine"]
    assert tree["map"]["AF"] is None
    file.write_text(file.read_text().replace('"AF": null', '"AF": AFLT'))
    source = parameters.read(file).source("mine")
    assert folder.counts(source)["AFLT"] == 6  # type: ignore[arg-type]


def test_what_a_study_cannot_use_is_counted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(home, "short", 50, seconds=5)
    record(home, "few", 51, leads=("I", "II", "V1"))
    record(home, "fast", 52, rate=500, seconds=31)
    record(home, "unlisted", 53)
    for ending in ("hea", "dat"):
        text = (home / f"r0.{ending}").read_bytes()
        (home / f"copy.{ending}").write_bytes(text.replace(b"r0", b"copy"))
    for name in ("short", "few", "fast", "gone", "copy"):
        add(home, f"{name};P0;SR;;")
    add(home, "r1;P1;SB;;")
    file = init(home)
    output = capsys.readouterr().out
    assert "ignored, the record of an earlier row: 1 row\n" in output
    assert "\nSB: 6 records, from" in output, "without the row that is ignored"
    assert "ignored, not in the table: 1 record of the folder" in output
    assert "18 patients; 1 of them with several records: P0 (r0, short, few, fast, gone" in output
    assert "sampling rates: 100 Hz (21), 500 Hz (1)" in output
    assert "leads: 3 leads (1), 12 leads (21)" in output
    assert "cut to the first 10 s: 1 record" in output
    reasons = surveyed(home)["reason"]
    assert reasons[reasons != ""].to_dict() == {
        "short": "wrong length",
        "few": "missing lead",
        "gone": "missing file",
        "copy": "same recording",
    }
    # one of 23 records is damaged, and the study runs
    assert parameters.read(file).active.preparation.max_damaged == pytest.approx(0.05)


def test_records_in_subfolders_are_found_by_their_names(home: Path, tmp_path: Path) -> None:
    for number in range(18):
        (home / f"ward{number % 3}").mkdir(exist_ok=True)
        for ending in ("hea", "dat"):
            name = f"r{number}.{ending}"
            (home / name).rename(home / f"ward{number % 3}" / name)
    folder.fetch(tmp_path / "raw", parameters.read(init(home)).source("mine"))  # type: ignore[arg-type]
    assert folder.catalogue(tmp_path / "raw")["id"].tolist() == [
        f"ward{number % 3}/r{number}" for number in range(18)
    ]


def test_a_folder_without_patients_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "ecgs"
    for number in range(17):
        record(home, f"e{number}", number)
    labels = ["SR" if number < 12 else "SB" for number in range(17)]
    rows = "".join(f"e{number},{label}\n" for number, label in enumerate(labels))
    (home / "x.csv").write_text(f"name,label\n{rows}")
    source = parameters.read(init(home)).source("mine")
    assert "no column names the patients" in capsys.readouterr().out
    folder.fetch(tmp_path / "raw", source)  # type: ignore[arg-type]
    table = folder.catalogue(tmp_path / "raw")
    assert table["patient"].tolist() == table["id"].tolist()


def test_too_few_records_are_named_and_the_file_is_kept(home: Path) -> None:
    (home / "Liste.csv").write_text("record,patient,rhythm\nr0,1,SR\nr1,2,Foo\n")
    with pytest.raises(EcgforgeError, match="two rhythms with 5 records of 3 patients each, and"):
        init(home)
    assert '"Foo": null' in (home.parent / "mine.yaml").read_text()


def _empty(home: Path) -> None:
    for file in home.iterdir():
        file.unlink()


def _table(text: str | bytes) -> Callable[[Path], None]:
    content = text if isinstance(text, bytes) else text.encode()
    return lambda home: (home / "Liste.csv").write_bytes(content) and None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_empty, "has no records: it has no .hea, .edf or .dcm files$"),
        (lambda home: (home / "Liste.csv").unlink(), "has no CSV, and no header in .* names a"),
        (_table("record,patient,rhythm\nr0,M\xfcller,SR\n".encode("latin-1")), "not UTF-8 text"),
        (_table("record,patient,rhythm\nr0,1,SR,\n"), "line 2: 3 columns in the header, 4 cells"),
        (_table(f"record,{'a' * 200_000}\n1,2\n"), "cannot be read as CSV: line 1: field larger"),
        (_table("a,b\n1,2\n"), "no column with records of the folder, such as r0: its columns are"),
        (_table("record,patient\nr0,1\n"), "no column with rhythms: its columns are record, pat"),
        (_table("record,patient,rhythm\nr0,,SR\n"), "data row 1 has no patient"),
        (_table("record,patient,rhythm\nr0,1,SR\n../x,1,SR\n"), "data row 2, column record: "),
        (_table("record,patient,rhythm\n"), "Liste.csv has no rows: write one for each record"),
        (
            lambda home: (home / "b.csv").write_text("record,patient,rhythm\nr0,1,SR\n") and None,
            "several tables of .*: Liste.csv, b.csv; choose one with --table",
        ),
    ],
)
def test_bad_input_is_one_line(home: Path, change: Callable[[Path], None], says: str) -> None:
    change(home)
    with pytest.raises(EcgforgeError, match=says) as error:
        init(home)
    assert "\n" not in str(error.value)
    assert not (home.parent / "mine.yaml").exists()


def test_a_folder_that_the_study_would_replace_is_refused_before_it_is_read(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "survey", None)
    with pytest.raises(EcgforgeError, match="is in the folder of records .*: name a file elsewh"):
        init(home, home / "mine.yaml")
    monkeypatch.chdir(home)
    with pytest.raises(EcgforgeError, match="overlaps data/raw/mine, which the study replaces"):
        init(home, home.parent / "mine.yaml")


@pytest.mark.parametrize("name", ["Mine", "1st", "a-b", ""])
def test_a_name_that_no_dataset_can_have_is_refused(home: Path, name: str) -> None:
    with pytest.raises(EcgforgeError, match="cannot be a name"):
        init(home, name=name)


def test_several_labels_of_a_record_are_split() -> None:
    cells = pd.Series(["AFIB; PVC", "NSR, PVC", "{'NORM': 80.0, 'SR': 0.0}", "AF", "", "x, y"])
    found_codes = codes(cells, {"nsr": "SR", "AF": None, "x, Y": "SB"})
    assert found_codes.tolist() == ["AFIB;PVC", "SR;PVC", "NORM;SR", "", "", "SB"]
    assert parts("atrial fibrillation/flutter", {"atrial fibrillation/flutter"}) == [
        "atrial fibrillation/flutter"
    ]
    listed = found.labels(["SR, IRBBB", "Sinus rhythm", "IRBBB", "af"])
    assert [(one.text, one.records, one.code) for one in listed] == [
        ("SR", 1, "SR"),
        ("Sinus rhythm", 1, "SR"),
        ("IRBBB", 1, ""),
        ("af", 1, ""),
    ]


# The parameters of a study become those of params.yaml.


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Path:
    """A project in git, and the parameters of a study next to its params.yaml."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "params.yaml").write_text(PARAMS.read_text())
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *command], cwd=project, check=True)
    stage.init(home, "mine", None, project / "mine.yaml", project / "params.yaml")
    return project


def test_parameters_are_taken_over_and_other_lines_stay(project: Path) -> None:
    mine, params = project / "mine.yaml", project / "params.yaml"
    before = params.read_text().splitlines()
    wanted = parameters.resolved(parameters.read(mine))
    assert taken_over.take_over(mine, params)
    assert parameters.resolved(parameters.read(params)) == wanted
    after = params.read_text().splitlines()
    start = next(number for number, line in enumerate(before) if line[:8] == "preproce")
    assert after[after.index(before[start]) : after.index("  mine:")] == before[start:]
    assert before[:5] == after[:5]
    assert not taken_over.take_over(mine, params)  # they are there
    mine.write_text(mine.read_text() + "    preparation: {min_records: 6}\n")
    with pytest.raises(EcgforgeError, match="changes that are not committed"):
        taken_over.take_over(mine, params)
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=project, check=True)
    assert taken_over.take_over(mine, params)
    assert parameters.read(params).active.preparation.min_records == 6


def test_changes_of_the_user_are_not_lost(project: Path) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("datasets: [ptbxl,", "datasets: [chapman, ptbxl,"))
    params.write_text(params.read_text().replace("ptbxl, chapman, merged]", "ptbxl, merged]"))
    text = params.read_text()
    with pytest.raises(EcgforgeError, match="changes that are not committed"):
        taken_over.take_over(project / "mine.yaml", params)
    assert params.read_text() == text


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("base: other.yaml", "other.yaml does not exist: correct `base` in"),
        ("base: mine.yaml", "name a parameter file without a base"),
        ("base: 1", "base = 1: name a parameter file, such as params.yaml"),
    ],
)
def test_a_wrong_base_is_one_line(project: Path, base: str, says: str) -> None:
    mine = project / "mine.yaml"
    mine.write_text(mine.read_text().replace("base: params.yaml", base))
    with pytest.raises(EcgforgeError, match=says):
        taken_over.take_over(mine, project / "params.yaml")
