"""Write synthetic records as WFDB files, with headers that say that they are synthetic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import wfdb

from ecgforge.errors import EcgforgeError
from ecgforge.records.leads import LEADS, STANDARD_LEADS, twelve_leads

GAIN = 1000  # steps of a WFDB sample per unit
LARGEST = 32.767  # units: samples have 16 bits, and the lowest value marks an invalid sample
SCALE = {
    "mV": "mV; III, aVR, aVL and aVF follow from I and II",
    "per_lead_std": "each lead in its standard deviations, not in mV",
}


def leads(units: str) -> Sequence[str]:
    """Return the leads of a file: the standard twelve in mV, or else the eight independent ones."""
    return STANDARD_LEADS if units == "mV" else LEADS


def comments(
    generator: str, simulated: bool, rhythm: str, units: str, seed: int, record_seed: int
) -> list[str]:
    """Return the comments of a header.

    Args:
        generator: the version that generated the record.
        simulated: whether it was trained on simulated patients.
        rhythm: the requested rhythm, with its rate if one was asked for.
        units: of the signals.
        seed: of the set.
        record_seed: of the record.
    """
    patients = "simulated patients" if simulated else "recorded patients"
    return [
        "SYNTHETIC ECG: made by a generator, not a recording of a patient",
        f"generator: {generator}, trained on {patients}",
        f"requested rhythm: {rhythm}",
        f"seed: {seed}, seed of this record: {record_seed}",
        f"units: {SCALE[units]}",
    ]


def write(
    folder: Path,
    name: str,
    signals: np.ndarray,
    units: str,
    sampling_rate: int,
    notes: Sequence[str],
) -> None:
    """Write a header and a signal file.

    Args:
        folder: an existing folder.
        name: of the record, without a suffix.
        signals: `[8, samples]` in `units`.
        units: `mV` or `per_lead_std`, see `leads`.
        sampling_rate: Hz.
        notes: the comments of the header.

    Raises:
        EcgforgeError: the signals are not finite, or exceed the range of a WFDB file.
    """
    if not np.abs(signals).max() <= LARGEST:  # also true for NaN
        raise EcgforgeError(
            f"the generated signals are not finite, or exceed {LARGEST} {units}: train the "
            "generator longer"
        )
    rows = twelve_leads(signals, units) if units == "mV" else signals
    count = len(rows)
    wfdb.wrsamp(
        name,
        sampling_rate,
        [units] * count,
        list(leads(units)),
        np.clip(rows, -LARGEST, LARGEST).T.astype(np.float64),
        fmt=["16"] * count,
        adc_gain=[GAIN] * count,
        baseline=[0] * count,
        comments=list(notes),
        write_dir=str(folder),
    )
