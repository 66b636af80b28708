"""Damaged, odd and hostile files and requests: every reader refuses them in one line, in bounded
time and memory.

ECGFORGE_FUZZ is the number of inputs over all readers, 500 unless it is given. A further reader is
a line in `READERS`: where the files are written, what reads them, and what may be raised.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tenacity import wait_none

from ecgforge.errors import EcgforgeError
from ecgforge.params import FolderSource, PhysionetSource, Preprocessing
from ecgforge.preparation.preprocessing import prepare_recording
from ecgforge.records.exclusions import BadRecord
from ecgforge.records.leads import STANDARD_LEADS
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.sources import chapman, folder, physionet, ptbxl
from ecgforge.sources.mirror import Mirror
from ecgforge.wfdb_io import files as wfdb_files

EXAMPLES = int(os.environ.get("ECGFORGE_FUZZ", "500"))
SECONDS = 5.0  # of processor time for one input
MEMORY = 300e6  # bytes for one input
PREPROCESSING = Preprocessing(sampling_rate=100, duration=10, band=(0.5, 40), max_amplitude=20)
TYPES = re.compile(
    r"\b(\w*Error|NoneType|TypeError|object has no|Traceback|<class|dtype\(|PosixPath)"
)

ODD = [
    *(
        b"",
        b"\0",
        b"\n",
        b",",
        b",,",
        b'"',
        b"'",
        b"\\",
        b"/",
        b"..",
        b"../",
        b"/etc/passwd",
        b"~",
        b"\xff",
        b"\xc3\xbc",
        b"\xb5V",
        b"\x1b[31m",
    ),
    *(
        b"0",
        b"-1",
        b"1",
        b"1.5",
        b"1e999",
        b"-1e999",
        b"nan",
        b"inf",
        b"9" * 20,
        b"9" * 5000,
        b"1" + b"0" * 400,
        b"0x10",
        b"1_0",
    ),
    *(
        b"[" * 5000,
        b"{" * 5000,
        b"-" * 5000,
        b"(" * 300,
        b"{[]: 1}",
        b"{}",
        b"[]",
        b"null",
        b"true",
        b"NaN",
        b"A" * 70_000,
        b"a b",
        b"\r",
        b"\t",
    ),
    *(
        b"16x2",
        b"16:3",
        b"16+9",
        b"212",
        b"8",
        b"24",
        b"61",
        b"160",
        b"508",
        b"516",
        b"1000(9)/mV",
        b"0(0)/mV",
        b"1e-320/mV",
        b"/uV",
        b"#",
        b"r/3",
    ),
]
CUTS = re.compile(rb"([\s,/():\[\]{}'\"]+)")


def mutated(content: bytes, random: random.Random) -> bytes:
    """Change some words, bytes or lines of a sound file."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        how = random.randrange(8)
        if how < 3:  # a word, or what stands between words
            parts = CUTS.split(content)
            parts[random.randrange(len(parts))] = random.choice(ODD)
            content = b"".join(parts)
        elif how == 3:
            lines = content.split(b"\n")
            lines.insert(random.randrange(len(lines)), random.choice([*lines, *ODD]))
            content = b"\n".join(lines)
        elif how == 4:
            content = content[: random.randrange(len(content) + 1)]
        elif how == 5:
            start = random.randrange(len(content) + 1)
            content = content[:start] + content[start + random.randrange(1, 20) :]
        else:
            place = random.randrange(len(content) + 1)
            content = (
                content[:place]
                + random.choice([*ODD, bytes([random.randrange(256)])])
                + content[place + how - 6 :]
            )
    return content


@dataclass(frozen=True)
class Reader:
    """What reads files of a folder, the files that are damaged for it, and what it may raise."""

    read: Callable[[Path], Any]
    sound: Callable[[], dict[str, bytes]]
    damaged: tuple[str, ...]
    raises: tuple[type[Exception], ...] = (EcgforgeError, BadRecord)


def contents(root: Path) -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file()
    }


def made(write: Callable[[Path], object]) -> Callable[[], dict[str, bytes]]:
    @cache
    def sound() -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as root:
            write(Path(root))
            return contents(Path(root))

    return sound


def an_ecg(samples: int = 1000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(0, 0.02, (samples, 12)), axis=0)


def a_record(root: Path) -> None:
    layout = {"fmt": ["16"] * 12, "adc_gain": [1000.0] * 12, "baseline": [0] * 12}
    wfdb.wrsamp(
        "r", 100, ["mV"] * 12, list(STANDARD_LEADS), an_ecg(), write_dir=str(root), **layout
    )


def read_record(root: Path) -> None:
    prepare_recording(wfdb_files.read(root, "r", PREPROCESSING.duration), PREPROCESSING, "mV")


def a_chapman(root: Path) -> None:
    (root / "WFDBRecords/01").mkdir(parents=True)
    (root / "RECORDS").write_text("WFDBRecords/01/\nJS00002\n")
    (root / "WFDBRecords/01/RECORDS").write_text("JS00001\n")
    for path in ("WFDBRecords/01/JS00001", "JS00002"):
        name = Path(path).name
        header = (
            f"{name} 1 500 10\n{name}.mat 16+24 1000/mV 16 0 0 0 0 I\n#Age: 85\n#Sex: Male\n#Dx: "
            "164889003,59118001\n"
        )
        (root / f"{path}.hea").write_text(header)
        (root / f"{path}.mat").write_bytes(bytes(44))


def a_ptbxl(root: Path) -> None:
    head = "ecg_id,patient_id,age,sex,height,scp_codes,strat_fold,filename_lr,filename_hr\n"
    row = (
        "{0},15709.0,56.0,1, ,\"{{'NORM': 100.0, 'SR': "
        '0.0}}",3,records100/0000{0}_lr,records500/0000{0}_hr\n'
    )
    (root / ptbxl.TABLE).write_text(head + row.format(1) + row.format(2))
    (root / "records100").mkdir()
    for number in (1, 2):
        (root / f"records100/0000{number}_lr.hea").write_text(
            f"0000{number}_lr 1 100 10\n0000{number}_lr.dat 16 1000/mV 16 0 0 0 0 I\n"
        )
        (root / f"records100/0000{number}_lr.dat").write_bytes(bytes(20))


def own_records(root: Path) -> None:
    a_record(root)
    (root / "mine.csv").write_text(
        "record,patient,rhythm,age,sex\nr,7,SR,50,f\nr.hea,7.0,AFIB,,\n./r,p1,164889003,x,male\n",
        encoding="utf-8-sig",
    )


def read_own(root: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        folder.fetch(
            Path(out) / "raw",
            FolderSource(kind="folder", layout="folder", path=str(root), table="mine.csv"),
        )
        assert not list(Path(out).glob("[!r]*"))
        folder.catalogue(Path(out) / "raw")


def a_mirror(root: Path) -> None:
    a_ptbxl(root)
    (root / "scp_statements.csv").write_text(",description\nSR,sinus rhythm\n")
    (root / "SHA256SUMS.txt").write_text(f"{'0' * 64} README\n{'1' * 64} *./LICENSE\n")


def read_mirror(layout: str) -> Callable[[Path], None]:
    def read(root: Path) -> None:
        settings = PhysionetSource(
            kind="physionet", layout=layout, mirror=str(root), limit_per_rhythm=None, connections=2
        )  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as out:
            physionet.fetch(Path(out) / "raw", settings, 100, Path(out) / "downloads")

    return read


def a_record_set(root: Path) -> None:
    columns = {
        "id": ["a", "b", "c"],
        "patient": ["a", "b", "c"],
        "split": ["train", "validation", "test"],
        "age": [1.0, np.nan, 3.0],
    }
    table = pd.DataFrame(columns | {"dataset": "own", "rhythm": "SR", "sex": "", "origin": "real"})
    made = {"preprocessing": PREPROCESSING.model_dump(mode="json")}
    with write_record_set(
        root / "set", About(100, 1000, "mV", ("SR", "AFIB"), "real", made)
    ) as writer:
        writer.append(np.ones((3, 8, 1000), np.float32), table)


def read_set(root: Path) -> None:
    found = RecordSet.open(root / "set")
    assert found.signals().shape == (len(found), 8, found.about.samples)
    found.counts()
    found.split("train").labels.tolist()


READERS = {
    "header": Reader(read_record, made(a_record), ("r.hea",)),
    "signals": Reader(read_record, made(a_record), ("r.dat",)),
    "header and signals": Reader(read_record, made(a_record), ("r.hea", "r.dat")),
    "RECORDS": Reader(
        chapman.catalogue, made(a_chapman), ("RECORDS", "WFDBRecords/01/RECORDS", "JS00002.hea")
    ),
    "ptbxl_database.csv": Reader(ptbxl.catalogue, made(a_ptbxl), (ptbxl.TABLE,)),
    "folder": Reader(read_own, made(own_records), ("mine.csv", "r.hea")),
    "mirror of ptbxl": Reader(
        read_mirror("ptbxl"),
        made(a_mirror),
        (ptbxl.TABLE, "SHA256SUMS.txt", "records100/00001_lr.hea"),
    ),
    "mirror of chapman": Reader(
        read_mirror("chapman"),
        made(a_chapman),
        ("RECORDS", "WFDBRecords/01/RECORDS", "JS00002.hea"),
    ),
    "about.json": Reader(read_set, made(a_record_set), ("set/about.json",)),
    "records.csv": Reader(read_set, made(a_record_set), ("set/records.csv",)),
    "signals.npy": Reader(read_set, made(a_record_set), ("set/signals.npy",)),
}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts to read a mirror."""
    monkeypatch.setattr(Mirror._attempt.retry, "wait", wait_none())  # type: ignore[attr-defined]


def refused(call: Callable[[], object], allowed: tuple[type[Exception], ...]) -> str:
    """Return how `call` is refused, empty where it is not; it may take neither long nor much
    memory.
    """
    tracemalloc.start()
    started = time.process_time()
    message = ""
    try:
        call()
    except allowed as error:
        message = str(error.args[-1] if isinstance(error, BadRecord) else error)
    finally:
        seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seconds < SECONDS
    assert peak < MEMORY
    assert not TYPES.search(message), message
    assert "\n" not in message, message
    assert len(message) < 1500
    return message


def fuzz(check: Callable[[Any], None], inputs: st.SearchStrategy[Any]) -> None:
    """Check this test's share of the inputs; with the usual number always the same ones."""
    share = max(1, EXAMPLES // (len(READERS) + 2))
    checks = list(HealthCheck)
    settings(
        max_examples=share,
        deadline=None,
        derandomize=EXAMPLES <= 500,
        suppress_health_check=checks,
        database=None,
    )(given(inputs)(check))()


def run(reader: Reader, random: random.Random) -> None:
    files = dict(reader.sound())
    for name in random.sample(reader.damaged, random.randint(1, len(reader.damaged))):
        files[name] = mutated(files[name], random)
    # By hand: pytest's folders would be one for all inputs, and what is left of one must not be
    # read with the next.
    root = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        refused(lambda: reader.read(root), reader.raises)
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    for file, content in reader.sound().items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content)
    assert refused(lambda: reader.read(tmp_path), ()) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_in_one_line(name: str) -> None:
    fuzz(lambda random: run(READERS[name], random), st.randoms(use_true_random=False))


# Requests and addresses, which are no files


def values(deep: int = 3) -> st.SearchStrategy[Any]:
    simple = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from([10**400, -(10**400), 1e308, "I" * 10_000]),
    )
    return st.recursive(
        simple,
        lambda some: (
            st.lists(some, max_size=5) | st.dictionaries(st.text(max_size=10), some, max_size=5)
        ),
        max_leaves=deep,
    )


@st.composite
def requests(draw: st.DrawFn) -> Any:
    rows = an_ecg().T.tolist()
    record: dict[str, Any] = {
        "signals": rows,
        "sampling_rate": 100.0,
        "leads": list(STANDARD_LEADS),
        "units": "mV",
    }
    for key in draw(
        st.lists(st.sampled_from([*record, "other", "row", "value"]), min_size=1, max_size=2)
    ):
        if key == "row":
            record["signals"] = [*rows[:5], draw(values()), *rows[6:]]
        elif key == "value":
            record["signals"] = [[draw(values()), *rows[0][1:]], *rows[1:]]
        elif key == "sampling_rate":
            record[key] = draw(st.one_of(values(), st.floats(80, 10_100)))
        else:
            record[key] = draw(values(10))
    return draw(st.sampled_from([[record], [record] * 3, record, [[record]], [record, None]]))


@pytest.fixture(scope="module")
def predictor() -> Any:
    import torch

    from ecgforge.registry.serving import Predictor

    class Classifier(torch.nn.Module):
        rhythms = ("SR", "AFIB")

        def forward(self, signals: torch.Tensor) -> torch.Tensor:
            return signals.mean(dim=(1, 2))[:, None] * torch.tensor([1.0, -1.0])

    return Predictor(Classifier(), PREPROCESSING, "mV")  # type: ignore[arg-type]


def test_odd_requests_are_refused_in_one_line(predictor: Any) -> None:
    from ecgforge.model_versions.invalid_request import InvalidRequestError

    def ask(request: Any) -> None:
        message = refused(
            lambda: json.dumps(predictor.predict(request), allow_nan=False), (InvalidRequestError,)
        )
        assert len(message) <= 400

    fuzz(ask, requests())


ADDRESS = st.text(alphabet="af:/\\[]@?#%.~ s3zipmerty\0\n0", max_size=20)


@pytest.mark.filterwarnings("ignore")
def test_odd_mirrors_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def open_mirror(url: str) -> None:
        refused(lambda: Mirror.at(url), (EcgforgeError,))

    # nothing is asked of a network
    fuzz(open_mirror, ADDRESS.filter(lambda url: not re.match("(?i)(https?|s3|gs|ftp|smb)", url)))
