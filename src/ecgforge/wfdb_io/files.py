"""Reading WFDB records that others made: leads by name, and no trust in what a header says.

Files are named beside their header, as long as the header says, and their samples sum to the
header's checksums. Only the samples that are asked for are kept, and the others pass through in
blocks, so that memory does not grow with a record's length.
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
from ecgforge.wfdb_io.header import SAMPLE_BYTES, Header, Signal, parse

MILLIVOLTS = {"mV": 1.0, "mv": 1.0, "uV": 1e-3, "uv": 1e-3, "V": 1e3, "v": 1e3}
# the micro sign, and the Greek letter
MILLIVOLTS |= {f"{micro}{volt}": 1e-3 for micro in "\u00b5\u03bc" for volt in "Vv"}
MAX_RATE = 10_000  # Hz; beyond any recorder
BLOCK = 2**19  # samples, of all leads together, that are decoded at a time
TYPES = {"8": "i1", "80": "u1", "16": "<i2", "61": ">i2", "160": "<u2", "32": "<i4"}
MIDDLE = {"80": 2**7, "160": 2**15}  # what stands for 0 in formats without a sign
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
        signals: float64 `[8, samples]`, in the order of `LEADS`, in `units`; NaN where the file
            marks a sample invalid.
        sampling_rate: Hz.
        units: `mV` for anything in volts; otherwise the header's word, such as `NU`.
        limb_residual: see `leads.limb_residual`; NaN where the other limb leads are not there or
            nothing is in volts.
        seconds: how long the whole record is, of which `signals` may be the beginning.
    """

    signals: np.ndarray
    sampling_rate: float
    units: str
    limb_residual: float = math.nan
    seconds: float = math.nan


def read(folder: Path, path: str, duration: float | None = None) -> Recording:
    """Read the eight independent leads of the record at `path`, relative to `folder` and without
    extension, as WFDB names records.

    Leads are found by their names, in any order and in upper or lower case. A path and a name in a
    header cannot leave `folder`; links that somebody put there are followed.

    Args:
        duration: keep the first so many seconds; None keeps all.

    Raises:
        BadRecord: a file is missing, unreadable, truncated or named outside `folder`; samples don't
            sum to the header's checksums; a lead is missing; leads are in different units; the
            record is of a kind that is not read.
    """
    try:
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
        raise BadRecord(Reason.UNREADABLE_FILE, "it takes more memory than there is") from None
    names, units = (
        [signal.name for signal in header.signals],
        [signal.units for signal in header.signals],
    )
    signals = _physical(samples, header.signals).T
    found = arranged(signals, header.sampling_rate, names, units)
    return replace(
        found,
        limb_residual=_limb_residual(signals, names, units),
        seconds=frames / header.sampling_rate,
    )


def verify(folder: Path, path: str) -> list[str]:
    """Return the names of a record's files, relative to `folder`, once each is known to be what the
    header says, by its checksums.

    Raises:
        BadRecord: one is not, or the header has no checksums.
        OSError: a file cannot be read.
    """
    place = _inside(folder, path)
    header = parse(place)
    if any(signal.checksum is None for signal in header.signals):
        raise BadRecord(Reason.CHECKSUM_MISMATCH, "the header has no checksums")
    _samples(place.parent, header, 0)
    beside = PurePosixPath(path).parent
    return [
        f"{path}.hea",
        *dict.fromkeys((beside / signal.file).as_posix() for signal in header.signals),
    ]


def _in_words(error: OSError) -> str:
    name = f"{Path(str(error.filename)).name[:80]}: " if error.filename else ""
    return f"{name}{error.strerror or 'the disk does not give it'}"


def _inside(folder: Path, path: str) -> Path:
    """Return the header of the record at `path`, which may not lead out of `folder`."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in path:
        raise BadRecord(Reason.OUTSIDE_FOLDER, f"{path} leads out of it")
    header = folder / f"{path}.hea"
    if not header.is_file():
        raise BadRecord(Reason.MISSING_FILE, f"{path}.hea")
    return header


def _samples(folder: Path, header: Header, kept: float) -> tuple[np.ndarray, int]:
    """Return the first `kept` digital samples, `[samples, leads]`, and how many there are, once all
    sum to the checksums.
    """
    files: defaultdict[str, list[int]] = defaultdict(list)
    for row, signal in enumerate(header.signals):
        files[signal.file].append(row)
    frames = _frames(folder, header, files)
    kept = int(min(kept, frames))
    samples = np.empty((kept, len(header.signals)), dtype=np.int64)
    for name, rows in files.items():
        signals = [header.signals[row] for row in rows]
        told = [signal.checksum for signal in signals]
        needed = frames if any(checksum is not None for checksum in told) else kept
        sums = np.zeros(len(rows), dtype=np.int64)
        for start, block in _blocks(folder / name, signals, needed):
            sums += block.sum(axis=0)
            part = block[: max(0, kept - start)]
            samples[start : start + len(part), rows] = part
        _check_sums(signals, sums)
    return samples, frames


def _frames(folder: Path, header: Header, files: dict[str, list[int]]) -> int:
    """Return how many samples each lead has, once every file is known to be there, of one format,
    and long enough.
    """
    lengths = []
    for name, rows in files.items():
        file, first = folder / name, header.signals[rows[0]]
        if not file.is_file():
            raise BadRecord(Reason.MISSING_FILE, name)
        if len({header.signals[row].format for row in rows}) > 1:
            raise BadRecord(Reason.UNREADABLE_FILE, f"{name} is said to be of several formats")
        size, frame = file.stat().st_size, len(rows) * SAMPLE_BYTES[first.format]
        expected = first.offset + math.ceil(header.samples * frame)
        if size < expected:
            raise BadRecord(Reason.TRUNCATED_FILE, f"{name} has {size} bytes of {expected}")
        lengths.append(int((size - first.offset) / frame))
    return header.samples or min(lengths)


def _blocks(file: Path, signals: Sequence[Signal], frames: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the digital samples of a file, block by block, each with the place of its first one:

    `[samples, leads]`.
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
            block = _decoded(content, kind, count).reshape(-1, leads)
            if kind == "8":  # differences
                block = last + block.cumsum(axis=0)
                last = block[-1]
            yield start, block


def _decoded(content: bytes, kind: str, count: int) -> np.ndarray:
    """Return `count` samples of a signal format, int64."""
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
    return np.frombuffer(content, TYPES[kind]).astype(np.int64) - MIDDLE.get(kind, 0)


def _check_sums(signals: Sequence[Signal], sums: np.ndarray) -> None:
    # A header holds the sum's low 16 bits, signed or unsigned.
    for signal, found in zip(signals, sums.tolist(), strict=True):
        if signal.checksum is not None and (found - signal.checksum) % 65536:
            told = (
                f"lead {signal.name}: samples sum to {found % 65536}, header says "
                f"{signal.checksum % 65536}"
            )
            raise BadRecord(Reason.CHECKSUM_MISMATCH, told)


def _physical(samples: np.ndarray, signals: Sequence[Signal]) -> np.ndarray:
    """Return samples in their units, `[samples, leads]` float64, NaN where the file marks them
    invalid.
    """
    invalid = np.array([INVALID.get(signal.format, np.iinfo(np.int64).min) for signal in signals])
    values = samples.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        values -= np.array([signal.baseline for signal in signals], dtype=np.float64)
        values /= np.array([signal.gain for signal in signals])
    values[samples == invalid] = np.nan
    return values


def _limb_residual(signals: np.ndarray, names: Sequence[str], units: Sequence[str]) -> float:
    known = {name.upper(): name for name in STANDARD_LEADS}
    rows = {
        known[upper]: row
        for row, name in enumerate(names)
        if (upper := name.strip().upper()) in known
    }
    if not all(units[row] in MILLIVOLTS for row in rows.values()):
        return math.nan
    return limb_residual(
        {name: signals[row] * MILLIVOLTS[units[row]] for name, row in rows.items()}
    )


def arranged(
    signals: np.ndarray, sampling_rate: float, leads: Sequence[str], units: Sequence[str]
) -> Recording:
    """Pick the eight independent leads by their names, in any order and in upper or lower case, and
    turn volts of any size into mV.

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
        raise BadRecord(Reason.WRONG_UNITS, f"leads in different units: {_few(sorted(found))}")
    # this order of memory decides the last bits of the sums that follow
    kept = signals.T[:, rows].T
    if None in scales:
        return Recording(kept, sampling_rate, found.pop())
    factors = np.array([MILLIVOLTS[units[row]] for row in rows])
    return Recording(kept * factors[:, None], sampling_rate, "mV")


def _lead_rows(names: Sequence[str]) -> list[int]:
    found = [name.strip().upper() for name in names]
    for lead in LEADS:
        if found.count(lead) != 1:
            raise BadRecord(
                Reason.MISSING_LEAD, f"{found.count(lead)} leads named {lead} among {_few(found)}"
            )
    return [found.index(lead) for lead in LEADS]


def _few(words: Sequence[str]) -> str:
    """The first of many words, each of them cut where it is long."""
    return ", ".join(word[:40] for word in words[:20]) + (
        f" and {len(words) - 20} more" if len(words) > 20 else ""
    )
