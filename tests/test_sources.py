"""The sources of published and of one's own records, and the readers of their layouts."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
import yaml
from dvc.repo import Repo
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_none

from ecgforge.errors import EcgforgeError
from ecgforge.params import FolderSource, Params, PhysionetSource
from ecgforge.records.exclusions import BadRecord
from ecgforge.records.rhythms import RHYTHMS, rhythm_of
from ecgforge.sources import chapman, folder, physionet, ptbxl
from ecgforge.sources.layouts import LAYOUTS
from ecgforge.sources.mirror import Mirror
from ecgforge.sources.registry import acquire
from ecgforge.stages import matrix, parameters

ROOT = Path(__file__).parent.parent
PTBXL_HEADER = (
    # the columns that are read, and one that is not
    "ecg_id,patient_id,age,sex,height,scp_codes,strat_fold,filename_lr,filename_hr\n"
)
# ecg_id, patient_id, age, sex, codes, fold
PTBXL_ROWS = [
    (1, 15709.0, 56.0, 1, {"NORM": 100.0, "LVOLT": 0.0, "SR": 0.0}, 3),
    (2, 13243.0, 300.0, 0, {"NORM": 80.0, "SBRAD": 0.0}, 2),
    (3, 13243.0, "", 0, {"SR": 0.0}, 2),
    (4, 17.0, 44.0, 0, {"SR": 0.0}, 9),
    (5, 18.0, 70.0, 1, {"AFIB": 100.0, "PACE": 0.0}, 10),
    (6, 19.0, 71.0, 1, {"PSVT": 0.0, "SVTAC": 0.0}, 10),
    (137, 20.0, 72.0, 1, {"SR": 0.0}, 1),
]
CHAPMAN = {
    "WFDBRecords/01/010/JS00001": ("85", "Male", "164889003,59118001"),
    "WFDBRecords/01/010/JS00002": ("NaN", "Female", "426177001,,999"),
    "WFDBRecords/01/019/JS00003": ("59", "Unknown", ""),
    "WFDBRecords/01/019/JS00004": ("60", "Male", "426177001,427393009"),
}


def write_record(root: Path, path: str, suffix: str = "dat", comments: str = "") -> None:
    """Write a header and a signal file whose bytes are the record's own."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_name(f"{file.name}.hea").write_text(
        f"{file.name} 1 100 10\n{file.name}.{suffix} 16 1000/mV 16 0 0 0 0 I\n{comments}"
    )
    file.with_name(f"{file.name}.{suffix}").write_bytes(hashlib.sha256(path.encode()).digest() * 4)


def write_ptbxl(root: Path, rows: list[tuple] = PTBXL_ROWS) -> Path:
    lines = []
    for number, patient, age, sex, codes, fold in rows:
        low, high = f"records100/00000/{number:05d}_lr", f"records500/00000/{number:05d}_hr"
        lines.append(f'{number},{patient},{age},{sex}, ,"{codes}",{fold},{low},{high}\n')
        write_record(root, low)
        write_record(root, high)
    (root / "ptbxl_database.csv").write_text(PTBXL_HEADER + "".join(lines))
    (root / "scp_statements.csv").write_text(",description\nSR,sinus rhythm\n")
    return root


def write_chapman(root: Path, nested: bool) -> Path:
    """Write the data set with RECORDS as PhysioNet has them, a list in each folder, or as one list
    of all records.
    """
    for path, (age, sex, codes) in CHAPMAN.items():
        write_record(root, path, "mat", f"#Age: {age}\n#Sex: {sex}\n#Dx: {codes}\n#Rx: Unknown\n")
    if nested:
        (root / "RECORDS").write_text("WFDBRecords/01/010/\nWFDBRecords/01/019/\n")
        (root / "WFDBRecords/01/010/RECORDS").write_text("JS00001\nJS00002\n")
        (root / "WFDBRecords/01/019/RECORDS").write_text("JS00003\nJS00004\n")
    else:
        (root / "RECORDS").write_text("\n".join(CHAPMAN) + "\n")
    (root / "ConditionNames_SNOMED-CT.csv").write_text(
        "AcronymName,FullName,Snomed_CT\nSR,Sinus Rhythm,426783006\n"
    )
    return root


def write_sums(root: Path) -> None:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.relative_to(root).as_posix()}\n"
        for file in files
    ]
    (root / "SHA256SUMS.txt").write_text("".join(lines))


def source(
    mirror: object, layout: str = "ptbxl", limit: int | None = None, connections: int = 4
) -> PhysionetSource:
    tree = {
        "kind": "physionet",
        "layout": layout,
        "mirror": str(mirror),
        "limit_per_rhythm": limit,
        "connections": connections,
    }
    return PhysionetSource.model_validate(tree)


def contents(root: Path) -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fetch to a folder of the test's own, without pauses between attempts."""
    monkeypatch.setattr(Mirror._attempt.retry, "wait", wait_none())

    def run(settings: PhysionetSource, sampling_rate: int = 100) -> Path:
        out = tmp_path / "raw"
        physionet.fetch(out, settings, sampling_rate, tmp_path / "downloads")
        return out

    return run


# The code maps


def test_codes_map_to_the_vocabulary_and_contradict_nothing() -> None:
    for layout in LAYOUTS.values():
        assert set(layout.RHYTHM_CODES.values()) == set(RHYTHMS)
        assert layout.OTHER_RHYTHMS.isdisjoint(layout.RHYTHM_CODES)
        assert all(isinstance(code, str) for code in [*layout.RHYTHM_CODES, *layout.OTHER_RHYTHMS])


def test_codes_are_those_of_the_published_tables() -> None:
    assert {
        code: ptbxl.RHYTHM_CODES[code] for code in ("SBRAD", "STACH", "SARRH", "SVTAC", "PSVT")
    } == {
        "SBRAD": "SB",
        "STACH": "ST",
        "SARRH": "SA",
        "SVTAC": "SVT",
        "PSVT": "SVT",
    }
    assert {"PACE", "SVARR", "BIGU", "TRIGU"} == ptbxl.OTHER_RHYTHMS
    assert "NORM" not in ptbxl.RHYTHM_CODES
    # The table of Chapman calls flutter AF; a reader that takes AF for fibrillation swaps the two.
    assert chapman.RHYTHM_CODES["164890007"] == "AFLT"
    assert chapman.RHYTHM_CODES["164889003"] == "AFIB"
    assert chapman.RHYTHM_CODES["427393009"] == "SA"
    assert {"713422000", "195101003"} <= chapman.OTHER_RHYTHMS
    assert "AF" not in folder.RHYTHM_CODES


# The readers


def test_ptbxl_catalogue(tmp_path: Path) -> None:
    table = ptbxl.catalogue(write_ptbxl(tmp_path)).set_index("id")
    assert list(table.index) == ["00001", "00002", "00003", "00004", "00005", "00006", "00137"]
    assert table.loc["00001", "codes"] == ["NORM", "LVOLT", "SR"]
    assert table["patient"].tolist()[:3] == ["15709", "13243", "13243"]
    assert table["sex"].tolist()[:2] == ["female", "male"]
    assert table.loc["00002", "age"] == 90
    assert table["age"].isna().tolist() == [False, False, True, False, False, False, False]
    assert table["fold"].tolist() == [3, 2, 2, 9, 10, 10, 1]
    assert table.loc["00001", "path"] == "records100/00000/00001_lr"
    assert table.index[table["withdrawn"]].tolist() == ["00137"]


def test_ptbxl_catalogue_points_to_the_500_hz_records_where_only_those_are(tmp_path: Path) -> None:
    root = write_ptbxl(tmp_path)
    (root / "records100").rename(tmp_path / "elsewhere")
    assert ptbxl.catalogue(root)["path"][0] == "records500/00000/00001_hr"


def test_ptbxl_catalogue_keeps_rows_without_files(tmp_path: Path) -> None:
    root = write_ptbxl(tmp_path)
    (root / "records100/00000/00001_lr.hea").unlink()
    assert len(ptbxl.catalogue(root)) == len(PTBXL_ROWS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist"),
        ("ecg_id,age\n1,50\n", "lacks the columns patient_id, sex, scp_codes"),
        (PTBXL_HEADER + "1,,56,1,,{},3,a,b\n", "data row 1 has no patient_id"),
        *(
            (PTBXL_HEADER + f'1,7,56,1,,"{codes}",3,a,b\n', "scp_codes of ecg_id 1")
            for codes in ("NORM", "{[]: 1}", "-" * 5000, "{" * 5000)
        ),
        *(
            (PTBXL_HEADER + f'1,7,56,1,,"{codes}",3,a,b\n', "scp_codes")
            for codes in ("{'SR'}", "{'SR': 1 'AFIB': 2}", "{1: 2}", "{'SR': 1")
        ),
        (PTBXL_HEADER + "1,7,old,1,,{},3,a,b\n", "data row 1, age: 'old' is not a number"),
        (
            PTBXL_HEADER + "1,7,1e3147483648,1,,{},3,a,b\n",
            "data row 1, age: '1e3147483648' is not a number",
        ),
        (
            PTBXL_HEADER + "1_5,7,50,1,,{},3,a,b\n",
            "data row 1, ecg_id: '1_5' is not a whole number",
        ),
        (
            PTBXL_HEADER + "1.5,7,50,1,,{},3,a,b\n",
            "data row 1, ecg_id: '1.5' is not a whole number",
        ),
        (PTBXL_HEADER + f"{'9' * 5000},7,50,1,,{{}},3,a,b\n", "is not a whole number"),
        (PTBXL_HEADER + "1,7,50,1,,{},inf,a,b\n", "strat_fold"),
        (
            PTBXL_HEADER + "1,7,50,1,,{},3,a,b,\n",
            "line 2: 9 columns in the header, 10 cells in row 1",
        ),
        (PTBXL_HEADER + "x,7,50,1,,{},3,a,b\n", "ecg_id"),
        ("\0\xff", "lacks the columns"),
        ("", "cannot be read as CSV"),
    ],
)
def test_ptbxl_catalogue_that_cannot_be_read(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "ptbxl_database.csv").write_text(text)
    with pytest.raises(EcgforgeError, match=says) as caught:
        ptbxl.catalogue(tmp_path)
    assert "ptbxl_database.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nested", [True, False])
def test_chapman_catalogue(tmp_path: Path, nested: bool) -> None:
    root = write_chapman(tmp_path, nested)
    (root / "WFDBRecords/01/019/JS00004.hea").unlink()
    table = chapman.catalogue(root)
    assert table["path"].tolist() == list(CHAPMAN)
    assert (
        table["id"].tolist()
        == table["patient"].tolist()
        == ["JS00001", "JS00002", "JS00003", "JS00004"]
    )
    assert table["codes"].tolist() == [["164889003", "59118001"], ["426177001", "999"], [], []]
    assert table["age"].tolist()[0] == 85
    assert table["age"].isna().tolist() == [False, True, False, True]
    assert table["sex"].tolist() == ["male", "female", "", ""]
    assert table["fold"].isna().all()
    assert not table["withdrawn"].any()


def test_chapman_lists_that_are_missing_or_lead_outside_are_refused(tmp_path: Path) -> None:
    root = write_chapman(tmp_path, nested=True)
    (root / "WFDBRecords/01/019/RECORDS").unlink()
    with pytest.raises(EcgforgeError, match="01/019/RECORDS is missing"):
        chapman.catalogue(root)
    (root / "RECORDS").write_text("../../etc/\n")
    with pytest.raises(EcgforgeError, match="outside the data set"):
        chapman.catalogue(root)
    for odd in ("a\0b", "./"):
        (root / "RECORDS").write_text(odd)
        with pytest.raises(EcgforgeError, match="not a valid name of a record"):
            chapman.catalogue(root)


def test_chapman_list_in_latin_1(tmp_path: Path) -> None:
    (tmp_path / "RECORDS").write_bytes(b"M\xfcller\n")
    assert chapman.catalogue(tmp_path)["id"].tolist() == ["M\u00fcller"]


# The published data sets, over HTTP


class Site:
    """A web server of a folder that counts requests and can be set to break."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SiteHandler, self))
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class SiteHandler(SimpleHTTPRequestHandler):
    def __init__(self, site: Site, *args: object) -> None:
        self.site = site
        super().__init__(*args, directory=str(site.root))  # type: ignore[arg-type]

    def do_GET(self) -> None:
        with self.site.lock:
            self.site.requests[self.path.lstrip("/")] += 1
        if self.path.lstrip("/") not in self.site.broken:
            return super().do_GET()
        content = (self.site.root / self.path.lstrip("/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = tmp_path / "site"
    root.mkdir()
    site = Site(root)
    yield site
    site.close()


def test_a_complete_data_set_over_http(site: Site, fetch) -> None:
    published = contents(write_ptbxl(site.root))
    out = fetch(source(site.url))
    got = contents(out)
    about = json.loads(got.pop("acquired.json"))
    assert got == {
        name: content for name, content in published.items() if not name.startswith("records500")
    }
    assert (
        about["chosen"]
        == about["published"]
        == {"records": 7, "SB": 1, "SR": 4, "SVT": 1, "none or contradictory": 1}
    )
    assert about["absent"] == []
    assert not any(name.startswith("records500") for name in site.requests)


def test_form_of_the_records_follows_the_sampling_rate(site: Site, fetch) -> None:
    write_ptbxl(site.root)
    out = fetch(source(site.url), sampling_rate=250)
    assert not (out / "records100").exists()
    assert all((out / f"{path}.dat").is_file() for path in ptbxl.catalogue(out)["path"])


def test_nested_lists_over_http(site: Site, fetch) -> None:
    published = contents(write_chapman(site.root, nested=True))
    got = contents(fetch(source(site.url, "chapman")))
    del got["acquired.json"]
    assert got == published


@pytest.mark.parametrize("nested", [True, False])
def test_limit_is_chosen_from_metadata_and_written_to_them(site: Site, fetch, nested: bool) -> None:
    write_chapman(site.root, nested)
    out = fetch(source(site.url, "chapman", limit=1))
    # JS00003 has no rhythm and JS00004 two.
    assert chapman.catalogue(out)["id"].tolist() == ["JS00001", "JS00002"]
    assert {name for name in site.requests if name.endswith(".mat")} == {
        f"{path}.mat" for path in list(CHAPMAN)[:2]
    }
    assert {file.stem for file in out.rglob("*.hea")} == {"JS00001", "JS00002"}
    about = json.loads((out / "acquired.json").read_text())
    assert about["published"] == {"records": 4, "AFIB": 1, "SB": 1, "none or contradictory": 2}
    assert about["chosen"] == {"records": 2, "AFIB": 1, "SB": 1}


def test_larger_limit_adds_to_a_smaller_one_and_leaves_the_cells_as_published(
    site: Site, fetch
) -> None:
    rows = [
        (number, 100 + number, 50.0, 0, {"NORM": 80.0, rhythm: 0.0}, 1)
        for number, rhythm in enumerate(["SR"] * 12 + ["AFIB"] * 5, start=1)
    ]
    lines = set(
        write_ptbxl(site.root, rows).joinpath("ptbxl_database.csv").read_text().splitlines()
    )
    chosen = []
    for limit in (2, 6):
        out = fetch(source(site.url, limit=limit))
        assert set((out / "ptbxl_database.csv").read_text().splitlines()) < lines
        chosen.append(set(ptbxl.catalogue(out)["id"]))
        assert {file.name[:5] for file in out.rglob("*.dat")} == chosen[-1]
    assert chosen[0] < chosen[1]
    assert [len(ids) for ids in chosen] == [4, 11]
    assert (
        len(fetch(source(site.url)).joinpath("ptbxl_database.csv").read_text().splitlines()) == 18
    )


def test_withdrawn_records_are_not_chosen(site: Site, fetch) -> None:
    write_ptbxl(site.root)
    out = fetch(source(site.url, limit=10))
    assert set(ptbxl.catalogue(out)["id"]) == {"00001", "00002", "00003", "00004", "00006"}


@pytest.mark.parametrize("layout", [ptbxl, chapman])
def test_choice_labels_records_as_preparation_does(layout) -> None:
    # Sources and records may not import each other, so the rule stands in both.
    some = [*list(layout.RHYTHM_CODES)[:8], *sorted(layout.OTHER_RHYTHMS)[:2], "NORM"]
    for codes in (
        list(codes) for length in range(4) for codes in itertools.combinations(some, length)
    ):
        try:
            expected = rhythm_of(codes, layout.RHYTHM_CODES, layout.OTHER_RHYTHMS)
        except BadRecord:
            expected = None
        assert physionet._rhythm(codes, layout) == expected


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(9)))
def test_choice_does_not_depend_on_the_order_of_the_catalogue(order: list[int]) -> None:
    table = pd.DataFrame({"id": [f"{number:05d}" for number in range(9)], "withdrawn": False})
    rhythms = pd.Series(["SR"] * 5 + ["SB"] * 3 + [None], dtype=object)
    expected = set(physionet.choose(table, rhythms, 2)["id"])
    shuffled = physionet.choose(
        table.iloc[order].reset_index(drop=True), rhythms.iloc[order].reset_index(drop=True), 2
    )
    assert set(shuffled["id"]) == expected
    assert len(expected) == 4


def test_run_after_a_cut_fetches_only_what_is_missing(site: Site, fetch, tmp_path: Path) -> None:
    write_ptbxl(site.root)
    site.broken = {"records100/00000/00006_lr.dat"}
    with pytest.raises(EcgforgeError, match="cannot be reached or read"):
        fetch(source(site.url, connections=1))
    assert not (tmp_path / "raw").exists()
    landed = {
        name
        for name in (f"records100/00000/{row[0]:05d}_lr.dat" for row in PTBXL_ROWS)
        if any((tmp_path / "downloads").glob(f"*/{name}"))
    }
    assert "records100/00000/00005_lr.dat" in landed
    assert "records100/00000/00006_lr.dat" not in landed
    assert site.requests["records100/00000/00006_lr.dat"] == 4

    site.broken = set()
    site.requests.clear()
    out = fetch(source(site.url, connections=1))
    assert (out / "records100/00000/00006_lr.dat").read_bytes() == (
        site.root / "records100/00000/00006_lr.dat"
    ).read_bytes()
    assert landed.isdisjoint(site.requests)
    assert "ptbxl_database.csv" not in site.requests


def test_passing_failure_is_tried_again(site: Site, fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ptbxl(site.root)
    busy, serve = Counter({"/records100/00000/00001_lr.dat": 2}), SiteHandler.do_GET

    def do_get(self: SiteHandler) -> None:
        busy[self.path] -= 1
        return self.send_error(503) if busy[self.path] >= 0 else serve(self)

    monkeypatch.setattr(SiteHandler, "do_GET", do_get)
    assert (fetch(source(site.url)) / "records100/00000/00001_lr.dat").is_file()


def test_checksums_are_verified_and_name_the_file(site: Site, fetch, tmp_path: Path) -> None:
    write_ptbxl(site.root)
    write_sums(site.root)
    bad = site.root / "records100/00000/00002_lr.dat"
    good = bad.read_bytes()
    bad.write_bytes(good[:-1] + b"!")
    with pytest.raises(EcgforgeError, match=r"00002_lr\.dat .*SHA-256"):
        fetch(source(site.url))
    assert not (tmp_path / "raw").exists()
    assert not list((tmp_path / "downloads").rglob("*00002_lr.dat*"))
    bad.write_bytes(good)
    assert (fetch(source(site.url)) / "records100/00000/00002_lr.dat").read_bytes() == good


def test_landed_file_that_no_longer_has_its_sum_is_fetched_again(
    site: Site, fetch, tmp_path: Path
) -> None:
    write_ptbxl(site.root)
    write_sums(site.root)
    fetch(source(site.url))
    landed = next((tmp_path / "downloads").rglob("00003_lr.dat"))
    landed.write_bytes(b"damaged")
    assert (fetch(source(site.url)) / "records100/00000/00003_lr.dat").read_bytes() != b"damaged"


def test_records_that_the_mirror_lacks_are_listed(site: Site, fetch) -> None:
    write_ptbxl(site.root)
    (site.root / "records100/00000/00003_lr.dat").unlink()
    out = fetch(source(site.url))
    assert json.loads((out / "acquired.json").read_text())["absent"] == [
        "records100/00000/00003_lr"
    ]
    assert len(ptbxl.catalogue(out)) == len(PTBXL_ROWS)


def test_mirror_without_any_record_is_refused(tmp_path: Path, fetch) -> None:
    root = write_ptbxl(tmp_path / "mirror")
    (root / "records500").rename(tmp_path / "elsewhere")
    with pytest.raises(EcgforgeError, match="none of the 7 records wanted for 500 Hz"):
        fetch(source(root), sampling_rate=500)
    assert not (tmp_path / "raw").exists()


@pytest.mark.slow
def test_unreachable_mirror_is_named_with_the_alternatives(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/ptb-xl/1.0.3"
    start = time.monotonic()
    with pytest.raises(EcgforgeError) as caught:
        physionet.fetch(tmp_path / "raw", source(url), 100, tmp_path / "downloads")
    assert time.monotonic() - start < 8
    message = str(caught.value)
    assert all(
        words in message
        for words in (url, "`mirror`", "https://", "s3://", "folder", "profile: demo")
    )
    assert "\n" not in message
    assert not (tmp_path / "raw").exists()


ODD = [
    "http://[::1",
    "http://",
    "s3://",
    "zip://::",
    "::",
    "://",
    "",
    " ",
    "~nobody-here/x",
    "http://a b/c",
    "file://",
    "\0",
]


@pytest.mark.parametrize("mirror", ["nowhere", "nosuch://bucket/ptb-xl"])
def test_an_invalid_mirror_is_named_with_the_alternatives(
    tmp_path: Path, fetch, mirror: str
) -> None:
    mirror = str(tmp_path / mirror) if "://" not in mirror else mirror
    with pytest.raises(EcgforgeError, match="profile: demo") as caught:
        fetch(source(mirror))
    assert mirror in str(caught.value)


@pytest.mark.parametrize("mirror", ODD)
def test_odd_mirrors_are_one_line(
    fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EcgforgeError) as caught:
        fetch(source(mirror))
    assert "\n" not in str(caught.value)
    assert "Error" not in str(caught.value)


def test_a_mirror_may_be_in_the_users_home(
    tmp_path: Path, fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ptbxl(tmp_path / "home/mirror")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert len(list(fetch(source("~/mirror")).rglob("*.dat"))) == len(PTBXL_ROWS)


def valid_record(root: Path, path: str) -> None:
    """A record whose header has the right checksum."""
    write_record(root, path)
    header = root / f"{path}.hea"
    total = (
        int(np.frombuffer((root / f"{path}.dat").read_bytes(), "<i2")[:10].sum(dtype=np.int64))
        % 65536
    )
    header.write_text(header.read_text().replace("16 0 0 0 0 I", f"16 0 0 {total} 0 I"))


def linked(root: Path, cache: Path, *names: str) -> None:
    """Put files of `root` elsewhere, with links in their places, as DVC and git-annex do."""
    for name in names:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(cache / name)
        (root / name).symlink_to(cache / name)


@pytest.mark.parametrize("sums", [True, False])
def test_a_mirror_of_links_is_followed_to_records_alone(tmp_path: Path, fetch, sums: bool) -> None:
    root, secret = write_ptbxl(tmp_path / "mirror"), "records100/00000/00003_lr.dat"
    for number in range(1, 7):
        valid_record(root, f"records100/00000/{number:05d}_lr")
    (root / "LICENSE.txt").write_text("free")
    (root / "SIMULATED.txt").write_text("not real")
    plain = contents(fetch(source(root)))
    names = [
        *(
            name
            for name in plain
            if not name.endswith((".txt", ".json", "00137_lr.dat", "00137_lr.hea"))
        ),
        "ptbxl_database.csv",
    ]
    if sums:
        write_sums(root)
    linked(root, tmp_path / "cache", *dict.fromkeys(names), "LICENSE.txt", "SIMULATED.txt")
    (tmp_path / "cache" / secret).write_bytes(b"a private file" * 10)
    if sums:
        with pytest.raises(EcgforgeError, match="does not have the SHA-256"):
            fetch(source(root))
        return
    got = contents(fetch(source(root)))
    assert b"a private file" not in b"".join(got.values())
    assert json.loads(got.pop("acquired.json"))["absent"] == ["records100/00000/00003_lr"]
    assert b"No patient was recorded" in got.pop("SIMULATED.txt")
    left = {
        "acquired.json",
        "SIMULATED.txt",
        "LICENSE.txt",
        "scp_statements.csv",
        secret,
        secret.replace(".dat", ".hea"),
    }
    assert got == {name: content for name, content in plain.items() if name not in left}
    assert not (tmp_path / "downloads").exists() or not list(
        (tmp_path / "downloads").rglob("*.dat")
    )


@pytest.mark.parametrize("mirror", ["nowhere"])
def test_mirror_that_is_no_folder_is_named(tmp_path: Path, fetch, mirror: str) -> None:
    mirror = str(tmp_path / mirror)
    with pytest.raises(EcgforgeError, match="profile: demo") as caught:
        fetch(source(mirror))
    assert mirror in str(caught.value)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_table_that_names_files_outside_is_refused(tmp_path: Path, fetch, name: str) -> None:
    root = write_ptbxl(tmp_path / "mirror")
    text = (root / "ptbxl_database.csv").read_text().replace("records100/00000/00003_lr", name)
    (root / "ptbxl_database.csv").write_text(text)
    # a file there already must not be taken for one that landed
    for place in (tmp_path, tmp_path / "downloads"):
        write_record(place, "secret_lr")
    with pytest.raises(EcgforgeError, match="outside the data set"):
        fetch(source(root))
    assert not (tmp_path / "raw").exists()


def test_folder_as_mirror_is_copied_and_read_again(tmp_path: Path, fetch) -> None:
    root = write_ptbxl(tmp_path / "mirror")
    (root / "SIMULATED.txt").write_text("not a real patient\n")
    out = fetch(source(root))
    assert (out / "SIMULATED.txt").is_file()
    assert (out / "records100/00000/00001_lr.dat").stat().st_nlink == 1
    (root / "records100/00000/00001_lr.dat").write_bytes(b"changed")
    assert (out / "records100/00000/00001_lr.dat").read_bytes() != b"changed"
    assert (fetch(source(root)) / "records100/00000/00001_lr.dat").read_bytes() == b"changed"


def test_any_fsspec_address_is_a_mirror(tmp_path: Path, fetch) -> None:
    root = write_ptbxl(tmp_path / "mirror")
    memory = fsspec.filesystem("memory")
    memory.put(f"{root}/", "/test-sources/ptb-xl", recursive=True)
    try:
        out = fetch(source("memory://test-sources/ptb-xl"))
    finally:
        memory.rm("/test-sources", recursive=True)
    assert len(list(out.rglob("*.dat"))) == len(PTBXL_ROWS)


# One's own records


def own(path: Path, table: str = "mine.csv") -> FolderSource:
    return FolderSource(kind="folder", layout="folder", path=str(path), table=table)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    for path in ("ward/a", "ward/b", "c"):
        write_record(root, path)
    (root / "mine.csv").write_text(
        "record,patient,rhythm,age,sex\nward/a,p1,sr,61,M\nward/b.hea,p1,SBRAD,n/a,Female\nc,p2,164889003,,\ngone,p3,,40,x\n",
        encoding="utf-8-sig",
    )
    write_record(root, "unlisted")
    return root


def test_own_records_are_copied_and_read_back(tmp_path: Path, mine: Path) -> None:
    out = tmp_path / "raw"
    acquire(own(mine), out, 100)
    assert {file.name for file in out.rglob("*") if file.is_file()} == {
        *("records.csv", "a.hea", "a.dat", "b.hea", "b.dat", "c.hea", "c.dat", "FILES.txt")
    }
    table = folder.catalogue(out)
    assert table["id"].tolist() == table["path"].tolist() == ["ward/a", "ward/b", "c", "gone"]
    assert table["patient"].tolist() == ["p1", "p1", "p2", "p3"]
    assert [[folder.RHYTHM_CODES[code] for code in codes] for codes in table["codes"]] == [
        ["SR"],
        ["SB"],
        ["AFIB"],
        [],
    ]
    assert table["age"].fillna(-1).tolist() == [61, -1, -1, 40]
    assert table["sex"].tolist() == ["male", "female", "", ""]


def test_ages_that_are_no_numbers_are_unknown(mine: Path) -> None:
    ages = ["1e3147483648", "inf", "6_1", " 61 "]  # pandas.to_numeric crashes on the first
    rows = [f"ward/a,p{number},SR,{age}" for number, age in enumerate(ages)]
    (mine / "records.csv").write_text("\n".join(["record,patient,rhythm,age", *rows]))
    assert folder.catalogue(mine)["age"].fillna(-1).tolist() == [-1, -1, -1, 61]


def test_unknown_values_of_own_records_are_reported(
    tmp_path: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.fetch(tmp_path / "raw", own(mine))
    output = " ".join(capsys.readouterr().err.split())
    assert (
        "1 cells of the column age have unknown values ('n/a'), the first in data row 2: use years"
        in output
    )
    assert (
        "1 cells of the column sex have unknown values ('x'), the first in data row 4: use male"
        in output
    )
    assert "column rhythm" not in output
    (mine / "mine.csv").write_text(
        "record,patient,rhythm,sex\nc,7,Vorhofflimmern,0\nward/a,8,vorhofflimmern,f\nward/b,9,164889003,\n"
    )
    folder.fetch(tmp_path / "raw", own(mine))
    output = " ".join(capsys.readouterr().err.split())
    assert (
        "2 cells of the column rhythm have unknown values ('VORHOFFLIMMERN'), the first in data "
        "row 1: use SR, SB, ST, SA, AFIB, AFLT, SVT, and SCP" in output
    )
    assert "1 cells of the column sex have unknown values ('0')" in output


def test_own_records_without_age_and_sex(tmp_path: Path, mine: Path) -> None:
    (mine / "mine.csv").write_text("record,patient,rhythm\nc,7,AFLT\n")
    folder.fetch(tmp_path / "raw", own(mine))
    table = folder.catalogue(tmp_path / "raw")
    assert table["age"].isna().all()
    assert table["sex"].tolist() == [""]
    assert table["patient"].tolist() == ["7"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "mine.csv does not exist"),
        ("record,rhythm\nc,SR\n", "lacks the columns patient; it has record, rhythm"),
        ("record,patient,rhythm\nc, ,SR\n", "data row 1 has no patient"),
        ("record,patient,rhythm\n../outside,p,SR\n", "row 1, column record: .*outside the folder"),
        ("record,patient,rhythm\n/etc/passwd,p,SR\n", "outside the folder"),
        ("record,patient,rhythm\nward/../../outside,p,SR\n", "outside the folder"),
        ("record,patient,rhythm\nC:\\ecg\\a,p,SR\n", "outside the folder"),
        ("record,patient,rhythm\n,p,SR\n", "data row 1 has no record"),
        ('record,patient,rhythm\n"a\nb",p,SR\n', "outside the folder"),
        ("record,patient,rhythm\nc,7,SR,\n", "line 2: 3 columns in the header, 4 cells in row 1"),
        (
            "record,patient,rhythm,age\nc,7,SR,50\nward/a,7,AFIB, old,50\n",
            "line 3: 4 columns in the header, 5 cells in row 2",
        ),
        ("record,patient,rhythm\nc,7\n", "line 2: 3 columns in the header, 2 cells in row 1"),
        (
            'record,patient,rhythm\nc,7,"SR\nward/a,8,SR\n',
            "line 3: unexpected end of data; look at its quotation marks",
        ),
        ("record,patient,rhythm,rhythm\nc,7,SR,SR\n", "two columns 'rhythm'"),
        (b"record,patient,rhythm\nc,M\xfcller,SR\n", "not UTF-8 text"),
        (
            "record;patient;rhythm;age\nc;7;SR;61,5\n",
            "it has record;patient;rhythm;age: separate cells by commas$",
        ),
        ("record\tpatient\trhythm\nc\t7\tSR\n", ": separate cells by commas$"),
        ("Record,Patient,Rhythm\nc,7,SR\n", ": write them as record, patient, rhythm$"),
        ("record, patient ,rhythm\nc,7,SR\n", ": write them as record, patient, rhythm$"),
        (
            "Record; Patient;Rhythm\nc;7;SR\n",
            ": separate cells by commas, and write them as record, patient, rhythm$",
        ),
        ("id,name\nc,7\n", "it has id, name$"),
        (f"record,patient,rhythm\n{'a' * 300},7,SR\n", "an invalid file name"),
    ],
)
def test_own_records_that_cannot_be_taken(
    tmp_path: Path, mine: Path, text: str | bytes | None, says: str
) -> None:
    write_record(tmp_path, "outside")
    (mine / "mine.csv").unlink() if text is None else (mine / "mine.csv").write_bytes(
        text.encode() if isinstance(text, str) else text
    )
    with pytest.raises(EcgforgeError, match=says):
        folder.fetch(tmp_path / "raw", own(mine))
    assert not (tmp_path / "raw").exists()


def test_a_header_that_names_what_no_file_can_be_called_stops_nothing(
    tmp_path: Path, mine: Path
) -> None:
    (mine / "c.hea").write_text(f"c 1 100 10\n{'[' * 5000}.dat 16 1000/mV 16 0 0 0 0 I\n")
    folder.fetch(tmp_path / "raw", own(mine))
    assert (tmp_path / "raw/ward/a.dat").is_file()


@pytest.mark.parametrize(
    "name", ["records.csv", "RECORDS.csv", "SYNTHETIC.txt", "SIMULATED.txt", "FILES.txt"]
)
@pytest.mark.parametrize("there", [True, False])
def test_no_record_replaces_the_table_or_marks_the_folder(
    tmp_path: Path, mine: Path, name: str, there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "c.hea").write_text(f"c 1 100 10\n{name} 16 1000/mV 16 0 0 0 0 I\n")
    if there:
        (mine / name).write_text("record,patient,rhythm\nother,p9,SR\n")
    acquire(own(mine), tmp_path / "raw", 100)
    marked = {name} if there and name in folder.MARKS else set()
    assert (
        set(contents(tmp_path / "raw"))
        == {"records.csv", "ward/a.hea", "ward/a.dat", "ward/b.hea", "ward/b.dat", "FILES.txt"}
        | marked
    )
    assert folder.catalogue(tmp_path / "raw")["path"].tolist() == ["ward/a", "ward/b", "c", "gone"]
    assert f"the first, c: {name}; rename the file" in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_records_named_as_the_table_is_left_out(tmp_path: Path, mine: Path) -> None:
    write_record(mine, "records.csv/d")
    (mine / "mine.csv").write_text("record,patient,rhythm\nrecords.csv/d,1,SR\nward/a,2,SR\n")
    folder.fetch(tmp_path / "raw", own(mine))
    assert set(contents(tmp_path / "raw")) == {"records.csv", "ward/a.hea", "ward/a.dat"}


def test_header_that_points_outside_is_not_followed(tmp_path: Path, mine: Path) -> None:
    write_record(tmp_path, "secret")
    (mine / "c.hea").write_text("c 1 100 10\n../secret.dat 16 1000/mV 16 0 0 0 0 I\n")
    folder.fetch(tmp_path / "raw", own(mine))
    assert (tmp_path / "raw/c.hea").is_file()
    assert not list(tmp_path.joinpath("raw").rglob("secret*"))


def test_links_of_own_records_are_followed_to_records_alone(
    tmp_path: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ward/a", "ward/b", "c"):
        valid_record(mine, name)
    folder.fetch(tmp_path / "plain", own(mine))
    secret = tmp_path / "secret"
    secret.write_bytes(b"root:x:0:0:root:/root:/bin/bash\n" * 4)
    linked(mine, tmp_path / "cache", "ward/a.hea", "ward/a.dat", "ward/b.dat")
    (mine / "link").symlink_to(tmp_path / "cache/ward")
    folder.fetch(tmp_path / "raw", own(mine))
    assert contents(tmp_path / "raw") == contents(tmp_path / "plain")
    (tmp_path / "cache/ward/b.dat").write_bytes(secret.read_bytes())
    (mine / "c.hea").unlink()
    (mine / "c.hea").symlink_to(secret)
    (mine / "SIMULATED.txt").symlink_to(secret)
    folder.fetch(tmp_path / "raw", own(mine))
    got = contents(tmp_path / "raw")
    assert set(got) == {"records.csv", "ward/a.hea", "ward/a.dat", "SIMULATED.txt"}
    assert b"root:x" not in b"".join(got.values())
    assert (
        "2 records, whose files are links out of the folder, are left out"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("form", ["absolute", "resolved", "home", "backslashes", "dots", "header"])
def test_paths_in_the_csv_may_be_written_in_other_ways(
    tmp_path: Path, mine: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(mine)
    forms = {
        "absolute": f"{mine}/ward/a",
        "resolved": f"{tmp_path}/link/ward/a.hea",
        "home": "~/mine/ward/a",
        "backslashes": "ward\\a",
        "dots": "./ward/../ward/a",
        "header": "ward/a.hea",
    }
    (mine / "mine.csv").write_text(f"record,patient,rhythm\n{forms[form]},7,SR\n")
    folder.fetch(tmp_path / "raw", own(Path("~/mine") if form == "home" else mine))
    assert set(contents(tmp_path / "raw")) == {"records.csv", "ward/a.hea", "ward/a.dat"}
    assert folder.catalogue(tmp_path / "raw")["path"].tolist() == ["ward/a"]
    assert contents(mine)["ward/a.dat"] == contents(tmp_path / "raw")["ward/a.dat"]


ALIKE = [
    ("1", "1.0"),
    ("007", "7"),
    ("p1", "P1"),
    ("p01", "p1"),
    ("1", "1."),
    ("A 1", "a  1"),
    ("\uff11", "1"),
    ("1e2", "100"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_patients_that_differ_in_form_alone_are_one(
    tmp_path: Path, mine: Path, one: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "mine.csv").write_text(
        f"record,patient,rhythm\nc,{one},SR\nward/a,{other},SR\nward/b,p10,SR\n"
    )
    folder.fetch(tmp_path / "raw", own(mine))
    assert folder.catalogue(tmp_path / "raw")["patient"].tolist() == [" ".join([one]), one, "p10"]
    assert f"count as the same: '{one}' and '{other}'" in capsys.readouterr().err


EQUAL = [
    ("12345678901234567", "1.2345678901234567e16"),
    ("0.5", ".5"),
    (".5", "0.50"),
    ("0", "-0"),
    ("5e-1", "0.5"),
    ("1E3", "1000.00"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_patients_of_equal_numbers_are_one(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "records.csv").write_text(f"record,patient,rhythm\na,{one},SR\nb,{other},SR\n")
    assert folder.catalogue(tmp_path)["patient"].tolist() == [one, one]


@pytest.mark.parametrize(
    "unseen", ["\u200b", "\u00ad", "\ufeff", "\u2060", "\u200d", "\0", "\x1b", "\ufe0f", "\u3164"]
)
def test_what_is_not_seen_makes_no_other_patient(tmp_path: Path, unseen: str) -> None:
    text = f"record,patient,rhythm\na,p{unseen}1,SR\nb,p1{unseen},SR\nc,{unseen}p1,SR\nd,p1,SR\n"
    (tmp_path / "records.csv").write_text(text, encoding="utf-8")
    assert folder.catalogue(tmp_path)["patient"].tolist() == ["p1"] * 4
    (tmp_path / "records.csv").write_text(
        f"record,patient,rhythm\na,{unseen},SR\n", encoding="utf-8"
    )
    with pytest.raises(EcgforgeError, match="data row 1 has no patient"):
        folder.catalogue(tmp_path)


def test_patients_that_differ_stay_apart(
    tmp_path: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        "1",
        "10",
        "1.5",
        "p1",
        "p10",
        "-1",
        "100",
        "1-0",
        "1/0",
        "a1b2",
        "a12b",
        "e1",
        "p 1",
        "p-1",
        "p_1",
        "1_000",
        "1000",
        "1e-400",
        "1e999999999",
        "9" * 40,
        "9" * 39 + "8",
    ]
    (mine / "mine.csv").write_text(
        "record,patient,rhythm\n"
        + "".join(f"r{name.replace('/', '-')},{name},SR\n" for name in names)
    )
    folder.fetch(tmp_path / "raw", own(mine))
    assert folder.catalogue(tmp_path / "raw")["patient"].tolist() == names
    assert "count as the same" not in capsys.readouterr().err


# What may be written over


def test_acquire_replaces_what_it_wrote_and_nothing_else(tmp_path: Path, mine: Path) -> None:
    out = tmp_path / "raw"
    acquire(own(mine), out, 100)
    (mine / "c.dat").write_bytes(b"changed" * 20)
    acquire(own(mine), out, 100)
    assert (out / "c.dat").read_bytes() == b"changed" * 20
    (out / "notes.txt").write_text("the only copy")
    before = contents(out)
    with pytest.raises(EcgforgeError, match=r"did not write notes.txt in it: name another folder"):
        acquire(own(mine), out, 100)
    assert contents(out) == before


@pytest.mark.parametrize("name", ["other", "mine", "mine/new", ".", "mine/.."])
def test_acquire_writes_over_no_folder_of_others(
    tmp_path: Path, mine: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other/deep").mkdir(parents=True)
    (tmp_path / "other/deep/mine.txt").write_text("the only copy")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(EcgforgeError, match=r"name another folder|name a (new )?folder"):
        acquire(own(mine), Path(name), 100)
    assert contents(tmp_path) == before


def reproduced(project: Path) -> bool:
    """Whether `dvc repro acquire@mine` comes to an end, with this environment's ecgforge."""
    from dvc.exceptions import ReproductionError

    try:
        with chdir(project), Repo() as repo:
            repo.reproduce("acquire@mine")
    except ReproductionError:
        return False
    return True


@pytest.mark.slow
def test_dvc_repro_removes_no_file_of_the_users(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "src/ecgforge").mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", project)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text()) | {
        "sources": ["mine"],
        "datasets": ["mine"],
        "folds": {},
        "merged": [],
    }
    tree["sweep_targets"] = {key: [] for key in tree["sweep_targets"]}
    tree["profiles"]["demo"]["sources"] = {
        "mine": own(mine).model_dump() | {"path": "data/raw/mine"}
    }
    (project / "params.yaml").write_text(yaml.safe_dump(tree))
    matrix.write(Params.read(project / "params.yaml"), project / "matrix.yaml")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    Repo.init(str(project)).close()
    shutil.copytree(mine, project / "data/raw/mine")
    before = contents(project / "data/raw/mine")
    assert not reproduced(project)
    assert contents(project / "data/raw/mine") == before
    shutil.rmtree(project / "data/raw/mine")
    tree["profiles"]["demo"]["sources"]["mine"]["path"] = str(mine)
    (project / "params.yaml").write_text(yaml.safe_dump(tree))
    for change in (b"first" * 30, b"second" * 30):
        (mine / "c.dat").write_bytes(change)
        # what an earlier run left is written over
        acquire(own(mine), project / "data/raw/mine", 100)
    assert reproduced(project)
    assert (project / "data/raw/mine/c.dat").read_bytes() == b"second" * 30


@pytest.mark.parametrize(
    "path",
    [
        "data/raw/mine",
        "data/raw/mine/deep",
        "data/raw",
        ".",
        "{}/data/raw/mine",
        "link",
        "~/data/raw/mine",
        "data/prepared/mine",
        "models/x",
    ],
)
@pytest.mark.parametrize("kind", ["path", "mirror"])
def test_a_source_that_is_read_where_the_study_writes_is_refused(
    tmp_path: Path, path: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data/raw/mine/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data/raw")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    named = path.format(tmp_path)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["profiles"]["demo"]["sources"]["mine"] = (
        own(Path(named)) if kind == "path" else source(named)
    ).model_dump()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(
        EcgforgeError,
        match=rf"profiles.demo.sources.mine.{kind} = .*keep your own records outside data/",
    ):
        parameters.read(Path("params.yaml"))


def test_a_source_next_to_what_the_study_writes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    near, far = source("data/mirror"), source("s3://bucket/data/raw/far")
    named = {"mine": own(Path("records")), "near": near, "far": far}
    tree["profiles"]["demo"]["sources"] |= {
        name: settings.model_dump() for name, settings in named.items()
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    assert parameters.read(Path("params.yaml")).source("mine")


def test_folder_of_records_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(EcgforgeError, match="nowhere does not exist"):
        folder.fetch(tmp_path / "raw", own(tmp_path / "nowhere"))
    (tmp_path / "table.csv").touch()
    with pytest.raises(EcgforgeError, match=r"table.csv is a file: correct `path`"):
        folder.fetch(tmp_path / "raw", own(tmp_path / "table.csv"))


def test_sources_are_distinguished_by_their_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_chapman(tmp_path / "mirror", nested=False)
    acquire(source("mirror", "chapman"), tmp_path / "raw", 100)
    assert len(LAYOUTS["chapman"].catalogue(tmp_path / "raw")) == len(CHAPMAN)
