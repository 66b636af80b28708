"""EDF and EDF+ files (Kemp & Olivan, Clin Neurophysiol 114:1755, 2003), read by `edfio`."""

from __future__ import annotations

import re
from pathlib import Path

import edfio
import numpy as np

from ecgforge.records.exclusions import BadRecord, Reason
from ecgforge.wfdb_io.formats import KNOWN, Leads


def read(file: Path, seconds: float) -> Leads:
    """Read the standard leads; see `formats.read`. Labels are such as `I`, `ECG I` or `EKG V1`."""
    opened = edfio.read_edf(file, lazy_load_data=True)
    if not opened.is_continuous:
        raise BadRecord(Reason.NOT_SUPPORTED, "an EDF+D file, which has gaps")
    found = {lead: signal for signal in opened.signals if (lead := _lead(signal.label)) is not None}
    rates = {signal.sampling_frequency for signal in found.values()}
    if not found:
        labels = ", ".join(signal.label for signal in opened.signals)[:100]
        raise BadRecord(Reason.MISSING_LEAD, f"no label of a lead among {labels}")
    if len(rates) > 1:
        raise BadRecord(Reason.NOT_SUPPORTED, "leads with different sampling rates")
    stop = min(seconds, opened.duration)
    return Leads(
        np.stack([signal.get_data_slice(0, stop) for signal in found.values()]),
        float(rates.pop()),
        list(found),
        [signal.physical_dimension for signal in found.values()],
        float(opened.duration),
    )


def comments(file: Path) -> dict[str, str]:
    """Return patient and sex, if known; see `formats.comments`."""
    patient = edfio.read_edf(file, lazy_load_data=True).patient
    found = {"patient": patient.code, "sex": patient.sex}
    return {key: value for key, value in found.items() if value and value != "X"}


def _lead(label: str) -> str | None:
    return KNOWN.get(re.sub(r"^(ECG|EKG|LEAD)[ _-]*", "", label.strip().upper()))
