import re
import resource
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, resample_poly, sosfiltfilt

from ecgforge.errors import EcgforgeError
from ecgforge.files import md5, read_csv
from ecgforge.params import FolderSource, Params, Preparation, Preprocessing
from ecgforge.preparation import prepare as prepare_module
from ecgforge.preparation import splits, twins
from ecgforge.preparation.prepare import EXCLUDED_COLUMNS, RawSource, prepare
from ecgforge.preparation.preprocessing import prepare_recording, prepare_signal
from ecgforge.quality import coherence
from ecgforge.records.exclusions import DAMAGE, BadRecord, Reason
from ecgforge.records.leads import LEADS, STANDARD_LEADS, limb_residual, twelve_leads
from ecgforge.records.record_set import RecordSet
from ecgforge.records.rhythms import RHYTHMS, rhythm_of
from ecgforge.sources import folder as own
from ecgforge.stages import prepare as prepare_stage
from ecgforge.wfdb_io import files as wfdb_files
from ecgforge.wfdb_io.files import Recording

PREPROCESSING = Preprocessing(sampling_rate=100, duration=10, band=(0.5, 40), max_amplitude=20)
PREPARATION = Preparation(max_damaged=1, min_records=2, amplitude="mV")
CODES = {"SR": "SR", "SBRAD": "SB", "AFIB": "AFIB", "AFLT": "AFLT", "SVTAC": "SVT", "PSVT": "SVT"}
OTHERS = {"PACE"}


def an_ecg(leads=STANDARD_LEADS, fs=100, seconds=10.0, rate=70, seed=0):
    """A pulse a beat, with an amplitude and noise of its own in each lead: `[samples, leads]`."""
    rng = np.random.default_rng(seed)
    phase = (np.arange(round(fs * seconds)) / fs * rate / 60) % 1
    pulse = np.exp(-(((phase - 0.5) / 0.03) ** 2))
    return pulse[:, None] * np.linspace(0.5, 1.5, len(leads)) + 0.01 * rng.normal(
        size=(len(pulse), len(leads))
    )


def write_record(folder, name, signals=None, leads=STANDARD_LEADS, fs=100, units="mV"):
    signals = an_ecg(leads, fs) if signals is None else signals
    folder.mkdir(parents=True, exist_ok=True)
    count = len(leads)
    gains = {"fmt": ["16"] * count, "adc_gain": [1000.0] * count, "baseline": [0] * count}
    wfdb.wrsamp(name, fs, [units] * count, list(leads), signals, write_dir=str(folder), **gains)


def a_catalogue(ids, codes=None, **columns):
    table = pd.DataFrame(
        {"id": ids, "patient": ids, "codes": codes or [["SR"]] * len(ids), "path": ids}
    )
    return table.assign(
        **{"age": 60.0, "sex": "female", "fold": np.nan, "withdrawn": False, **columns}
    )


def a_raw_source(folder, catalogue, simulated=False, withdrawn=()):
    return RawSource(folder, catalogue, CODES, OTHERS, simulated, withdrawn)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Twelve good records of a patient each, SR and SB in turn."""
    folder = tmp_path_factory.mktemp("raw")
    ids = [f"r{number:02d}" for number in range(12)]
    for number, name in enumerate(ids):
        write_record(folder, name, an_ecg(rate=(70, 50)[number % 2], seed=number))
    return a_raw_source(folder, a_catalogue(ids, [["SR"], ["SBRAD"]] * 6))


def rewrite(path, change):
    path.write_text(change(path.read_text()))


# Reading


@pytest.mark.parametrize(
    "leads",
    [
        STANDARD_LEADS,
        STANDARD_LEADS[::-1],
        ("v6", "aVR", "ii", "V1", "V3", "v2", "V5", "V4", "i", "resp"),
    ],
)
def test_leads_are_found_by_name(tmp_path, leads):
    signals = an_ecg(leads)
    write_record(tmp_path, "r", signals, leads)
    recording = wfdb_files.read(tmp_path, "r")
    upper = [lead.upper() for lead in leads]
    np.testing.assert_allclose(
        recording.signals, np.stack([signals[:, upper.index(lead)] for lead in LEADS]), atol=0.0005
    )
    assert (recording.sampling_rate, recording.units) == (100, "mV")


@pytest.mark.parametrize(
    ("units", "factor", "read_as"), [("uV", 0.001, "mV"), ("V", 1000, "mV"), ("NU", 1, "NU")]
)
def test_volts_become_millivolts_and_other_units_stay(tmp_path, units, factor, read_as):
    write_record(tmp_path, "r", an_ecg() * 3, units=units)
    recording = wfdb_files.read(tmp_path, "r")
    assert recording.units == read_as
    np.testing.assert_allclose(
        recording.signals[0], an_ecg()[:, 0] * 3 * factor, atol=0.0005 * factor
    )


def test_leads_in_volts_of_different_prefix_agree_and_others_are_refused(tmp_path):
    write_record(tmp_path, "r")
    rewrite(tmp_path / "r.hea", lambda text: text.replace("1000.0(0)/mV", "1000000.0(0)/V", 1))
    np.testing.assert_allclose(
        wfdb_files.read(tmp_path, "r").signals[0], an_ecg()[:, 0], atol=0.0005
    )
    rewrite(tmp_path / "r.hea", lambda text: text.replace("/V", "/NU", 1))
    with pytest.raises(BadRecord) as bad:
        wfdb_files.read(tmp_path, "r")
    assert bad.value.reason == Reason.WRONG_UNITS


def test_limb_leads_are_compared_with_what_follows_from_i_and_ii(tmp_path):
    twelve = twelve_leads(an_ecg(LEADS).T, "mV")
    write_record(tmp_path, "recorder", twelve.T)
    write_record(tmp_path, "volts", twelve.T, units="V")
    write_record(tmp_path, "made_apart", an_ecg() * np.where(np.arange(12) == 2, 5, 1))
    half = twelve.copy()
    half[2] *= 2  # III twice as large as it should be, and alone
    write_record(
        tmp_path,
        "doubled",
        half[[0, 1, 2, *range(6, 12)]].T,
        ("I", "II", "iii", *STANDARD_LEADS[6:]),
    )
    write_record(tmp_path, "eight", an_ecg(LEADS), LEADS)
    write_record(tmp_path, "standardised", twelve.T, units="NU")
    found = {
        path.stem: wfdb_files.read(tmp_path, path.stem).limb_residual
        for path in tmp_path.glob("*.hea")
    }
    assert found["recorder"] < 0.01
    assert found["volts"] == pytest.approx(found["recorder"])
    assert found["made_apart"] > 1
    assert found["doubled"] == pytest.approx(1, abs=0.01)
    assert np.isnan(found["eight"])
    assert np.isnan(found["standardised"])


def test_a_set_states_the_errors_of_its_limb_leads(tmp_path):
    leads = {"a": STANDARD_LEADS, "b": LEADS, "c": STANDARD_LEADS}
    for number, (name, kept) in enumerate(leads.items()):
        write_record(tmp_path / "raw", name, an_ecg(kept, seed=number), kept)
    prepare(
        {"one": a_raw_source(tmp_path / "raw", a_catalogue(list(leads)))},
        tmp_path / "set",
        PREPROCESSING,
        PREPARATION,
    )
    table = read_csv(tmp_path / "set/limb_leads.csv")
    assert list(table["id"]) == ["a", "c"]
    assert (table["residual"] > 0.1).all()
    records = RecordSet.open(tmp_path / "set")
    assert len(coherence.limb_residuals(records)) == 2
    assert (
        len(coherence.limb_residuals(records.select((records.records["id"] == "c").to_numpy())))
        == 1
    )


@pytest.mark.parametrize(
    "form", [lambda checksum: checksum % 65536, lambda checksum: (checksum + 32768) % 65536 - 32768]
)
def test_checksums_may_be_signed_or_unsigned(tmp_path, form):
    write_record(tmp_path, "r", an_ecg() * np.where(np.arange(12) % 2, 1, -1))
    for checksum in wfdb.rdheader(str(tmp_path / "r")).checksum:
        rewrite(
            tmp_path / "r.hea",
            lambda text, checksum=checksum: text.replace(
                f" {checksum} 0 ", f" {form(checksum)} 0 "
            ),
        )
    assert wfdb_files.read(tmp_path, "r").signals.shape == (8, 1000)
    rewrite(
        tmp_path / "r.hea",
        lambda text: text.replace(f" {form(checksum)} 0 ", f" {form(checksum) + 1} 0 "),
    )
    with pytest.raises(BadRecord) as bad:
        wfdb_files.read(tmp_path, "r")
    assert bad.value.reason == Reason.CHECKSUM_MISMATCH


def a_link(folder: Path, how: str) -> str:
    """Plant a record of which something is a link out of `folder`, and return its path."""
    elsewhere = folder.parent / "elsewhere"
    write_record(elsewhere, "r")
    folder.mkdir()
    if how == "folder":
        (folder / "deep").symlink_to(elsewhere)
        return "deep/r"
    for name in ("r.hea", "r.dat"):
        (folder / name).symlink_to(elsewhere / name) if how in (name, "both") else (
            folder / name
        ).write_bytes((elsewhere / name).read_bytes())
    return "r"


@pytest.mark.parametrize("how", ["r.hea", "r.dat", "both", "folder"])
def test_links_in_the_raw_folder_are_followed(tmp_path, how):
    path = a_link(tmp_path / "raw", how)
    np.testing.assert_array_equal(
        wfdb_files.read(tmp_path / "raw", path).signals,
        wfdb_files.read(tmp_path / "elsewhere", "r").signals,
    )


NAMES = [
    "../elsewhere/secret.dat",
    "{elsewhere}/secret.dat",
    "deep/secret.dat",
    "..\\elsewhere\\secret.dat",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_header_names_files_of_its_own_folder_alone(tmp_path, name):
    write_record(tmp_path / "elsewhere", "secret")
    write_record(tmp_path / "raw/deep", "secret")
    write_record(tmp_path / "raw", "r")
    name = name.format(elsewhere=tmp_path / "elsewhere")
    rewrite(tmp_path / "raw/r.hea", lambda text: text.replace("r.dat", name))
    with pytest.raises(BadRecord, match="not in the header's folder") as bad:
        wfdb_files.read(tmp_path / "raw", "r")
    assert bad.value.reason == Reason.OUTSIDE_FOLDER


@pytest.mark.parametrize(
    "path", ["../elsewhere/secret", "{elsewhere}/secret", "deep/../../elsewhere/secret", "", "\0"]
)
def test_a_catalogue_names_files_of_its_folder_alone(tmp_path, path):
    write_record(tmp_path / "elsewhere", "secret")
    write_record(tmp_path / "raw/deep", "r")
    with pytest.raises(BadRecord) as bad:
        wfdb_files.read(tmp_path / "raw", path.format(elsewhere=tmp_path / "elsewhere"))
    assert bad.value.reason == Reason.OUTSIDE_FOLDER


def test_linked_and_plain_raw_folders_give_the_same_bytes(raw, tmp_path):
    (tmp_path / "linked").mkdir()
    for file in raw.folder.iterdir():
        (tmp_path / "cache" / file.name).parent.mkdir(exist_ok=True)
        (tmp_path / "cache" / file.name).write_bytes(file.read_bytes())
        (tmp_path / "linked" / file.name).symlink_to(tmp_path / "cache" / file.name)
    prepare({"own": raw}, tmp_path / "a", PREPROCESSING, PREPARATION)
    prepare(
        {"own": a_raw_source(tmp_path / "linked", raw.catalogue)},
        tmp_path / "b",
        PREPROCESSING,
        PREPARATION,
    )
    assert md5(tmp_path / "a") == md5(tmp_path / "b")


def test_a_raw_folder_may_itself_be_a_link(tmp_path):
    write_record(tmp_path / "real" / "deep", "r")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert wfdb_files.read(tmp_path / "link", "deep/r").signals.shape == (8, 1000)


def an_edit(old: str, new: str):
    return lambda text: text.replace(old, new, 1)


BAD_HEADERS = {
    "empty": lambda text: text[:0],
    "binary": lambda text: "\x00\x01\x02" * len(text),
    "no record line": lambda text: text.split("\n", 1)[1],
    "a lead less than announced": lambda text: "\n".join(text.splitlines()[:-1]),
    "sampling rate 0": an_edit("r 12 100", "r 12 0"),
    "unknown format": an_edit("r.dat 16", "r.dat 77"),
    "several formats in one file": an_edit("r.dat 16", "r.dat 32"),
    "a number of 5,000 digits": an_edit("12 100 1000", f"12 100 {'9' * 5000}"),
    "leads of 5,000 digits": an_edit("r 12", f"r {'9' * 5000}"),
    "rate of 5,000 digits": an_edit("12 100 ", f"12 {'9' * 5000} "),
    "a baseline of 20 digits": an_edit("(0)/mV", f"({'9' * 20})/mV"),
    "gain beyond numbers": an_edit("1000.0(0)/mV", "1e999(0)/mV"),
    "a checksum of 5,000 digits": lambda text: re.sub(r"\d+ 0 I\n", f"{'9' * 5000} 0 I\n", text),
    "an offset of 5,000 digits": an_edit("r.dat 16", f"r.dat 16+{'9' * 5000}"),
    "a format of 5,000 digits": an_edit("r.dat 16", f"r.dat {'9' * 5000}"),
    "a file of 5,000 letters": lambda text: text.replace("r.dat", "r" * 5000),
    "longer than any header": lambda text: text + "#" * 2_000_000,
}
UNSUPPORTED = {
    "several segments": (an_edit("r 12", "r/2 12"), "several segments"),
    "no signals": (
        lambda text: text.splitlines()[0].replace("r 12", "r 0"),
        "no signals in the header",
    ),
    "skewed lead": (an_edit("r.dat 16", "r.dat 16:5"), "skew"),
    "several samples a frame": (an_edit("r.dat 16", "r.dat 16x2"), "several samples"),
    **{
        f"format {number}": (
            an_edit("r.dat 16", f"r.dat {number}"),
            f"format {number}, FLAC: convert",
        )
        for number in (508, 516, 524)
    },
    **{
        f"format {number}": (an_edit("r.dat 16", f"r.dat {number}"), f"format {number}, packed")
        for number in (310, 311)
    },
}


@pytest.mark.parametrize("change", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_bad_header_is_an_unreadable_file(tmp_path, change):
    write_record(tmp_path, "r")
    rewrite(tmp_path / "r.hea", change)
    with pytest.raises(BadRecord) as bad:
        wfdb_files.read(tmp_path, "r")
    assert bad.value.reason == Reason.UNREADABLE_FILE
    assert not re.search("Error|object|Type", bad.value.detail)
    assert len(bad.value.detail) < 300


NO_NUMBERS = [
    *(
        (f"12 {rate} 1000", f"sampling rate {rate}")
        for rate in ("5e2", "inf", "-500", "500(0)", "1_0")
    ),
    (f"12 {'5' * 60}x 1000", f"sampling rate {'5' * 40}"),
    *(
        (f"12 100 {samples}", f"number of samples {samples}")
        for samples in ("5000.0", "-2", "5_000", "1e3")
    ),
    *((f"{leads} 100 1000", f"number of leads {leads}") for leads in ("12.0", "-12")),
]
NO_FIELDS = [
    *(
        (f"{gain} 16 0", f"gain {gain}")
        for gain in ("nan(0)", "inf(0)", "0x10", "nan", "1,000(0)/mV", "1000(0.5)/mV", "10O0(0)/mV")
    ),
    ("1000(0)/mV 16.0 0", "resolution 16.0"),
    ("1000(0)/mV 16 0x0", "zero level 0x0"),
]


@pytest.mark.parametrize(("cells", "expected"), NO_NUMBERS)
def test_an_invalid_number_of_the_record_line_is_named(tmp_path, cells, expected):
    write_record(tmp_path, "r")
    rewrite(tmp_path / "r.hea", an_edit("r 12 100 1000", f"r {cells}"))
    with pytest.raises(BadRecord) as bad:
        wfdb_files.read(tmp_path, "r")
    assert bad.value.detail == f"{expected} is not a valid number in WFDB"


@pytest.mark.parametrize(("cells", "expected"), NO_FIELDS)
def test_an_invalid_number_of_a_lead_is_named(tmp_path, cells, expected):
    write_record(tmp_path, "r")
    rewrite(tmp_path / "r.hea", an_edit("1000.0(0)/mV 16 0", cells))
    with pytest.raises(BadRecord) as bad:
        wfdb_files.read(tmp_path, "r")
    assert bad.value.detail == f"{expected} is not a valid number in WFDB"


@pytest.mark.filterwarnings("error")
def test_limb_leads_beyond_numbers_compare_to_nothing():
    huge = {
        lead: np.full(10, 1e303 * number) for number, lead in enumerate(STANDARD_LEADS, start=1)
    }
    assert np.isnan(limb_residual(huge))


@pytest.mark.parametrize(("change", "expected"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_intact_unsupported_files_are_not_damaged(tmp_path, change, expected):
    write_record(tmp_path, "r")
    rewrite(tmp_path / "r.hea", change)
    with pytest.raises(BadRecord, match=expected) as bad:
        wfdb_files.read(tmp_path, "r")
    assert bad.value.reason == Reason.NOT_SUPPORTED
    assert bad.value.reason not in DAMAGE


@pytest.mark.parametrize(
    "line",
    [
        "a.mat 12 100 1000",
        "my record 1 12 100 1000",
        "2-b.c/d 12 100/100(0) 1000",
        "r 12 12 100 1000 0:0 1/1/2000",
    ],
)
@pytest.mark.parametrize("date", ["", " 99:99:99 1/2/06", " 2006", " 1/2/2006", " 12:00:00"])
def test_a_records_own_name_and_its_date_decide_nothing(tmp_path, line, date):
    write_record(tmp_path, "r")
    expected = wfdb_files.read(tmp_path, "r")
    rewrite(tmp_path / "r.hea", lambda text: text.replace("r 12 100 1000", line + date))
    np.testing.assert_array_equal(wfdb_files.read(tmp_path, "r").signals, expected.signals)


@pytest.mark.parametrize("name", ["r 1 16.dat", "r.a-b.dat", "m\u00fcller.dat", "r"])
def test_signal_files_have_any_name(tmp_path, name):
    write_record(tmp_path, "r")
    expected = wfdb_files.read(tmp_path, "r")
    rewrite(tmp_path / "r.hea", lambda text: text.replace("r.dat", name))
    (tmp_path / "r.dat").rename(tmp_path / name)
    np.testing.assert_array_equal(wfdb_files.read(tmp_path, "r").signals, expected.signals)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_headers_beyond_ascii_keep_their_letters(tmp_path, encoding):
    write_record(tmp_path, "r", units="uV")
    rewrite(tmp_path / "r.hea", lambda text: text.replace("1000.0(0)", "1.0(0)"))
    (tmp_path / "r.dat").write_bytes((1000 * an_ecg()).round().astype("<i2").tobytes())
    text = re.sub(r"(16 0) -?\d+ -?\d+ 0 ", r"\1 ", (tmp_path / "r.hea").read_text())
    (tmp_path / "r.hea").write_bytes(
        (text.replace("/uV", "/\u00b5V") + "# M\u00fcller\n").encode(encoding)
    )
    recording = wfdb_files.read(tmp_path, "r")
    assert recording.units == "mV"
    np.testing.assert_allclose(recording.signals[0], an_ecg()[:, 0], atol=0.001)


@pytest.mark.parametrize("gain", ["0", "0(0)", "0/mV", "0.0(0)/mV", "0e0"])
def test_gain_0_is_uncalibrated(tmp_path, gain):
    write_record(tmp_path, "r")
    rewrite(tmp_path / "r.hea", lambda text: text.replace("1000.0(0)/mV", gain))
    recording = wfdb_files.read(tmp_path, "r")
    with pytest.raises(BadRecord, match=r"uncalibrated \(gain 0\), not mV") as bad:
        prepare_recording(recording, PREPROCESSING, "mV")
    assert bad.value.reason == Reason.WRONG_UNITS
    assert prepare_recording(recording, PREPROCESSING, "per_lead_std").shape == (8, 1000)


def test_a_gain_without_a_unit_is_of_millivolts_and_no_gain_is_uncalibrated(tmp_path):
    write_record(tmp_path, "r")
    rewrite(tmp_path / "r.hea", lambda text: text.replace("1000.0(0)/mV", "1000"))
    assert wfdb_files.read(tmp_path, "r").units == "mV"
    lines = [f"r.dat 16 {lead}" for lead in STANDARD_LEADS]
    (tmp_path / "r.hea").write_text("\n".join(["r 12 100 1000", *lines]))
    assert wfdb_files.read(tmp_path, "r").units == "uncalibrated (gain 0)"


def digital(kind: str, samples: int = 1001) -> np.ndarray:
    """Values that a signal format holds, of twelve leads, the lowest of them, which means invalid,
    among these.
    """
    low = {"80": -(2**7), "8": -100, "212": -(2**11), "24": -(2**23), "32": -(2**31)}.get(
        kind, -(2**15)
    )
    return (
        np.random.default_rng(0).integers(low, -low, (samples, 12))
        if kind != "8"
        else np.cumsum(np.full((samples, 12), 3), axis=0)
    )


@pytest.mark.parametrize("kind", sorted({*wfdb_files.TYPES, "24", "212"}))
def test_every_format_is_read_as_the_wfdb_library_reads_it(tmp_path, kind, monkeypatch):
    values, folder = digital(kind), tmp_path
    flat = values.ravel()
    content = {
        "8": lambda: np.diff(values, axis=0, prepend=0).astype("i1").tobytes(),
        "80": lambda: (flat + 128).astype("u1").tobytes(),
        "160": lambda: (flat + 32768).astype("<u2").tobytes(),
        "24": lambda: (flat % 2**24).astype("<u4").view("u1").reshape(-1, 4)[:, :3].tobytes(),
        "212": lambda: b"".join(
            bytes([a & 255, (a >> 8 & 15) | (b >> 4 & 240), b & 255])
            for a, b in (flat % 4096).reshape(-1, 2).tolist()
        ),
    }.get(kind, lambda: flat.astype(wfdb_files.TYPES[kind]).tobytes())()
    lines = [
        f"r.dat {kind} {200 + lead}({lead})/mV 16 0 0 {values[:, lead].sum() % 65536} 0 {name}"
        for lead, name in enumerate(STANDARD_LEADS)
    ]
    (folder / "r.hea").write_text("\n".join([f"r 12 100 {len(values)}", *lines]) + "\n")
    (folder / "r.dat").write_bytes(content)
    expected = wfdb.rdrecord(str(folder / "r")).p_signal.T[
        [STANDARD_LEADS.index(lead) for lead in LEADS]
    ]
    np.testing.assert_array_equal(wfdb_files.read(folder, "r").signals, expected)
    monkeypatch.setattr(wfdb_files, "BLOCK", 12 * 64)  # in many blocks
    np.testing.assert_array_equal(wfdb_files.read(folder, "r").signals, expected)
    np.testing.assert_array_equal(wfdb_files.read(folder, "r", 5).signals, expected[:, :501])


def test_memory_does_not_grow_with_the_length_of_a_record(tmp_path):
    long = np.tile(an_ecg(), (120, 1))  # 20 min, 2.9 MB
    write_record(tmp_path, "long", long)
    write_record(tmp_path, "short")
    wfdb_files.read(tmp_path, "short", 10)
    peaks = {}
    for name in ("short", "long"):
        tracemalloc.start()
        recording = wfdb_files.read(tmp_path, name, 10)
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert recording.seconds == 1200
    assert recording.signals.shape == (8, 1001)
    # three copies of a block, and nothing that is as long as the record
    assert peaks["long"] < 2**19 * 8 * 3.5


def test_cutting_of_longer_records_is_reported(tmp_path, capsys):
    write_record(tmp_path / "raw", "a", np.tile(an_ecg(), (30, 1)))
    write_record(tmp_path / "raw", "b", an_ecg(seed=1))
    prepare(
        {"own": a_raw_source(tmp_path / "raw", a_catalogue(["a", "b"]))},
        tmp_path / "out",
        PREPROCESSING,
        PREPARATION,
    )
    assert (
        "1 record is longer than 10 s, up to 5 min: the first 10 s are used."
        in capsys.readouterr().err
    )


def test_a_header_that_claims_an_absurd_length_is_not_believed(tmp_path):
    write_record(tmp_path, "r")
    rewrite(tmp_path / "r.hea", lambda text: text.replace("12 100 1000", "12 100 999999999999999"))
    with pytest.raises(BadRecord) as bad:
        wfdb_files.read(tmp_path, "r")
    assert bad.value.reason == Reason.TRUNCATED_FILE


def test_a_lead_that_is_there_twice_is_not_guessed(tmp_path):
    write_record(tmp_path, "r", leads=(*STANDARD_LEADS, "x"))
    rewrite(tmp_path / "r.hea", lambda text: text.replace(" x\n", " V1\n"))
    with pytest.raises(BadRecord, match="2 leads named V1"):
        wfdb_files.read(tmp_path, "r")


# Filtering


def a_sine(frequency, fs, seconds=10.0, phase=0.4):
    return np.tile(
        np.sin(2 * np.pi * frequency * np.arange(round(fs * seconds)) / fs + phase), (len(LEADS), 1)
    )


@pytest.mark.parametrize("fs", [100, 128, 250, 257, 360.5, 500, 1000])
def test_resampling_keeps_amplitude_and_phase(fs):
    prepared = prepare_signal(a_sine(10, fs), fs, PREPROCESSING)
    assert prepared.shape == (8, 1000)
    np.testing.assert_allclose(prepared[:, 100:-100], a_sine(10, 100)[:, 100:-100], atol=0.05)


@pytest.mark.parametrize("fs", [100, 250, 257, 500])
def test_filters_designed_once_give_the_values_of_scipy(fs):
    raw = np.random.default_rng(0).standard_normal((8, 10 * fs)).cumsum(axis=1)
    expected = raw if fs == 100 else resample_poly(raw, 100, fs, axis=1, padtype="line")
    sections = butter(3, PREPROCESSING.band, btype="bandpass", fs=100, output="sos")
    expected = sosfiltfilt(sections, expected, padtype="even", padlen=400)
    for _ in range(2):  # the second time from the cache
        np.testing.assert_array_equal(prepare_signal(raw, fs, PREPROCESSING), expected)


@pytest.mark.parametrize("frequency", [0.15, 50, 60])
def test_frequencies_outside_the_band_are_removed(frequency):
    prepared = prepare_signal(5 + a_sine(frequency, 500) + a_sine(10, 500), 500, PREPROCESSING)
    np.testing.assert_allclose(prepared[:, 100:-100], a_sine(10, 100)[:, 100:-100], atol=0.05)


def test_r_peaks_stay_where_they_are():
    ecg = np.zeros((8, 5000))
    peaks = np.arange(300, 5000, 450)  # samples at 500 Hz
    for peak in peaks:
        ecg += np.exp(-(((np.arange(5000) - peak) / 12) ** 2))
    prepared = prepare_signal(ecg, 500, PREPROCESSING)[0]
    for peak in peaks:
        window = slice(peak // 5 - 8, peak // 5 + 9)
        assert np.argmax(prepared[window]) == 8
        # Without shift of phase, a symmetric wave stays symmetric.
        np.testing.assert_allclose(prepared[window], prepared[window][::-1], atol=0.03)


def test_a_record_that_ends_within_a_beat_does_not_swing():
    long = an_ecg(LEADS, 500, 30, rate=60).T  # a beat at every half second
    alone = prepare_signal(long[:, 5000 + 260 : 10000 + 260], 500, PREPROCESSING)
    within = prepare_signal(long, 500, PREPROCESSING.model_copy(update={"duration": 30.0}))[
        :, 1052:2052
    ]
    assert np.abs(alone - within).max() < 0.3 * long.max()


def test_longer_records_are_cut_and_shorter_ones_refused():
    long = a_sine(10, 500, 12)
    np.testing.assert_array_equal(
        prepare_signal(long, 500, PREPROCESSING), prepare_signal(long[:, :5000], 500, PREPROCESSING)
    )
    with pytest.raises(BadRecord) as bad:
        prepare_signal(long[:, :4999], 500, PREPROCESSING)
    assert bad.value.reason == Reason.WRONG_LENGTH


def test_per_lead_std_scales_each_lead_separately():
    recording = Recording(an_ecg(LEADS).T, 100.0, "NU")
    prepared = prepare_recording(recording, PREPROCESSING, "per_lead_std")
    np.testing.assert_allclose(prepared.std(axis=1), 1, rtol=1e-5)
    assert prepared.dtype == np.float32
    scaled = Recording(recording.signals * np.arange(1, 9)[:, None], 100.0, "mV")
    np.testing.assert_allclose(
        prepare_recording(scaled, PREPROCESSING, "per_lead_std"), prepared, atol=1e-5
    )
    with pytest.raises(BadRecord, match="NU"):
        prepare_recording(recording, PREPROCESSING, "mV")


def test_absurd_amplitude_is_reported_for_the_median_and_in_millivolts_only():
    signals = an_ecg(LEADS).T
    offset = Recording(signals + 500, 100.0, "mV")
    assert prepare_recording(offset, PREPROCESSING, "mV").shape == (8, 1000)
    signals[3, 500] = 30
    with pytest.raises(BadRecord, match="V2: 30 mV") as bad:
        prepare_recording(Recording(signals, 100.0, "mV"), PREPROCESSING, "mV")
    assert bad.value.reason == Reason.ABSURD_AMPLITUDE
    signals[3, 500] = 4200  # as with a header in V of values in mV
    with pytest.raises(BadRecord, match="V2: 4,200 mV, at most 20 mV allowed"):
        prepare_recording(Recording(signals, 100.0, "mV"), PREPROCESSING, "mV")
    assert prepare_recording(
        Recording(signals, 100.0, "NU"), PREPROCESSING, "per_lead_std"
    ).shape == (8, 1000)


# Labels


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (["NORM", "SR"], "SR"),
        (["SVTAC", "PSVT"], "SVT"),
        ([], Reason.NO_RHYTHM),
        (["NORM"], Reason.NO_RHYTHM),
        (["PACE"], Reason.NO_RHYTHM),
        (["AFIB", "AFLT"], Reason.CONTRADICTORY_RHYTHMS),
        (["SR", "PACE"], Reason.CONTRADICTORY_RHYTHMS),
    ],
)
def test_a_record_has_one_rhythm_or_none(codes, expected):
    if expected in RHYTHMS:
        assert rhythm_of(codes, CODES, OTHERS) == expected
    else:
        with pytest.raises(BadRecord) as bad:
            rhythm_of(codes, CODES, OTHERS)
        assert bad.value.reason == expected


# Splits

patients = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(RHYTHMS), st.sampled_from([None, 1, 8, 9, 10])),
    min_size=1,
    max_size=120,
)


def a_table(rows):
    table = pd.DataFrame(rows, columns=["patient", "rhythm", "fold"]).astype({"fold": float})
    return table.assign(
        id=[f"{i:03d}" for i in range(len(table))], patient=table["patient"].astype(str)
    )


@given(patients, st.randoms())
def test_no_patient_is_in_two_splits_and_order_does_not_matter(rows, random):
    table = a_table(rows)
    assigned = splits.assign(table)
    assert set(assigned) <= {"train", "validation", "test"}
    assert assigned.groupby(table["patient"]).nunique().max() == 1
    shuffled = table.sample(frac=1, random_state=random.randrange(2**32))
    pd.testing.assert_series_equal(
        splits.assign(shuffled).sort_index(), assigned, check_names=False
    )


@given(st.dictionaries(st.integers(), st.sampled_from(RHYTHMS), min_size=1, max_size=200))
@settings(max_examples=50)
def test_each_rhythm_is_split_80_10_10_with_at_least_one_test_patient(rhythms):
    table = a_table([(patient, rhythm, None) for patient, rhythm in rhythms.items()])
    for _, group in splits.assign(table).groupby(table["rhythm"]):
        held_out = group.value_counts().reindex(["validation", "test"], fill_value=0)
        expected = max(1, round(0.1 * len(group))) if len(group) >= 3 else 0
        assert held_out.tolist() == [expected, expected]


def test_published_folds_are_used_and_patients_are_not_split():
    rows = [("a", "SR", 1), ("b", "SR", 8), ("c", "SR", 9), ("d", "SR", 10), ("a", "SB", 10)]
    assert splits.assign(a_table(rows)).tolist() == [
        "train",
        "train",
        "validation",
        "test",
        "train",
    ]
    with pytest.raises(EcgforgeError, match="fold 11"):
        splits.assign(a_table([("a", "SR", 11)]))


def test_the_hash_is_the_same_on_every_machine():
    # The two lowest by `printf JS0000$i | sha256sum`.
    assigned = splits.assign(a_table([(f"JS{i:05d}", "SR", None) for i in range(10)]))
    assert assigned[assigned != "train"].to_dict() == {8: "test", 6: "validation"}


# Preparing


def plant_bad_records(folder: Path) -> tuple[pd.DataFrame, dict[str, Reason]]:
    """Good records of SR, and a bad one for every reason; return the catalogue and the reasons."""
    good = [f"good{number}" for number in range(4)]
    for number, name in enumerate(good):
        write_record(folder, name, an_ecg(seed=number))
    bad = {reason.name.lower(): reason for reason in Reason}
    for number, name in enumerate(bad, start=10):
        write_record(folder, name, an_ecg(seed=number))
    (folder / "unreadable_file.hea").write_text("not a header")
    rewrite(
        folder / "outside_folder.hea", lambda text: text.replace("outside_folder.dat", "../../x")
    )
    (folder / "missing_file.dat").unlink()
    (folder / "truncated_file.dat").write_bytes((folder / "truncated_file.dat").read_bytes()[:-2])
    samples = bytearray((folder / "checksum_mismatch.dat").read_bytes())
    samples[5000] ^= 1
    (folder / "checksum_mismatch.dat").write_bytes(samples)
    write_record(folder, "missing_lead", leads=[lead for lead in STANDARD_LEADS if lead != "V3"])
    write_record(folder, "wrong_rate", an_ecg(fs=80), fs=80)
    write_record(folder, "wrong_length", an_ecg(seconds=9.9))
    signals = an_ecg()
    signals[500, 7] = np.nan
    write_record(folder, "non_finite", signals)
    signals = an_ecg()
    signals[:, 1] = 0.25
    write_record(folder, "flat_lead", signals)
    signals = an_ecg()
    signals[500, 6] = 25
    write_record(folder, "absurd_amplitude", signals)
    write_record(folder, "wrong_units", units="NU")
    rewrite(folder / "not_supported.hea", lambda text: text.replace(".dat 16", ".dat 516"))
    (folder / "same_recording.dat").write_bytes((folder / "good0.dat").read_bytes())
    (folder / "same_recording.hea").write_text(
        (folder / "good0.hea").read_text().replace("good0", "same_recording")
    )
    codes = {
        "no_rhythm": ["NORM"],
        "contradictory_rhythms": ["SR", "AFIB"],
        "rare_rhythm": ["AFLT"],
    }
    ids = [*good, *bad]
    catalogue = a_catalogue(
        ids,
        [codes.get(name, ["SR"]) for name in ids],
        withdrawn=[name == "withdrawn" for name in ids],
    )
    # The second of two records with one id goes, whatever its file.
    catalogue.loc[catalogue["id"] == "duplicate_id", "id"] = "good0"
    return catalogue, bad


@pytest.fixture(scope="module")
def with_bad_records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    catalogue, reasons = plant_bad_records(folder / "raw")
    source = a_raw_source(folder / "raw", catalogue, withdrawn=["patient_withdrawn"])
    about = prepare({"own": source}, folder / "out", PREPROCESSING, PREPARATION)
    return folder / "out", about, catalogue, reasons


def test_every_bad_record_is_set_aside_with_its_reason(with_bad_records):
    out, _, _, reasons = with_bad_records
    excluded = read_csv(out / "excluded.csv", dtype=str, keep_default_na=False)
    assert excluded.columns.tolist() == list(EXCLUDED_COLUMNS)
    assert dict(zip(excluded["path"], excluded["reason"], strict=True)) == {
        name: str(reason) for name, reason in reasons.items()
    }
    assert set(excluded["reason"]) == {str(reason) for reason in Reason}
    assert RecordSet.open(out).records["id"].tolist() == ["good0", "good1", "good2", "good3"]


def test_totals_add_up(with_bad_records):
    out, about, catalogue, reasons = with_bad_records
    made = about.made
    assert made["catalogue"] == len(catalogue) == made["records"] + made["excluded"]
    assert made["by_reason"] == dict.fromkeys(map(str, reasons.values()), 1)
    assert made["by_rhythm"] == {"SR": {"train": 2, "validation": 1, "test": 1}}
    assert made["by_dataset"] == {"own": {"catalogue": len(catalogue), "records": 4}}
    assert made["preprocessing"]["band"] == [0.5, 40]
    assert RecordSet.open(out).about == about
    assert about.rhythms == ("SR",)


def test_without_a_withdrawn_patient_the_other_records_are_as_before(raw, tmp_path):
    folds = replace(raw, catalogue=raw.catalogue.assign(fold=[1, 1, 9, 9, 10, 10] * 2))
    held = {}
    for name, withdrawn in (("before", ()), ("after", ["r04", "r05"])):
        prepare(
            {"own": replace(folds, withdrawn=withdrawn)},
            tmp_path / name,
            PREPROCESSING,
            PREPARATION,
        )
        held[name] = RecordSet.open(tmp_path / name)
    left = ~held["before"].records["patient"].isin(["r04", "r05"]).to_numpy()
    assert (~left).sum() == 2
    pd.testing.assert_frame_equal(
        held["before"].records[left].reset_index(drop=True), held["after"].records
    )
    np.testing.assert_array_equal(held["before"].signals()[left], held["after"].signals())


def test_the_signals_belong_to_their_rows(raw, tmp_path):
    prepare({"own": raw}, tmp_path / "out", PREPROCESSING, PREPARATION)
    records = RecordSet.open(tmp_path / "out")
    assert records.records["id"].tolist() == raw.catalogue["id"].tolist()
    assert records.records["sex"].unique().tolist() == ["female"]
    assert records.about.origin == "real"
    for row, name in enumerate(records.records["id"]):
        alone = prepare_recording(wfdb_files.read(raw.folder, name), PREPROCESSING, "mV")
        np.testing.assert_array_equal(records.signals(np.array([row]))[0], alone)


def test_a_rhythm_that_bad_files_make_rare_is_dropped_from_the_middle(raw, tmp_path):
    codes = [["AFIB"] if number in (3, 7) else ["SR"] for number in range(12)]
    catalogue = raw.catalogue.assign(codes=codes)
    catalogue.loc[7, "path"] = "gone"
    about = prepare(
        {"own": a_raw_source(raw.folder, catalogue)}, tmp_path / "out", PREPROCESSING, PREPARATION
    )
    assert about.rhythms == ("SR",)
    assert about.made["by_reason"] == {"missing file": 1, "rhythm below min_records": 1}
    records = RecordSet.open(tmp_path / "out")
    last = prepare_recording(wfdb_files.read(raw.folder, "r11"), PREPROCESSING, "mV")
    np.testing.assert_array_equal(records.signals()[-1], last)
    assert records.records["id"].iloc[-1] == "r11"


@pytest.fixture(scope="module")
def other_site(tmp_path_factory, raw):
    """The same ids and rhythms at another site."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for number, name in enumerate(raw.catalogue["id"]):
        write_record(folder, name, an_ecg(rate=(70, 50)[number % 2], seed=100 + number))
    return a_raw_source(folder, raw.catalogue, simulated=True)


def test_merged_keeps_origins_and_splits(raw, other_site, tmp_path):
    alone = prepare({"one": raw}, tmp_path / "alone", PREPROCESSING, PREPARATION)
    merged = prepare(
        {"one": raw, "two": other_site}, tmp_path / "merged", PREPROCESSING, PREPARATION
    )
    table = RecordSet.open(tmp_path / "merged").records
    assert merged.made["records"] == 2 * alone.made["records"]
    assert merged.origin == "mixed"
    assert table["id"].is_unique
    assert table["id"].iloc[[0, 12]].tolist() == ["one-r00", "two-r00"]
    assert (table["patient"] == table["id"]).all()
    assert table.groupby("dataset")["origin"].unique().map(list).to_dict() == {
        "one": ["real"],
        "two": ["simulated"],
    }
    single = RecordSet.open(tmp_path / "alone").records
    assert table["split"].tolist() == single["split"].tolist() * 2


def test_a_third_source_changes_no_record_of_the_others(raw, other_site, tmp_path):
    two = {"one": raw, "two": other_site}
    ids = [f"r{number:02d}" for number in range(12)]
    for number, name in enumerate(ids):
        write_record(tmp_path / "raw", name, an_ecg(rate=130, seed=200 + number))
    third = a_raw_source(tmp_path / "raw", a_catalogue(ids, [["AFIB"]] * 12))
    before, after = (
        prepare(sources, tmp_path / name, PREPROCESSING, PREPARATION)
        for name, sources in {"two": two, "three": two | {"three": third}}.items()
    )
    old, new = (RecordSet.open(tmp_path / name) for name in ("two", "three"))
    assert set(after.rhythms) == {*before.rhythms, "AFIB"}, "the rhythms of any source"
    count = len(old)
    pd.testing.assert_frame_equal(new.records.iloc[:count], old.records)
    np.testing.assert_array_equal(new.signals()[:count], old.signals())
    assert {*new.records["dataset"].iloc[count:]} == {"three"}


# The same recording twice


def excluded(out: Path) -> dict[str, tuple[str, str]]:
    table = read_csv(out / "excluded.csv", dtype=str, keep_default_na=False)
    return dict(
        zip(
            table["dataset"] + "/" + table["id"],
            zip(table["reason"], table["detail"], strict=True),
            strict=True,
        )
    )


def copied(raw, folder, names, codes=None, **change):
    """The records of `raw`, and copies of its first ones, stored in another way."""
    for file in raw.folder.iterdir():
        (folder / file.name).parent.mkdir(exist_ok=True, parents=True)
        (folder / file.name).write_bytes(file.read_bytes())
    first = wfdb.rdrecord(str(raw.folder / "r00"))
    count = len(first.sig_name)
    for name in names:
        layout = {
            "fmt": ["16"] * count,
            "adc_gain": [1000.0] * count,
            "baseline": [0] * count,
            "units": ["mV"] * count,
        } | change
        scale = 1000 if layout["units"][0] == "uV" else 1
        order = list(range(count))[::-1]
        leads = [first.sig_name[row] for row in order]
        wfdb.wrsamp(
            name,
            100,
            sig_name=leads,
            p_signal=scale * first.p_signal[:, order],
            write_dir=str(folder),
            **layout,
        )
    more = a_catalogue(list(names), codes or [["SR"]] * len(names))
    return a_raw_source(folder, pd.concat([raw.catalogue, more], ignore_index=True))


FORMS = {
    "another order of leads": {},
    "another gain": {"adc_gain": [400.0] * 12},
    "another format": {"fmt": ["32"] * 12, "adc_gain": [123456.0] * 12},
    "another unit": {"units": ["uV"] * 12, "adc_gain": [1.0] * 12},
    "another baseline": {"baseline": [17] * 12},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_recording_is_kept_once(raw, tmp_path, form):
    source = copied(raw, tmp_path / "raw", ["a1", "z1"], **FORMS[form])
    about = prepare({"own": source}, tmp_path / "out", PREPROCESSING, PREPARATION)
    expected = ("same recording", "the same recording as a1")
    assert excluded(tmp_path / "out") == {"own/r00": expected, "own/z1": expected}
    assert about.made["by_reason"] == {"same recording": 2}
    assert len(RecordSet.open(tmp_path / "out")) == 12


def test_only_equal_recordings_are_grouped_across_parts_and_units():
    signals = np.random.default_rng(0).standard_normal((70, 8, 100))
    other = np.stack([1000 * signals[66], signals[3] + 0.1 * signals[4], signals[2]])
    parts = [(70, signals.__getitem__), (3, other.__getitem__)]
    assert twins.groups(parts) == [[2, 72], [66, 70]]


def test_copies_that_fill_a_chunk_belong_to_their_first_record():
    signals = np.random.default_rng(0).standard_normal((twins.CHUNK, 8, 100))
    parts = [(twins.CHUNK, signals.__getitem__)] * 2
    assert twins.groups(parts) == [[place, twins.CHUNK + place] for place in range(twins.CHUNK)]


def test_the_same_recording_with_two_rhythms_has_none(raw, tmp_path):
    source = copied(raw, tmp_path / "raw", ["z1", "z2"], [["AFIB"], ["SR"]])
    prepare({"own": source}, tmp_path / "out", PREPROCESSING, PREPARATION)
    expected = ("contradictory rhythms", "SR, AFIB, of the same recording as r00, z1, z2")
    assert excluded(tmp_path / "out") == {
        "own/r00": expected,
        "own/z1": expected,
        "own/z2": expected,
    }


def test_the_same_recording_at_two_sites_is_kept_once_and_moves_no_split(raw, other_site, tmp_path):
    source = copied(other_site, tmp_path / "raw", [])
    for ending in ("hea", "dat"):
        content = (raw.folder / f"r04.{ending}").read_bytes().replace(b"r04", b"r02")
        (source.folder / f"r02.{ending}").write_bytes(content)
    prepare({"one": raw}, tmp_path / "one", PREPROCESSING, PREPARATION)
    prepare({"two": source}, tmp_path / "two", PREPROCESSING, PREPARATION)
    prepare({"one": raw, "two": source}, tmp_path / "both", PREPROCESSING, PREPARATION)
    assert excluded(tmp_path / "both") == {
        "one/one-r04": ("same recording", "the same recording as two-r02")
    }
    splits_of = {
        name: RecordSet.open(tmp_path / name).records.set_index("id")["split"].to_dict()
        for name in ("one", "two", "both")
    }
    alone = {
        f"{site}-{name}": split
        for site in ("one", "two")
        for name, split in splits_of[site].items()
    }
    assert splits_of["both"] == {name: split for name, split in alone.items() if name != "one-r04"}


def test_one_odd_record_does_not_stop_the_others(raw, tmp_path, monkeypatch):
    source = copied(raw, tmp_path / "raw", [])
    rewrite(source.folder / "r03.hea", an_edit("1000.0(0)/mV", f"1000({'9' * 20})/mV"))
    usual = prepare_module.prepare_recording
    faults = iter(
        [
            TypeError("unsupported operand type(s) for %: 'NoneType' and 'int'"),
            MemoryError(),
            *[None] * 20,
        ]
    )

    def faulty(*arguments):
        if fault := next(faults):
            raise fault
        return usual(*arguments)

    monkeypatch.setattr(prepare_module, "prepare_recording", faulty)
    prepare({"own": source}, tmp_path / "out", PREPROCESSING, PREPARATION)
    found = excluded(tmp_path / "out")
    assert {name: reason for name, (reason, _) in found.items()} == dict.fromkeys(
        ["own/r00", "own/r01", "own/r03"], "unreadable file"
    )
    assert found["own/r03"][1] == "baseline of 20 digits, 999999999999999..."
    assert not re.search("Error|Type", str(found))


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK", 5)
    for workers in (1, 2):
        prepare({"own": raw}, tmp_path / str(workers), PREPROCESSING, PREPARATION, workers)
    assert md5(tmp_path / "1") == md5(tmp_path / "2")


@pytest.mark.parametrize(
    "catalogue", [a_catalogue([]), a_catalogue(["gone", "r00"], [["SR"], ["NORM"]])]
)
def test_nothing_left_is_one_clear_line(raw, tmp_path, catalogue):
    with pytest.raises(EcgforgeError, match="no record of own is left") as error:
        prepare(
            {"own": a_raw_source(raw.folder, catalogue)},
            tmp_path / "out",
            PREPROCESSING,
            PREPARATION,
        )
    assert ("missing file: 1; no rhythm: 1" in str(error.value)) == (len(catalogue) > 0)
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_nothing_can_be_tested_on_is_refused(tmp_path):
    for number in range(8):
        write_record(tmp_path / "mine", f"r{number}", an_ecg(seed=number))
    # Two patients of each rhythm: all of them go to train.
    table = pd.DataFrame(
        {
            "record": [f"r{number}" for number in range(8)],
            "patient": list("abcd") * 2,
            "rhythm": ["SR", "SR", "SB", "SB"] * 2,
        }
    )
    table.to_csv(tmp_path / "mine/table.csv", index=False)
    source = FolderSource(
        kind="folder", layout="folder", path=str(tmp_path / "mine"), table="table.csv"
    )
    own.fetch(tmp_path / "raw/own", source)
    params = Params.read(Path(__file__).parents[1] / "params.yaml")
    active = params.active.model_copy(
        update={"sources": {"own": source}, "preparation": PREPARATION}
    )
    params = params.model_copy(update={"profiles": {params.profile: active}})
    expected = (
        r"own: no validation and no test records \(SR: 4 train, 0 validation, 0 test; SB: 4 "
        r"train.* three patients or more of each"
    )
    with pytest.raises(EcgforgeError, match=expected):
        prepare_stage.prepare(params, [tmp_path / "raw/own"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_records_name_the_key_and_the_counts(raw, tmp_path):
    settings = PREPARATION.model_copy(update={"min_records": 7})
    expected = (
        "rhythm below min_records: 12; preparation.min_records is 7, and there are 6 of SR, 6 of SB"
    )
    with pytest.raises(EcgforgeError, match=expected):
        prepare({"own": raw}, tmp_path / "out", PREPROCESSING, settings)


def test_records_that_are_all_of_a_kind_that_is_not_read_say_what_helps(raw, tmp_path):
    source = copied(raw, tmp_path / "raw", [])
    for header in source.folder.glob("*.hea"):
        rewrite(header, lambda text: text.replace(".dat 16", ".dat 516"))
    settings = PREPARATION.model_copy(update={"max_damaged": 0})
    with pytest.raises(
        EcgforgeError,
        match=r"not supported: 12; the first, r00: .*FLAC: convert the record to format 16",
    ) as error:
        prepare({"own": source}, tmp_path / "out", PREPROCESSING, settings)
    assert "again" not in str(error.value)


# What may be written over


@pytest.mark.parametrize(
    "name", ["raw/own", "raw", "raw/own/new", "notes", "set_and_notes", "part_of_a_set", "."]
)
def test_prepare_writes_over_record_sets_alone(raw, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied(raw, tmp_path / "raw/own", [])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("the only copy")
    for folder in ("set_and_notes", "part_of_a_set", "set"):
        prepare({"own": raw}, Path(folder), PREPROCESSING, PREPARATION)
    (tmp_path / "set_and_notes/mine.txt").write_text("the only copy")
    (tmp_path / "part_of_a_set/signals.npy").unlink()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(EcgforgeError, match="name another folder|name a (new )?folder"):
        prepare_stage.prepare(None, [Path("raw/own")], Path(name)) if name.startswith(
            "raw"
        ) else prepare({"own": raw}, Path(name), PREPROCESSING, PREPARATION)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    prepare({"own": raw}, Path("set"), PREPROCESSING, PREPARATION)


# Interruptions


def test_a_full_disk_leaves_nothing(raw, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            prepare({"own": raw}, tmp_path / "out", PREPROCESSING, PREPARATION)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_the_older_set(raw, tmp_path, monkeypatch):
    prepare({"own": raw}, tmp_path / "out", PREPROCESSING, PREPARATION)
    before = md5(tmp_path / "out")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "prepare_recording", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare({"own": raw}, tmp_path / "out", PREPROCESSING, PREPARATION)
    assert md5(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


MANY = """
import sys

if __name__ == "__main__":  # workers start from this file too, and need none of it
    from pathlib import Path

    sys.path.insert(0, sys.argv[3])
    from test_prepare import PREPARATION, PREPROCESSING, a_catalogue, a_raw_source, prepare

    ids = [f"m{number}" for number in range(20_000)]
    source = a_raw_source(Path(sys.argv[1]), a_catalogue(ids, path="r00"))
    prepare({"own": source}, Path(sys.argv[2]), PREPROCESSING, PREPARATION, workers=2)
"""


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_kill_leaves_no_output_and_no_workers_and_a_second_run_completes(raw, tmp_path):
    script = tmp_path / "many.py"
    script.write_text(MANY)
    out = tmp_path / "prepared" / "own"
    process = psutil.Popen(
        [sys.executable, script, raw.folder, out, Path(__file__).parent], stderr=subprocess.DEVNULL
    )
    wait_for(lambda: process.io_counters().write_chars > 3e6)  # some 90 of 20,000 records
    workers = process.children()
    assert (out.parent / ".own.partial").exists()
    process.kill()
    process.wait()
    assert not out.exists()
    wait_for(
        lambda: (
            not any(
                worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
                for worker in workers
            )
        )
    )
    prepare({"own": raw}, out, PREPROCESSING, PREPARATION)
    assert len(RecordSet.open(out)) == 12
    assert [path.name for path in out.parent.iterdir()] == ["own"]
