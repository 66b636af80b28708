"""DICOM ECG waveforms (DICOM PS3.3, A.34.3 and A.34.4), read by `pydicom`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from ecgforge.records.exclusions import BadRecord, Reason
from ecgforge.records.leads import LEADS
from ecgforge.wfdb_io.formats import KNOWN, Leads

# the last number of the codes of leads in the schemes MDC (2:1) and SCPECG (5.6.3-9-1)
NUMBERS = dict(enumerate(LEADS, start=1)) | {61: "III", 62: "aVR", 63: "aVL", 64: "aVF"}


def read(file: Path, seconds: float) -> Leads:
    """Read the standard leads of the first multiplex group; see `formats.read`."""
    opened = pydicom.dcmread(file)
    if "WaveformSequence" not in opened:
        raise BadRecord(Reason.NOT_SUPPORTED, "a DICOM file without a waveform")
    group = opened.WaveformSequence[0]
    rate = float(group.SamplingFrequency)
    samples = opened.waveform_array(0)  # [samples, channels]
    found = {}
    for row, channel in enumerate(group.ChannelDefinitionSequence):
        lead = _lead(channel.ChannelSourceSequence[0])
        if lead:
            found[lead] = row
    channels = [group.ChannelDefinitionSequence[row] for row in found.values()]
    kept = samples[: int(min(np.ceil(seconds * rate), len(samples))), list(found.values())]
    return Leads(
        np.array(kept.T, dtype=np.float64),
        rate,
        list(found),
        [str(one.ChannelSensitivityUnitsSequence[0].CodeValue) for one in channels],
        len(samples) / rate,
    )


def comments(file: Path) -> dict[str, str]:
    """Return patient, age, sex, and the statements of the annotations; see `formats.comments`."""
    opened = pydicom.dcmread(file, stop_before_pixels=True)
    said = [
        str(one.UnformattedTextValue)
        for one in opened.get("WaveformAnnotationSequence", [])
        if "UnformattedTextValue" in one
    ]
    age = re.fullmatch(r"0*(\d+)Y", str(opened.get("PatientAge", "")))
    found = {
        "patient": str(opened.get("PatientID", "")),
        "age": age[1] if age else "",
        "sex": str(opened.get("PatientSex", "")),
        "rhythm": ";".join(said),
    }
    return {key: value for key, value in found.items() if value and value != "O"}


def _lead(source: Any) -> str | None:
    """Return the lead of a code such as 2:1, or of a meaning such as `Lead I (Einthoven)`."""
    number = re.search(r"(\d+)$", str(source.get("CodeValue", "")))
    if number and str(source.get("CodingSchemeDesignator", "")) in ("MDC", "SCPECG"):
        return NUMBERS.get(int(number[1]))
    meaning = re.match(r"(?:LEAD\s+)?(\w+)", str(source.get("CodeMeaning", "")).upper())
    return KNOWN.get(meaning[1]) if meaning else None
