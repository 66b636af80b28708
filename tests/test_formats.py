"""EDF and DICOM files are read as WFDB files are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgforge import wfdb_io
from ecgforge.commands.classify_records import records_in
from ecgforge.params import FolderSource
from ecgforge.records.exclusions import BadRecord, Reason
from ecgforge.records.leads import LEADS, STANDARD_LEADS, twelve_leads
from ecgforge.sources import folder
from ecgforge.sources.own_table import headers
from ecgforge.wfdb_io import files, formats
from test_init import record

RATE, SECONDS = 500, 12
CODES = {"I": 1, "II": 2, "III": 61, "aVR": 62, "aVL": 63, "aVF": 64} | {
    f"V{number}": number + 2 for number in range(1, 7)
}


@pytest.fixture(scope="module")
def signals() -> np.ndarray:
    """`[12, samples]`, in mV."""
    independent = np.random.default_rng(0).standard_normal((8, RATE * SECONDS))
    return twelve_leads(independent, "mV")


def write_edf(
    file: Path, signals: np.ndarray, names: Sequence[str], rates: Sequence[float] = (), **more: Any
) -> None:
    edfio = pytest.importorskip("edfio")
    file.parent.mkdir(parents=True, exist_ok=True)
    rates = rates or [RATE] * len(names)
    rows = [
        edfio.EdfSignal(1000 * row, rate, label=name, physical_dimension="uV")
        for row, name, rate in zip(signals, names, rates, strict=True)
    ]
    edfio.Edf(rows, patient=edfio.Patient(**more)).write(file)


def write_dicom(
    file: Path, signals: np.ndarray, names: Sequence[str], scheme: str = "MDC", **more: Any
) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence as Items
    from pydicom.uid import ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage, generate_uid

    def coded(**values: str) -> Any:
        item = Dataset()
        for key, value in values.items():
            setattr(item, key, value)
        return item

    channels = []
    for name in names:
        channel = Dataset()
        source = (
            {"CodeValue": f"2:{CODES[name]}", "CodingSchemeDesignator": "MDC", "CodeMeaning": ""}
            if scheme == "MDC"
            else {
                "CodeValue": "x",
                "CodingSchemeDesignator": "99A",
                "CodeMeaning": f"Lead {name} (a)",
            }
        )
        channel.ChannelSourceSequence = Items([coded(**source)])
        channel.ChannelSensitivity, channel.ChannelBaseline = "2.5", "0"
        channel.ChannelSensitivityCorrectionFactor = "1"
        channel.ChannelSensitivityUnitsSequence = Items([coded(CodeValue="uV")])
        channel.WaveformBitsStored = 16
        channels.append(channel)
    group = Dataset()
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = len(names), signals.shape[1]
    group.SamplingFrequency = str(RATE)
    group.ChannelDefinitionSequence = Items(channels)
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.WaveformData = np.round(signals.T * 1000 / 2.5).astype("<i2").tobytes()
    opened = Dataset()
    opened.WaveformSequence = Items([group])
    for key, value in more.items():
        setattr(opened, key, value)
    opened.file_meta = FileMetaDataset()
    opened.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    opened.SOPClassUID = opened.file_meta.MediaStorageSOPClassUID = TwelveLeadECGWaveformStorage
    opened.SOPInstanceUID = opened.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(file, opened, enforce_file_format=True)


def expected(signals: np.ndarray) -> np.ndarray:
    return signals[[STANDARD_LEADS.index(lead) for lead in LEADS]]


@pytest.mark.parametrize("prefix", ["", "ECG ", "EKG-"])
def test_an_edf_file_is_read(tmp_path: Path, signals: np.ndarray, prefix: str) -> None:
    order = [*range(11, -1, -1)]
    names = [f"{prefix}{STANDARD_LEADS[row]}" for row in order]
    write_edf(tmp_path / "ward/a.edf", signals[order], names)
    found = files.read(tmp_path, "ward/a")
    np.testing.assert_allclose(found.signals, expected(signals), atol=2e-4)
    assert (found.sampling_rate, found.units, found.seconds) == (RATE, "mV", SECONDS)
    assert found.limb_residual < 1e-3
    assert files.read(tmp_path, "ward/a", 10).signals.shape == (8, 11 * RATE)


@pytest.mark.parametrize("scheme", ["MDC", "words"])
def test_a_dicom_file_is_read(tmp_path: Path, signals: np.ndarray, scheme: str) -> None:
    write_dicom(tmp_path / "a.dcm", signals, STANDARD_LEADS, scheme)
    found = files.read(tmp_path, "a")
    np.testing.assert_allclose(found.signals, expected(signals), atol=2e-3)
    assert (found.sampling_rate, found.units, found.seconds) == (RATE, "mV", SECONDS)


def test_files_of_several_formats_are_one_source(tmp_path: Path, signals: np.ndarray) -> None:
    home = tmp_path / "ecgs"
    record(home, "a")
    write_edf(home / "b.edf", signals, STANDARD_LEADS)
    write_dicom(home / "deep/c.dcm", signals, STANDARD_LEADS)
    assert headers(home) == ["a", "b", "deep/c"]
    (home / "t.csv").write_text("record,patient,rhythm\na,1,SR\nb.edf,2,SB\ndeep/c.dcm,3,ST\n")
    source = FolderSource(kind="folder", layout="folder", path=str(home), table="t.csv")
    folder.fetch(tmp_path / "raw", source)
    paths = folder.catalogue(tmp_path / "raw")["path"].tolist()
    assert paths == ["a", "b", "deep/c"]
    read = [files.read(tmp_path / "raw", path, 10) for path in paths]
    assert [one.signals.shape[0] for one in read] == [8, 8, 8]
    assert records_in([home / "b.edf"]) == [(home, "b")]
    assert records_in([home]) == [(home, path) for path in paths]


def test_a_record_can_be_named_by_each_of_its_files(tmp_path: Path) -> None:
    record(tmp_path, "a")
    assert records_in([tmp_path / name for name in ("a", "a.hea", "a.dat")]) == [(tmp_path, "a")]
    (tmp_path / "a.dat.hea").touch()
    assert records_in([tmp_path / "a.dat"]) == [(tmp_path, "a.dat")]
    assert records_in([tmp_path / "b.dat"]) == [(tmp_path, "b.dat")], "its reason names the file"


def test_a_wfdb_record_comes_before_others(tmp_path: Path, signals: np.ndarray) -> None:
    write_edf(tmp_path / "a.edf", signals, STANDARD_LEADS)
    record(tmp_path, "a", rate=250)
    assert files.read(tmp_path, "a").sampling_rate == 250


def test_a_file_says_whose_it_is(tmp_path: Path, signals: np.ndarray) -> None:
    write_edf(tmp_path / "b.edf", signals, STANDARD_LEADS, code="P7", sex="F")
    assert formats.comments(tmp_path / "b.edf") == {"patient": "P7", "sex": "F"}
    write_dicom(tmp_path / "c.dcm", signals, STANDARD_LEADS, PatientID="8", PatientAge="061Y")
    assert formats.comments(tmp_path / "c.dcm") == {"patient": "8", "age": "61"}


def test_a_file_that_cannot_be_read_has_its_reason(tmp_path: Path, signals: np.ndarray) -> None:
    write_edf(tmp_path / "few.edf", signals[:3], STANDARD_LEADS[:3])
    write_edf(tmp_path / "none.edf", signals[:2], ["EEG Fz", "Resp"])
    mixed = [RATE] * 11 + [RATE / 2]
    rows = [*signals[:11], signals[11, ::2]]
    write_edf(tmp_path / "mixed.edf", rows, STANDARD_LEADS, mixed)  # type: ignore[arg-type]
    for name in ("broken.edf", "broken.dcm"):
        (tmp_path / name).write_bytes(b"\0" * 300)
    for path, reason in (
        ("few", Reason.MISSING_LEAD),
        ("none", Reason.MISSING_LEAD),
        ("mixed", Reason.NOT_SUPPORTED),
        ("broken", Reason.UNREADABLE_FILE),
    ):
        with pytest.raises(BadRecord) as bad:
            files.read(tmp_path, path)
        assert bad.value.reason == reason, path
    (tmp_path / "broken.edf").unlink()
    with pytest.raises(BadRecord) as bad:
        files.read(tmp_path, "broken")
    assert bad.value.reason == Reason.UNREADABLE_FILE
    assert formats.comments(tmp_path / "broken.dcm") == {}


@pytest.mark.parametrize(("name", "package"), [("a.edf", "edfio"), ("a.dcm", "pydicom")])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    module = "edf" if package == "edfio" else "dicom"
    monkeypatch.delitem(sys.modules, f"ecgforge.wfdb_io.{module}", raising=False)
    monkeypatch.delattr(wfdb_io, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadRecord, match=f"{package} is not installed.*pip install edfio pydicom"):
        files.read(tmp_path, "a")


def test_no_path_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.edf").write_bytes(b"")
    (tmp_path / "home").mkdir()
    assert formats.file_of(tmp_path / "home", "../a") is None
    assert formats.file_of(tmp_path / "home", str(tmp_path / "a")) is None
    assert formats.file_of(tmp_path, "a") == tmp_path / "a.edf"
