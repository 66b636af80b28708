import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgforge.errors import EcgforgeError
from ecgforge.records import rows as rows_on_disk
from ecgforge.records.leads import LEADS, STANDARD_LEADS, twelve_leads
from ecgforge.records.record_set import About, RecordSet, write_record_set

SAMPLES = 100
ABOUT = About(
    sampling_rate=100,
    samples=SAMPLES,
    units="mV",
    rhythms=("SR", "AFIB", "ST"),
    origin="simulated",
    made={"seed": 1},
)


def a_table(count: int, first: int = 0) -> pd.DataFrame:
    index = np.arange(first, first + count)
    return pd.DataFrame(
        {
            "id": [f"{i:05d}" for i in index],
            "patient": [f"{i // 2:04d}" for i in index],
            "dataset": "ptbxl",
            "rhythm": np.array(["SR", "AFIB"])[index % 2],
            "split": np.array(["train", "train", "train", "validation", "test"])[index % 5],
            "age": np.where(index % 3 == 0, np.nan, 40.0 + index),
            "sex": np.array(["male", "female", ""])[index % 3],
            "origin": "simulated",
        }
    )


def the_signals(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, len(LEADS), SAMPLES)).astype(np.float32)


@pytest.fixture
def record_set(tmp_path):
    with write_record_set(tmp_path / "set", ABOUT) as writer:
        for start in (0, 7, 14):
            writer.append(the_signals(20)[start : start + 7], a_table(20).iloc[start : start + 7])
    return RecordSet.open(tmp_path / "set")


def test_a_set_comes_back_as_it_was_written(record_set):
    assert len(record_set) == 20
    assert record_set.about == ABOUT
    np.testing.assert_array_equal(record_set.signals(), the_signals(20))
    pd.testing.assert_frame_equal(record_set.records, a_table(20))
    assert record_set.signals().dtype == np.float32
    assert json.loads((record_set.folder / "about.json").read_text())["leads"] == list(LEADS)


def test_signals_open_as_a_plain_numpy_file(record_set):
    np.testing.assert_array_equal(np.load(record_set.folder / "signals.npy"), the_signals(20))


def test_the_same_records_are_the_same_bytes_in_chunks_of_any_size(record_set, tmp_path):
    with write_record_set(tmp_path / "once", ABOUT) as writer:
        writer.append(the_signals(20), a_table(20))
    for name in ("signals.npy", "records.csv", "about.json"):
        assert (tmp_path / "once" / name).read_bytes() == (record_set.folder / name).read_bytes()


def test_selections_keep_table_and_signals_together(record_set):
    test = record_set.split("test")
    assert test.records["id"].tolist() == ["00004", "00009", "00014", "00019"]
    np.testing.assert_array_equal(test.signals(), the_signals(20)[[4, 9, 14, 19]])
    nested = test.select(test.labels == 1).select(np.array([1]))
    assert nested.records["id"].tolist() == ["00019"]
    np.testing.assert_array_equal(nested.signals(), the_signals(20)[[19]])
    np.testing.assert_array_equal(test.signals(slice(1, 3)), the_signals(20)[[9, 14]])
    with pytest.raises(ValueError, match="not one of train"):
        record_set.split("fit")


def test_labels_and_counts_follow_the_class_order(record_set):
    assert record_set.labels.tolist() == [0, 1] * 10
    assert record_set.counts() == {"SR": 10, "AFIB": 10, "ST": 0}
    assert list(record_set.counts()) == ["SR", "AFIB", "ST"]


def test_text_that_looks_missing_stays_text(tmp_path):
    table = a_table(2).assign(id=["NA", "007"], patient=["null", "1e3"])
    with write_record_set(tmp_path / "set", ABOUT) as writer:
        writer.append(the_signals(2), table)
    assert RecordSet.open(tmp_path / "set").records[["id", "patient"]].to_numpy().tolist() == [
        ["NA", "null"],
        ["007", "1e3"],
    ]


def test_signals_stay_on_disk(tmp_path):
    with write_record_set(tmp_path / "set", ABOUT) as writer:
        for _ in range(50):
            writer.append(the_signals(100), a_table(100))
    tracemalloc.start()
    part = RecordSet.open(tmp_path / "set").signals(np.arange(10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert part.shape == (10, len(LEADS), SAMPLES)
    assert peak < 5000 * len(LEADS) * SAMPLES * 4 / 3  # the signals are 16 MB


def test_a_failed_write_leaves_the_older_set(record_set):
    with pytest.raises(RuntimeError), write_record_set(record_set.folder, ABOUT) as writer:  # noqa: PT012
        writer.append(the_signals(3), a_table(3))
        raise RuntimeError
    assert len(RecordSet.open(record_set.folder)) == 20


def test_a_writer_refuses_what_no_set_may_hold(tmp_path):
    with write_record_set(tmp_path / "set", ABOUT) as writer:
        with pytest.raises(ValueError, match="3 rows"):
            writer.append(the_signals(2), a_table(3))
        with pytest.raises(ValueError, match="finite"):
            writer.append(np.full((1, len(LEADS), SAMPLES), np.nan), a_table(1))
    assert len(RecordSet.open(tmp_path / "set")) == 0


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("signals.npy", lambda path: path.unlink(), "signals.npy is missing"),
        ("about.json", lambda path: path.unlink(), "about.json is missing"),
        ("signals.npy", lambda path: path.write_bytes(path.read_bytes()[:-5]), "damaged"),
        ("about.json", lambda path: path.write_text("{"), "damaged"),
        ("about.json", lambda path: path.write_text("{}"), "damaged"),
        ("records.csv", lambda path: path.write_text("id,patient\n1,1\n"), "damaged"),
        (
            "records.csv",
            lambda path: path.write_text("\n".join(path.read_text().splitlines()[:-1])),
            "shape",
        ),
        ("records.csv", lambda path: path.write_text(path.read_text().replace("AFIB", "VT")), "VT"),
        (
            "records.csv",
            lambda path: path.write_text(path.read_text().replace("test", "exam")),
            "split 'exam'",
        ),
        (
            "records.csv",
            lambda path: path.write_text(path.read_text().replace(",male,", ",male,,")),
            "records.csv has invalid content",
        ),
        (
            "records.csv",
            lambda path: path.write_text(re.sub("train,(4|5)", "train,old", path.read_text())),
            "records.csv has invalid content",
        ),
        (
            "records.csv",
            lambda path: path.write_bytes(b"\xff\xfe\x00"),
            "records.csv has invalid content",
        ),
        ("about.json", lambda path: change(path, rhythms=[{}]), "rhythms.0"),
        ("about.json", lambda path: change(path, rhythms="SR"), "rhythms"),
        ("about.json", lambda path: change(path, sampling_rate="100"), "sampling_rate"),
        ("about.json", lambda path: change(path, samples=100.5), "samples"),
        ("about.json", lambda path: change(path, samples=True), "samples"),
        ("about.json", lambda path: change(path, made=[]), "made"),
        ("about.json", lambda path: change(path, made={"preprocessing": 5}), "preprocessing"),
        ("about.json", lambda path: change(path, units=None), "units"),
        (
            "about.json",
            lambda path: path.write_text("[" * 100_000),
            "about.json has invalid content",
        ),
        ("about.json", lambda path: path.write_text("[]"), "about.json"),
        (
            "signals.npy",
            lambda path: path.write_bytes(path.read_bytes().replace(b"(20, 8", b"(2e, 8")),
            "signals.npy has invalid content",
        ),
        (
            "signals.npy",
            lambda path: path.write_bytes(path.read_bytes().replace(b"(20, 8", b"((((((")),
            "signals.npy has invalid content",
        ),
        (
            "signals.npy",
            lambda path: path.write_bytes(path.read_bytes().replace(b"'<f4'", b"'<i4'")),
            "has the type int32, not float32",
        ),
        (
            "signals.npy",
            lambda path: path.write_bytes(path.read_bytes().replace(b"'<f4'", b"'|O4'")),
            "signals.npy has invalid content",
        ),
        (
            "signals.npy",
            lambda path: path.write_bytes(b"PK\x03\x04"),
            "signals.npy has invalid content",
        ),
        ("signals.npy", lambda path: path.write_bytes(b""), "signals.npy has invalid content"),
        (
            "signals.npy",
            lambda path: (path.unlink(), path.mkdir()),
            "cannot be read: Is a directory",
        ),
    ],
)
def test_a_damaged_set_is_reported_in_one_line(record_set, name, damage, message):
    damage(record_set.folder / name)
    with pytest.raises(EcgforgeError, match=message) as error:
        RecordSet.open(record_set.folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(record_set.folder))


@given(st.integers(0, 2**32 - 1))
def test_limb_leads_obey_einthoven_and_goldberger(seed):
    eight = the_signals(2, seed).astype(float)
    twelve = dict(zip(STANDARD_LEADS, np.moveaxis(twelve_leads(eight, "mV"), -2, 0), strict=True))
    np.testing.assert_allclose(twelve["I"] + twelve["III"], twelve["II"])
    np.testing.assert_allclose(twelve["aVR"] + twelve["aVL"] + twelve["aVF"], 0, atol=1e-12)
    np.testing.assert_allclose(twelve["aVL"], (twelve["I"] - twelve["III"]) / 2)
    np.testing.assert_allclose(twelve["aVF"], (twelve["II"] + twelve["III"]) / 2)
    for row, lead in enumerate(LEADS):
        np.testing.assert_array_equal(twelve[lead], eight[:, row])


def test_limb_leads_are_refused_where_leads_have_scales_of_their_own():
    with pytest.raises(ValueError, match="per_lead_std"):
        twelve_leads(the_signals(1), "per_lead_std")


def test_records_are_read_in_any_order(tmp_path: Path) -> None:
    signals = np.random.default_rng(0).standard_normal((7, 8, SAMPLES)).astype(np.float32)
    with write_record_set(tmp_path / "set", ABOUT) as writer:
        writer.append(signals, a_table(7))
    records = RecordSet.open(tmp_path / "set")
    for index in ([0, 1, 2], [6, 0, 6, 3, 4], [], [5]):
        rows = np.array(index, dtype=int)
        np.testing.assert_array_equal(records.signals(rows), signals[rows])
        np.testing.assert_array_equal(records.select(rows).signals(), signals[rows])
    np.testing.assert_array_equal(records.signals(slice(2, 9)), signals[2:])
    file = tmp_path / "set/signals.npy"
    np.save(file, np.asfortranarray(signals))
    with pytest.raises(EcgforgeError, match="not in C order"):
        RecordSet.open(tmp_path / "set")
    with file.open("rb") as opened, pytest.raises(EOFError, match="ends before row 9"):
        rows_on_disk.read(opened, np.load(file, mmap_mode="r"), np.array([2, 9]))
