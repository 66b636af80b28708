"""A parser of untrusted WFDB headers: header(5) of the WFDB applications guide.

The wfdb library's own parser drops non-ASCII letters, rejects some dates, accepts a gain of 0, and
opens file names as URLs. This parser keeps only the fields that are needed to read a record, and
gives a reason for each invalid header.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ecgforge.records.exclusions import BadRecord, Reason

LARGEST = 1_000_000  # bytes of a header; the longest published ones have some thousand bytes
DIGITS = 15  # maximum of a number; more than any field needs
DEFAULT_RATE = 250.0  # Hz, of a header without a rate
UNCALIBRATED = "uncalibrated (gain 0)"
# of each supported signal format
SAMPLE_BYTES = {"8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "24": 3, "32": 4, "212": 1.5}
KNOWN_FORMATS = {
    "310": "packed 10 bits",
    "311": "packed 10 bits",
    "508": "FLAC",
    "516": "FLAC",
    "524": "FLAC",
}
CONVERT = "convert the record to format 16 with `xform` or `wfdb.wrsamp`"

_RATE = re.compile(r"(?P<rate>\d++\.?\d*+|\.\d++)(?:/\S*)?")
# Possessive quantifiers prevent backtracking on long lines.
_SIGNAL = re.compile(
    r"""(?P<format>\d++)(?:x(?P<per_frame>\d++))?(?::(?P<skew>\d++))?(?:\+(?P<offset>\d++))?
    (?:\s++(?P<gain>[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?)(?:\((?P<baseline>[-+]?\d++)\))?(?:/(?P<units>\S*+))?(?!\S))?
    (?:\s++(?P<resolution>\d++)(?!\S))?(?:\s++(?P<zero>-?\d++)(?!\S))?(?:\s++(?P<initial>-?\d++)(?!\S))?
    (?:\s++(?P<checksum>-?\d++)(?!\S))?(?:\s++(?P<block>-?\d++)(?!\S))?(?:\s++(?P<name>\S.*+))?\s*+""",
    re.VERBOSE,
)
# An invalid number, which the pattern above would take as part of the lead's name.
_NUMBER_LIKE = re.compile(
    r"[-+]*+(?:(?:nan|inf(?:inity)?|0x[\da-f]++|[\d_.,]*\d[\d_.,]*(?:e[-+]?\d*)?)(?:[(/]\S*)?|\.?\d\S*[(/]\S*)",
    re.I,
)
_FIELDS = {
    "gain": "gain",
    "resolution": "resolution",
    "zero": "zero level",
    "initial": "initial value",
    "checksum": "checksum",
    "block": "block size",
}
_FORMAT = re.compile(r"\s+(?=\d++(?:x\d++)?(?::\d++)?(?:\+\d++)?(?!\S))")


@dataclass(frozen=True)
class Signal:
    """A line of a header.

    Attributes:
        file: the name of the signal file, in the header's folder.
        format: one of `SAMPLE_BYTES`.
        offset: bytes of the file before its first sample.
        gain: digital steps per unit.
        baseline: the digital value of 0.
        units: of the header; mV by default, `UNCALIBRATED` without a gain.
        initial: the first digital value, to decode format 8.
        checksum: the low 16 bits of the sum of all digital values, or None.
        name: the lead.
    """

    file: str
    format: str
    offset: int
    gain: float
    baseline: int
    units: str
    initial: int
    checksum: int | None
    name: str


@dataclass(frozen=True)
class Header:
    """A record's sampling rate in Hz, samples per signal (0 if the header has no number), and
    signals.
    """

    sampling_rate: float
    samples: int
    signals: tuple[Signal, ...]


def parse(file: Path) -> Header:
    """Read the header `file`.

    The record's name in the header, dates and times are ignored.

    Raises:
        BadRecord: the file is not a header, or the kind of record is not supported.
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        # Python reserves as many bytes as it is asked for
        size = os.fstat(opened.fileno()).st_size
        content = opened.read(min(size, LARGEST) + 1)
    if len(content) > LARGEST:
        raise BadRecord(Reason.UNREADABLE_FILE, f"a header of more than {LARGEST} bytes")
    lines = [
        line
        for line in (line.strip() for line in decoded(content).splitlines())
        if line and not line.startswith("#")
    ]
    if not lines:
        raise BadRecord(Reason.UNREADABLE_FILE, "header without a record line")
    rate, samples = _record_line(lines[0], len(lines) - 1)

    @cache  # most lines name the same file
    def there(name: str) -> bool:
        return _is_name(name) and (file.parent / name).is_file()

    signals = tuple(_signal(line, number, there) for number, line in enumerate(lines[1:], start=1))
    return Header(rate, samples, signals)


def decoded(content: bytes) -> str:
    """Return the text of a header as UTF-8, or as Latin-1 if it is not valid UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _record_line(line: str, described: int) -> tuple[float, int]:
    """Return sampling rate and samples.

    The record's name can contain spaces, so the number of leads is the last number with valid
    fields after it.
    """
    cells = line.split()
    place = _place_of_leads(cells, described)
    if re.search(r"/\d+$", cells[place - 1]):
        raise BadRecord(
            Reason.NOT_SUPPORTED, f"a record of several segments: {CONVERT}, as one segment"
        )
    count = _whole(cells[place], "number of leads")
    if count == 0:
        raise BadRecord(
            Reason.NOT_SUPPORTED,
            "no signals in the header: it only describes annotations or other records",
        )
    if count != described:
        raise BadRecord(
            Reason.UNREADABLE_FILE, f"header announces {count} leads and describes {described}"
        )
    found = _RATE.fullmatch(cells[place + 1]) if len(cells) > place + 1 else None
    if len(cells) > place + 1 and not found:
        raise _no_number("sampling rate", cells[place + 1])
    rate = float(found["rate"]) if found else DEFAULT_RATE
    if not 0 < rate < math.inf:
        raise BadRecord(Reason.UNREADABLE_FILE, f"sampling rate {cells[place + 1][:40]} Hz")
    if len(cells) > place + 2 and not cells[place + 2].isdecimal():
        raise _no_number("number of samples", cells[place + 2])
    return rate, _whole(cells[place + 2], "number of samples") if len(cells) > place + 2 else 0


def _place_of_leads(cells: list[str], described: int) -> int:
    places = [place for place in range(1, len(cells)) if cells[place].isdecimal()]
    equal = [place for place in places if int(cells[place][:DIGITS]) == described]
    follow = [place for place in places if _may_follow(cells[place + 1 : place + 3])]
    if fitting := [
        place for place in follow if place in equal and (place == 1 or len(cells) > place + 1)
    ]:
        return fitting[-1]
    if equal:  # the fields after it are invalid
        return next(
            (
                place
                for place in equal
                if place + 1 < len(cells) and _NUMBER_LIKE.fullmatch(cells[place + 1])
            ),
            equal[0],
        )
    if len(cells) > 1 and not cells[1].isdecimal() and _NUMBER_LIKE.fullmatch(cells[1]):
        raise _no_number("number of leads", cells[1])
    if not places:
        raise BadRecord(Reason.UNREADABLE_FILE, "header without a record line")
    return places[0]


def _may_follow(cells: list[str]) -> bool:
    """Whether these can be a sampling rate and a number of samples, both optional."""
    return (not cells or _RATE.fullmatch(cells[0]) is not None) and (
        len(cells) < 2 or cells[1].isdecimal()
    )


def file_names(line: str) -> Iterator[str]:
    """Yield the possible names of the signal file in a line of a header: the text before each
    possible format.
    """
    yield from (line[: found.start()] for found in _FORMAT.finditer(line) if found.start())


def _signal(line: str, number: int, there: Callable[[str], bool]) -> Signal:
    names = file_names(line)
    first = next(names, None)
    if first is None:
        raise BadRecord(Reason.UNREADABLE_FILE, f"signal line {number} has no file name and format")
    name = first if there(first) else next(filter(there, names), first)
    if not there(name) and not _is_name(name):
        raise BadRecord(
            Reason.OUTSIDE_FOLDER,
            f"the header names the file {name[:80]}, which is not in the header's folder",
        )
    found = _SIGNAL.fullmatch(line[len(name) :].lstrip())
    if found is None:
        raise BadRecord(
            Reason.UNREADABLE_FILE,
            f"signal line {number}, of the file {name[:80]}, is not valid in WFDB",
        )
    _refuse_unsupported(found)
    _refuse_no_numbers(found)
    gain = float(found["gain"] or 0)
    if not abs(gain) < math.inf:
        raise BadRecord(Reason.UNREADABLE_FILE, f"gain {found['gain'][:40]}")
    zero = _whole(found["zero"] or "0", "zero level")
    return Signal(
        file=name,
        format=found["format"],
        offset=_whole(found["offset"] or "0", "offset"),
        gain=gain or 200.0,
        baseline=_whole(found["baseline"], "baseline") if found["baseline"] else zero,
        units=(found["units"] or "mV") if gain else UNCALIBRATED,
        initial=_whole(found["initial"] or "0", "initial value"),
        checksum=_whole(found["checksum"], "checksum") if found["checksum"] else None,
        name=(found["name"] or "").strip(),
    )


def _is_name(name: str) -> bool:
    return name != "." and set(name).isdisjoint("/\0\\")


def _refuse_unsupported(found: re.Match[str]) -> None:
    number = found["format"]
    if number in KNOWN_FORMATS:
        raise BadRecord(
            Reason.NOT_SUPPORTED, f"signal format {number}, {KNOWN_FORMATS[number]}: {CONVERT}"
        )
    if number not in SAMPLE_BYTES:
        raise BadRecord(Reason.UNREADABLE_FILE, f"signal format {number[:40]} is unknown in WFDB")
    if (found["per_frame"] or "1").lstrip("0") != "1":
        raise BadRecord(
            Reason.NOT_SUPPORTED,
            f"several samples of a lead in a frame: {CONVERT}, all leads at one rate",
        )
    if (found["skew"] or "0").lstrip("0"):
        raise BadRecord(
            Reason.NOT_SUPPORTED, f"leads skewed against each other: {CONVERT}, without skew"
        )


def _refuse_no_numbers(found: re.Match[str]) -> None:
    """Reject a name that starts with an invalid number of the fields before it."""
    if None not in (fields := found.group(*_FIELDS)):
        return
    first = next(iter((found["name"] or "").split(maxsplit=1)), "")
    if _NUMBER_LIKE.fullmatch(first):
        raise _no_number([*_FIELDS.values()][fields.index(None)], first)


def _no_number(what: str, text: str) -> BadRecord:
    return BadRecord(Reason.UNREADABLE_FILE, f"{what} {text[:40]} is not a valid number in WFDB")


def _whole(text: str, what: str) -> int:
    if len(text) > DIGITS:
        raise BadRecord(Reason.UNREADABLE_FILE, f"{what} of {len(text)} digits, {text[:DIGITS]}...")
    return int(text)
