"""A reader of untrusted WFDB records, with leads by name.

It checks that signal files are in the folder of their header, that their lengths match the header,
and that their samples sum to the header's checksums. It decodes files in blocks and keeps only the
requested samples, so that memory does not grow with the length of a record.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from ecgforge.records.exclusions import BadRecord, Reason
from ecgforge.records.leads import LEADS, STANDARD_LEADS, limb_residual
from ecgforge.wfdb_io import formats
from ecgforge.wfdb_io.header import SAMPLE_BYTES, Header, Signal, parse

MILLIVOLTS = {"mV": 1.0, "mv": 1.0, "uV": 1e-3, "uv": 1e-3, "V": 1e3, "v": 1e3}
# the micro sign, and the Greek letter
MILLIVOLTS |= {f"{micro}{volt}": 1e-3 for micro in "\u00b5\u03bc" for volt in "Vv"}
MAX_RATE = 10_000  # Hz; higher than any recorder's
BLOCK = 2**19  # samples of all leads that are decoded at a time
TYPES = {"8": "i1", "80": "u1", "16": "<i2", "61": ">i2", "160": "<u2", "32": "<i4"}
MIDDLE = {"80": 2**7, "160": 2**15}  # the value of 0 in unsigned formats
INVALID = {
    "80": -(2**7),
    "212": -(2**11),
    "16": -(2**15),
    "61": -(2**15),
    "160": -(2**15),
    "24": -(2**23),
    "32": -(2**31),
}


@dataclass(frozen=True)
class Recording:
    """A record as published.

    Attributes:
        signals: float64 `[8, samples]`, in the order of `LEADS`, in `units`; invalid samples are
            NaN.
        sampling_rate: Hz.
        units: `mV` for all units of volts; otherwise the unit of the header, such as `NU`.
        limb_residual: see `leads.limb_residual`; NaN without other limb leads, or if the units are
            not volts.
        seconds: length of the full record; `signals` can be its start.
    """

    signals: np.ndarray
    sampling_rate: float
    units: str
    limb_residual: float = math.nan
    seconds: float = math.nan


def read(folder: Path, path: str, duration: float | None = None) -> Recording:
    """Read the eight independent leads of the record at `path`, relative to `folder` and without
    extension, as WFDB names records. A record without a header can be an EDF or DICOM file.

    Leads are found by name, in any order, in upper or lower case. Paths cannot leave `folder`;
    links in it are followed.

    Args:
        folder: the folder of the records.
        path: the record in it.
        duration: seconds to keep; None keeps all.

    Raises:
        BadRecord: a file is missing, unreadable, truncated or outside `folder`; samples do not sum
            to the header's checksums; a lead is missing; leads have different units; or the kind of
            record is not supported.
    """
    try:
        if other := formats.file_of(folder, path):
            return _other(formats.read(other, math.inf if duration is None else duration + 1))
        place = _inside(folder, path)
        header = parse(place)
        kept = (
            math.inf
            if duration is None
            else math.ceil(duration * min(header.sampling_rate, MAX_RATE)) + 1
        )
        samples, frames = _samples(place.parent, header, kept)
    except OSError as error:
        raise BadRecord(Reason.UNREADABLE_FILE, _in_words(error)) from None
    except MemoryError:
        raise BadRecord(Reason.UNREADABLE_FILE, "it does not fit in memory") from None
    names, units = (
        [signal.name for signal in header.signals],
        [signal.units for signal in header.signals],
    )
    signals = _physical(samples, header.signals)
    found = arranged(signals, header.sampling_rate, names, units)
    return replace(
        found,
        limb_residual=_limb_residual(signals, names, units),
        seconds=frames / header.sampling_rate,
    )


def _other(leads: formats.Leads) -> Recording:
    """Return the leads of an EDF or DICOM file as a recording."""
    found = arranged(leads.signals, leads.sampling_rate, leads.names, leads.units)
    return replace(
        found,
        limb_residual=_limb_residual(leads.signals, leads.names, leads.units),
        seconds=leads.seconds,
    )


def verify(folder: Path, path: str) -> list[str]:
    """Check a record's files against the checksums of its header.

    Returns:
        Their names, relative to `folder`.

    Raises:
        BadRecord: a file does not match, or the header has no checksums.
        OSError: a file cannot be read.
    """
    place = _inside(folder, path)
    header = parse(place)
    if any(signal.checksum is None for signal in header.signals):
        raise BadRecord(Reason.CHECKSUM_MISMATCH, "the header has no checksums")
    _samples(place.parent, header, 0)
    parent = PurePosixPath(path).parent
    return [
        f"{path}.hea",
        *dict.fromkeys((parent / signal.file).as_posix() for signal in header.signals),
    ]


def _in_words(error: OSError) -> str:
    name = f"{Path(str(error.filename)).name[:80]}: " if error.filename else ""
    return f"{name}{error.strerror or 'the disk does not give it'}"


def _inside(folder: Path, path: str) -> Path:
    """Return the header of the record at `path`, which must be in `folder`."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
        raise BadRecord(Reason.OUTSIDE_FOLDER, f"{path} leads out of it")
    header = folder / f"{path}.hea"
    if not header.is_file():
        raise BadRecord(Reason.MISSING_FILE, f"{path}.hea")
    return header


def _samples(folder: Path, header: Header, kept: float) -> tuple[np.ndarray, int]:
    """Return the first `kept` digital samples, `[leads, samples]` float64, and the number of all
    samples; check the checksums of all.
    """
    files: defaultdict[str, list[int]] = defaultdict(list)
    for row, signal in enumerate(header.signals):
        files[signal.file].append(row)
    frames = _frames(folder, header, files)
    kept = int(min(kept, frames))
    # each digital value is exact in float64
    samples = np.empty((len(header.signals), kept))
    for name, rows in files.items():
        signals = [header.signals[row] for row in rows]
        checksums = [signal.checksum for signal in signals]
        needed = frames if any(checksum is not None for checksum in checksums) else kept
        sums = np.zeros(len(rows), dtype=np.int64)
        for start, block in _blocks(folder / name, signals, needed):
            sums += block.sum(axis=1, dtype=np.int64)
            part = block[:, : max(0, kept - start)]
            samples[rows, start : start + part.shape[1]] = part
        _check_sums(signals, sums)
    return samples, frames


def _frames(folder: Path, header: Header, files: dict[str, list[int]]) -> int:
    """Return the number of samples of each lead; check that each file exists, has one format, and
    is long enough.
    """
    lengths = []
    for name, rows in files.items():
        file, first = folder / name, header.signals[rows[0]]
        if not file.is_file():
            raise BadRecord(Reason.MISSING_FILE, name)
        if len({header.signals[row].format for row in rows}) > 1:
            raise BadRecord(Reason.UNREADABLE_FILE, f"{name} has several formats in the header")
        size, frame = file.stat().st_size, len(rows) * SAMPLE_BYTES[first.format]
        expected = first.offset + math.ceil(header.samples * frame)
        if size < expected:
            raise BadRecord(Reason.TRUNCATED_FILE, f"{name} has {size} bytes of {expected}")
        lengths.append(int((size - first.offset) / frame))
    return header.samples or min(lengths)


def _blocks(file: Path, signals: Sequence[Signal], frames: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield blocks of a file's digital samples, `[leads, samples]`, each with the position of its
    first sample.
    """
    kind, leads = signals[0].format, len(signals)
    step = max(2, BLOCK // leads // 2 * 2)  # even, since two samples of format 212 share a byte
    last = np.array([signal.initial for signal in signals], dtype=np.int64)
    with file.open("rb") as opened:
        opened.seek(signals[0].offset)
        for start in range(0, frames, step):
            count = min(step, frames - start) * leads
            content = opened.read(math.ceil(count * SAMPLE_BYTES[kind]))
            if len(content) < count * SAMPLE_BYTES[kind]:
                raise BadRecord(
                    Reason.TRUNCATED_FILE, f"{file.name} became shorter while it was read"
                )
            block = np.ascontiguousarray(_decoded(content, kind, count).reshape(-1, leads).T)
            if kind == "8":  # differences
                block = last[:, None] + block.cumsum(axis=1, dtype=np.int64)
                last = block[:, -1]
            yield start, block


def _decoded(content: bytes, kind: str, count: int) -> np.ndarray:
    """Return `count` samples of a signal format, in an integer type that holds them."""
    if kind == "212":
        triples = (
            np.frombuffer(content.ljust(-(-len(content) // 3) * 3, b"\0"), np.uint8)
            .astype(np.int64)
            .reshape(-1, 3)
        )
        low, middle, high = triples.T
        values = np.stack([low + 256 * (middle & 15), high + 256 * (middle >> 4)], axis=1).reshape(
            -1
        )[:count]
        return values - 4096 * (values > 2047)
    if kind == "24":
        low, middle, high = np.frombuffer(content, np.uint8).astype(np.int64).reshape(-1, 3).T
        values = low + 256 * middle + 65536 * high
        return values - 2**24 * (values >= 2**23)
    values = np.frombuffer(content, TYPES[kind])
    return values.astype(np.int64) - MIDDLE[kind] if kind in MIDDLE else values


def _check_sums(signals: Sequence[Signal], sums: np.ndarray) -> None:
    # The header has the low 16 bits of the sum, signed or unsigned.
    for signal, found in zip(signals, sums.tolist(), strict=True):
        if signal.checksum is not None and (found - signal.checksum) % 65536:
            detail = (
                f"lead {signal.name}: samples sum to {found % 65536}, header says "
                f"{signal.checksum % 65536}"
            )
            raise BadRecord(Reason.CHECKSUM_MISMATCH, detail)


def _physical(samples: np.ndarray, signals: Sequence[Signal]) -> np.ndarray:
    """Convert samples, `[leads, samples]`, to their units, in place; invalid ones become NaN."""
    invalid = np.array([[INVALID.get(signal.format, math.nan)] for signal in signals])
    samples[samples == invalid] = math.nan
    with np.errstate(over="ignore", invalid="ignore"):
        samples -= np.array([[float(signal.baseline)] for signal in signals])
        samples /= np.array([[signal.gain] for signal in signals])
    return samples


def _limb_residual(signals: np.ndarray, names: Sequence[str], units: Sequence[str]) -> float:
    known = {name.upper(): name for name in STANDARD_LEADS}
    rows = {
        known[upper]: row
        for row, name in enumerate(names)
        if (upper := name.strip().upper()) in known
    }
    if not all(units[row] in MILLIVOLTS for row in rows.values()):
        return math.nan
    kept = [*rows.values()]
    return limb_residual(
        dict(zip(rows, _millivolts(signals[kept], [units[row] for row in kept]), strict=True))
    )


def _millivolts(signals: np.ndarray, units: Sequence[str]) -> np.ndarray:
    """Return leads of any volts, `[leads, samples]`, in mV; not a copy if they are in mV."""
    factors = np.array([[MILLIVOLTS[unit]] for unit in units])
    return signals if (factors == 1).all() else signals * factors


def arranged(
    signals: np.ndarray, sampling_rate: float, leads: Sequence[str], units: Sequence[str]
) -> Recording:
    """Select the eight independent leads by name, in any order and case, and convert all units of
    volts to mV.

    Args:
        signals: `[leads, samples]`.
        sampling_rate: Hz.
        leads: name of each lead.
        units: of each lead.

    Raises:
        BadRecord: a lead is missing or duplicate, or leads have different units.
    """
    rows = _lead_rows(leads)
    found = {units[row] for row in rows}
    scales = {MILLIVOLTS.get(unit) for unit in found}
    if len(found) > 1 and None in scales:
        raise BadRecord(Reason.WRONG_UNITS, f"leads in different units: {_few(sorted(found))}")
    kept = signals[rows]
    if None in scales:
        return Recording(kept, sampling_rate, found.pop())
    return Recording(_millivolts(kept, [units[row] for row in rows]), sampling_rate, "mV")


def _lead_rows(names: Sequence[str]) -> list[int]:
    found = [name.strip().upper() for name in names]
    for lead in LEADS:
        if found.count(lead) != 1:
            raise BadRecord(
                Reason.MISSING_LEAD, f"{found.count(lead)} leads named {lead} among {_few(found)}"
            )
    return [found.index(lead) for lead in LEADS]


def _few(words: Sequence[str]) -> str:
    """Join the first words, each truncated."""
    return ", ".join(word[:40] for word in words[:20]) + (
        f" and {len(words) - 20} more" if len(words) > 20 else ""
    )
