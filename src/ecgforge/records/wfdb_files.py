"""Reading WFDB records that others made: leads by name, and no trust in what a header says.

The wfdb library decodes; around it stand the checks that it leaves out: that files lie inside their folder, that they are
as long as the header says, and that the samples sum to the header's checksums.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from re import Match

import numpy as np
import wfdb
from wfdb.io.header import parse_header_content, rx_record, rx_signal

from ecgforge.records.exclusions import BadRecord, Reason
from ecgforge.records.leads import LEADS, STANDARD_LEADS, limb_residual

MILLIVOLTS = {"mV": 1.0, "mv": 1.0, "uV": 1e-3, "uv": 1e-3, "V": 1e3, "v": 1e3}
SAMPLE_BYTES = {"8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "24": 3, "32": 4, "212": 1.5}  # of each signal format that is read


@dataclass(frozen=True)
class Recording:
    """A record as published.

    Attributes:
        signals: float64 `[8, samples]`, in the order of `LEADS`, in `units`; NaN where the file marks a sample invalid.
        sampling_rate: Hz.
        units: `mV` for anything in volts; otherwise the header's word, such as `NU`.
        limb_residual: see `leads.limb_residual`; NaN where the other limb leads are not there or nothing is in volts.
    """

    signals: np.ndarray
    sampling_rate: float
    units: str
    limb_residual: float = math.nan


def read(folder: Path, path: str) -> Recording:
    """Read the eight independent leads of the record at `path`, relative to `folder` and without extension, as WFDB names records.

    Leads are found by their names, in any order and in upper or lower case.

    Raises:
        BadRecord: a file is missing, unreadable, truncated or outside `folder`; samples don't sum to the header's
            checksums; a lead is missing; leads are in different units.
    """
    try:
        record = _read_checked(folder.resolve(), path)
    except BadRecord:
        raise
    except Exception as error:  # wfdb raises whatever its parsing runs into: IndexError, AttributeError, ValueError and more
        told = str(error).replace(f"{folder.resolve()}/", "")
        raise BadRecord(Reason.UNREADABLE_FILE, f"{type(error).__name__}: {told}") from error
    signals = record.dac().T
    found = arranged(signals, float(record.fs), record.sig_name, record.units)
    return replace(found, limb_residual=_limb_residual(signals, record.sig_name, record.units))


def _limb_residual(signals: np.ndarray, names: Sequence[str | None], units: Sequence[str]) -> float:
    known = {name.upper(): name for name in STANDARD_LEADS}
    rows = {known[upper]: row for row, name in enumerate(names) if (upper := (name or "").strip().upper()) in known}
    if not all(units[row] in MILLIVOLTS for row in rows.values()):
        return math.nan
    return limb_residual({name: signals[row] * MILLIVOLTS[units[row]] for name, row in rows.items()})


def arranged(signals: np.ndarray, sampling_rate: float, leads: Sequence[str | None], units: Sequence[str]) -> Recording:
    """Pick the eight independent leads by their names, in any order and in upper or lower case, and turn volts of any size into mV.

    Args:
        signals: `[leads, samples]`.
        units: of each lead.

    Raises:
        BadRecord: a lead is missing or there twice; leads are in different units.
    """
    rows = _lead_rows(leads)
    found = {units[row] for row in rows}
    scales = {MILLIVOLTS.get(unit) for unit in found}
    if len(found) > 1 and None in scales:
        raise BadRecord(Reason.WRONG_UNITS, f"leads in different units: {', '.join(sorted(found))}")
    kept = signals.T[:, rows].T  # this order of memory decides the last bits of the sums that follow
    if None in scales:
        return Recording(kept, sampling_rate, found.pop())
    factors = np.array([MILLIVOLTS[units[row]] for row in rows])
    return Recording(kept * factors[:, None], sampling_rate, "mV")


def _read_checked(folder: Path, path: str) -> wfdb.Record:
    header = _inside(folder, Path(path).with_name(Path(path).name + ".hea"))
    _check_header(folder, header)
    record = wfdb.rdrecord(str(header.with_suffix("")), physical=False)
    _check_checksums(record)
    return record


def _inside(folder: Path, path: Path) -> Path:
    """Return the file that `path`, relative to the resolved `folder`, is: links resolved, there, and inside `folder`."""
    file = (folder / path).resolve()
    if not file.is_relative_to(folder):
        raise BadRecord(Reason.OUTSIDE_FOLDER, f"{path} leads out of it")
    if not file.is_file():
        raise BadRecord(Reason.MISSING_FILE, str(path))
    return file


def _beside(folder: Path, header: Path, name: str) -> Path:
    """Return the signal file that a header names; WFDB has it beside the header, and a name is no path."""
    if Path(name).name != name:
        raise BadRecord(Reason.OUTSIDE_FOLDER, f"{header.name} names the file {name}")
    return _inside(folder, header.parent.relative_to(folder) / name)


def _check_header(folder: Path, header: Path) -> None:
    """Check all that a header says before the wfdb library opens the files that it names."""
    lines, _ = parse_header_content(header.read_text(encoding="ascii", errors="ignore"))
    first = rx_record.match(lines[0]) if lines else None
    if first is None:
        raise BadRecord(Reason.UNREADABLE_FILE, "header without a record line")
    if first["n_seg"]:
        raise BadRecord(Reason.UNREADABLE_FILE, "records of several segments are not read")
    if int(first["n_sig"]) != len(lines) - 1:
        raise BadRecord(Reason.UNREADABLE_FILE, f"header announces {first['n_sig']} leads and describes {len(lines) - 1}")
    if first["fs"] and not float(first["fs"]) > 0:
        raise BadRecord(Reason.UNREADABLE_FILE, f"sampling rate {first['fs']} Hz")
    # Looked at before wfdb's own pattern, which knows no slashes and would call a way out of the folder a syntax error.
    files = {name: _beside(folder, header, name) for name in {line.split()[0] for line in lines[1:]}}
    signals: defaultdict[Path, list[Match[str]]] = defaultdict(list)
    for line in lines[1:]:
        signal = rx_signal.match(line)
        if signal is None:
            raise BadRecord(Reason.UNREADABLE_FILE, f"header line '{line}'")
        signals[files[line.split()[0]]].append(signal)
    for file, group in signals.items():
        _check_length(file, group, int(first["sig_len"] or 0))


def _check_length(file: Path, signals: list[Match[str]], samples: int) -> None:
    for signal in signals:
        if signal["fmt"] not in SAMPLE_BYTES:
            raise BadRecord(Reason.UNREADABLE_FILE, f"signal format {signal['fmt']} is not read")
        if int(signal["samps_per_frame"] or 1) != 1 or int(signal["skew"] or 0) != 0:
            raise BadRecord(Reason.UNREADABLE_FILE, "leads of different rates or skewed leads are not read")
    expected = int(signals[0]["byte_offset"] or 0) + math.ceil(samples * len(signals) * SAMPLE_BYTES[signals[0]["fmt"]])
    if file.stat().st_size < expected:
        raise BadRecord(Reason.TRUNCATED_FILE, f"{file.name} has {file.stat().st_size} bytes of {expected}")


def _check_checksums(record: wfdb.Record) -> None:
    # A header holds the sum's low 16 bits, signed or unsigned.
    for name, found, published in zip(record.sig_name, record.calc_checksum(), record.checksum, strict=True):
        if published is not None and (found - published) % 65536:
            raise BadRecord(Reason.CHECKSUM_MISMATCH, f"lead {name}: samples sum to {found}, header says {published % 65536}")


def _lead_rows(names: Sequence[str | None]) -> list[int]:
    found = [(name or "").strip().upper() for name in names]
    for lead in LEADS:
        if found.count(lead) != 1:
            raise BadRecord(Reason.MISSING_LEAD, f"{found.count(lead)} leads named {lead} among {', '.join(found)}")
    return [found.index(lead) for lead in LEADS]
