"""Classified records on ECG paper with their probabilities, as one SVG file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from ecgforge.report import ecg_paper

BESIDE = 70.0  # mm, for the probabilities
HEAD = 8.0  # mm, for a record's name
NO_XML = re.compile("[\ufffe\uffff]")  # characters that are invalid in XML
SIZE = re.compile(r'width="([\d.]+)mm" height="([\d.]+)mm"')


@dataclass(frozen=True)
class Answer:
    """The classification of a record.

    Attributes:
        record: its name.
        signals: `[8, samples]`, the input of the classifier; None if not kept, or for a bad record.
        probabilities: of each rhythm; None for a bad record.
        reason: why the record is bad, or empty.
        seconds: length of the full record; NaN for a bad one.
    """

    record: str
    signals: np.ndarray | None
    probabilities: list[float] | None
    reason: str
    seconds: float = math.nan

    def rhythm(self, rhythms: Sequence[str]) -> str:
        """Return the most probable of `rhythms`; empty for a bad record."""
        return rhythms[int(np.argmax(self.probabilities))] if self.probabilities else ""


def page(
    answers: Sequence[Answer], rhythms: Sequence[str], sampling_rate: float, units: str, model: str
) -> str:
    """Draw the preprocessed records below each other.

    Args:
        answers: classified records with signals.
        rhythms: names of the classes.
        sampling_rate: Hz, of the signals.
        units: `mV` or `per_lead_std`, of the signals.
        model: name of the classifier's version.

    Returns:
        An `<svg>` element whose unit is 1 mm.
    """
    parts, width, top = [], 0.0, 0.0
    for answer in answers:
        assert answer.signals is not None
        assert answer.probabilities is not None
        name = NO_XML.sub("\ufffd", answer.record)
        sheet = ecg_paper.sheet(answer.signals, sampling_rate, units, f"ECG {name}")
        size = SIZE.search(sheet)
        assert size
        wide, high = float(size[1]), float(size[2])
        # Nested SVGs need lengths without a unit; "mm" would mean CSS millimetres.
        sheet = SIZE.sub(
            f'x="0" y="{top + HEAD:g}" width="{wide:g}" height="{high:g}"', sheet, count=1
        )
        head = f"{name}: {answer.rhythm(rhythms)} by {model}; not a diagnosis"
        parts += [
            _text(2, top + HEAD - 2.5, head),
            sheet,
            _bars(answer.probabilities, rhythms, wide, top + HEAD),
        ]
        width, top = max(width, wide + BESIDE), top + HEAD + high
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}mm" height="{top:g}mm" '
        f'viewBox="0 0 {width:g} {top:g}">'
        f'<rect width="{width:g}" height="{top:g}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _bars(probabilities: Sequence[float], rhythms: Sequence[str], left: float, top: float) -> str:
    parts = []
    for number, (rhythm, probability) in enumerate(zip(rhythms, probabilities, strict=True)):
        y, colour = top + 8 * number, "#b3262e" if probability == max(probabilities) else "#9aa5b1"
        parts.append(_text(left + 4, y + 7, rhythm))
        parts.append(
            f'<rect x="{left + 18:g}" y="{y + 3:g}" width="{36 * probability:.2f}" height="5" '
            f'fill="{colour}"/>'
        )
        parts.append(_text(left + 20 + 36 * probability, y + 7, f"{probability:.2f}"))
    return "".join(parts)


def _text(x: float, y: float, words: str) -> str:
    return (
        f'<text font-family="sans-serif" font-size="4" fill="#111" x="{x:.2f}" '
        f'y="{y:.2f}">{escape(words)}</text>'
    )
