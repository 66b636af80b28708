"""Figures of one classifier's predictions, as SVG.

They are drawn without a library: matplotlib takes a tenth of a second for each, which would be too
long for the hundreds of classifiers of a study. Equal inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from ecgforge.report.colours import COLOURS

BINS = 10  # of a calibration curve
_SIDE, _CELL = 260, 44  # px: a plot, a cell of a matrix
_LEFT, _TOP, _BELOW, _RIGHT = 62, 34, 44, 130  # px around a plot; the legend is at its right


def confusion(truth: np.ndarray, predicted: np.ndarray, rhythms: Sequence[str]) -> str:
    """Draw the confusion matrix: records, and their share of the records of each true rhythm.

    Args:
        truth, predicted: class indices, `[records]`.
        rhythms: in class order.
    """
    count = len(rhythms)
    records = np.bincount(truth * count + predicted, minlength=count**2).reshape(count, count)
    shares = records / records.sum(axis=1, keepdims=True).clip(1)
    width, height = _LEFT + count * _CELL + 20, _TOP + count * _CELL + _BELOW
    panels = [
        *_matrix(records.astype(str), shares, rhythms, 0, "test records"),
        *_matrix(_shown(shares), shares, rhythms, width, "share of the true rhythm"),
    ]
    return _svg(2 * width, height, "confusion matrix", panels)


def _shown(shares: np.ndarray) -> np.ndarray:
    return np.char.mod("%.2f", shares)


def _matrix(
    texts: np.ndarray, shares: np.ndarray, rhythms: Sequence[str], left: float, title: str
) -> Iterator[str]:
    left, side = left + _LEFT, len(rhythms) * _CELL
    yield _text(left + side / 2, _TOP - 16, title, "middle", bold=True)
    for row, name in enumerate(rhythms):
        y, x = _TOP + row * _CELL, left + row * _CELL
        yield _text(left - 6, y + _CELL / 2 + 4, name, "end")
        yield _text(x + _CELL / 2, _TOP + side + 16, name, "middle")
        for column, text in enumerate(texts[row]):
            share = shares[row, column]
            yield (
                f'<rect x="{left + column * _CELL:g}" y="{y:g}" width="{_CELL}" height="{_CELL}" '
                f'fill="{COLOURS[0]}" fill-opacity="{share:.2f}" stroke="#ddd"/>'
            )
            colour = "#fff" if share > 0.6 else "#111"
            middle = left + (column + 0.5) * _CELL
            yield _text(middle, y + _CELL / 2 + 4, text, "middle", colour)
    yield _text(left + side / 2, _TOP + side + 34, "predicted", "middle")
    yield _upright(left - _LEFT + 14, _TOP + side / 2, "true")


def roc(truth: np.ndarray, probabilities: np.ndarray, rhythms: Sequence[str]) -> str:
    """Draw the ROC curve of each rhythm against the rest, without rhythms that have no record.

    Args:
        truth: class indices, `[records]`.
        probabilities: `[records, rhythms]`.
        rhythms: in class order.
    """
    lines, names = [], []
    for label, name in enumerate(rhythms):
        positive = truth == label
        if positive.any() and not positive.all():
            lines.append(_roc(positive, probabilities[:, label]))
            names.append(name)
    labels = ("share of other rhythms taken for it", "share of the rhythm found (recall)")
    return _plot("ROC, each rhythm against the rest", lines, names, *labels)


def _roc(positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return false and true positive rates at each distinct score, `[points, 2]`."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(positive[order])[ends]
    false = ends + 1 - hits
    rates = np.stack([false / np.sum(~positive), hits / np.sum(positive)], axis=1)
    return np.concatenate([np.zeros((1, 2)), rates])


def calibration(truth: np.ndarray, probabilities: np.ndarray) -> str:
    """Draw the accuracy of the most probable rhythm over its probability, in bins of equal width.

    Args:
        truth: class indices, `[records]`.
        probabilities: `[records, rhythms]`.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    filled = counts > 0
    points = np.stack(
        [
            np.bincount(place, values, BINS)[filled] / counts[filled]
            for values in (confidence, right)
        ],
        axis=1,
    )
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + 14 * np.sqrt(count / len(truth)):.1f}" '
        f'fill="{COLOURS[0]}" fill-opacity=".4"/>'
        for (x, y), count in zip(_pixels(points), counts[filled], strict=True)
    ]
    labels = ("probability of the predicted rhythm", "accuracy")
    return _plot("calibration", [points], ["area: records"], *labels, dots)


def _pixels(points: np.ndarray) -> np.ndarray:
    """Return points in the unit square as pixels."""
    return np.array([_LEFT, _TOP + _SIDE]) + points * [_SIDE, -_SIDE]


def _plot(
    title: str,
    lines: list[np.ndarray],
    names: Sequence[str],
    below: str,
    left: str,
    others: Sequence[str] = (),
) -> str:
    """Draw lines in the unit square, with its diagonal."""
    bottom, right = _TOP + _SIDE, _LEFT + _SIDE
    parts = [_text(_LEFT, _TOP - 14, title, bold=True)]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = _pixels(np.array([tick, tick]))
        parts.append(f'<path d="M{x:g} {_TOP}V{bottom}M{_LEFT} {y:g}H{right}" stroke="#ddd"/>')
        parts.append(_text(x, bottom + 14, f"{tick:g}", "middle"))
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:g}", "end"))
    parts.append(f'<path d="M{_LEFT} {bottom}L{right} {_TOP}" stroke="#999" stroke-dasharray="4"/>')
    for number, (line, name) in enumerate(zip(lines, names, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _pixels(line))
        dashes = ' stroke-dasharray="6 3"' if number >= len(COLOURS) else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"'
            f"{dashes}/>"
        )
        y = _TOP + 12 + 18 * number
        parts.append(f'<path d="M{right + 12} {y}h18" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts.append(_text(right + 36, y + 4, name))
    parts.append(_text(_LEFT + _SIDE / 2, bottom + 32, below, "middle"))
    parts.append(_upright(16, _TOP + _SIDE / 2, left))
    return _svg(right + _RIGHT, bottom + _BELOW, title, [*parts, *others])


def _upright(x: float, y: float, text: str) -> str:
    """Draw text from bottom to top, with its middle at a point."""
    return f'<g transform="rotate(-90 {x:g} {y:g})">{_text(x, y, text, "middle")}</g>'


def _text(
    x: float, y: float, text: str, anchor: str = "start", colour: str = "#111", bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}"{weight}>'
        f"{escape(text)}</text>"
    )


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" font-family="sans-serif" font-size="12">'
        f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>"
    )
