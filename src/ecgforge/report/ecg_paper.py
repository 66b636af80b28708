"""ECGs on ECG paper: 25 mm/s and 10 mm/mV on a 1 mm grid, as SVG in true size.

Recommendations for paper speed, gain and the calibration pulse: Kligfield et al., Circulation
115:1306 (2007), doi 10.1161/CIRCULATIONAHA.106.180200. The SVG needs no other file; equal inputs
give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from ecgforge.records.leads import LEADS, STANDARD_LEADS, twelve_leads

SPEED = 25.0  # mm per s
# mm per unit; an R peak has about 1 mV, or 4 to 8 standard deviations of its lead
GAIN = {"mV": 10.0, "per_lead_std": 2.5}
SCALE = {
    "mV": "25 mm/s, 10 mm/mV",
    "per_lead_std": (
        "25 mm/s, 2.5 mm per standard deviation of the lead; pulse: 4 standard deviations"
    ),
}

_MARGIN = 10.0  # mm left of the traces, for the calibration pulse
_PULSE = (5.0, 10.0)  # mm wide, mm high: 1 mV for 0.2 s
# mm, the smallest and largest space of a row above and below its baseline
_ABOVE, _BELOW = (12.0, 36.0), (8.0, 30.0)
_POINT = 0.1  # mm, the smallest distance in time between two points of a trace
_UNIT = 0.01  # mm, the unit of a trace's coordinates

_TRACE = f'<path fill="none" stroke="#111" stroke-width="{0.28 / _UNIT:g}" stroke-linejoin="round" '
_PAPER = "#fff6f6"
_TEXT = (
    f'<text font-family="sans-serif" font-size="3.2" fill="#111" stroke="{_PAPER}" '
    'stroke-width=".8" paint-order="stroke" '
)


def draw(
    signals: np.ndarray,
    sampling_rate: float,
    leads: Sequence[str],
    title: str,
    *,
    units: str = "mV",
    columns: int = 1,
    rhythm_lead: str | None = None,
) -> str:
    """Draw one record.

    Leads fill the columns from top to bottom. Each column shows the next part of the record, as on
    clinical ECGs.

    Args:
        signals: `[leads, samples]` in `units`.
        sampling_rate: Hz.
        leads: the name of each row of `signals`; their number is a multiple of `columns`.
        title: the alternative text.
        units: `mV`, or `per_lead_std` for leads divided by their standard deviation, which have
            another scale.
        columns: number of parts of the duration; 4 for the usual sheet of twelve leads.
        rhythm_lead: a lead to draw again below, over the full duration.

    Returns:
        An `<svg>` element: 1 s is 25 mm wide, and 1 mV is 10 mm high.
    """
    traces = np.asarray(signals, dtype=float) * GAIN[units]
    per_column, samples = len(leads) // columns, traces.shape[1] // columns
    rows = [
        [
            (
                leads[column * per_column + row],
                traces[column * per_column + row, column * samples :][:samples],
            )
            for column in range(columns)
        ]
        for row in range(per_column)
    ]
    if rhythm_lead:
        rows.append([(rhythm_lead, traces[list(leads).index(rhythm_lead)])])
    return _sheet(rows, SPEED / sampling_rate, title, SCALE[units])


def sheet(signals: np.ndarray, sampling_rate: float, units: str, title: str) -> str:
    """Draw all leads of one record, `[8, samples]` in the order of `records.leads.LEADS`.

    In mV, the sheet has the twelve standard leads in four columns over a strip of lead II. In other
    units, the limb leads cannot be derived, and it has the eight leads in two columns.
    """
    if units == "mV":
        return draw(
            twelve_leads(signals, units),
            sampling_rate,
            STANDARD_LEADS,
            title,
            columns=4,
            rhythm_lead="II",
        )
    return draw(signals, sampling_rate, LEADS, title, units=units, columns=2)


def _sheet(rows: list[list[tuple[str, np.ndarray]]], step: float, title: str, scale: str) -> str:
    """Draw rows of (lead, trace in mm) below each other; `step` is mm between two samples."""
    width = (
        np.ceil((_MARGIN + max(sum(len(trace) for _, trace in row) for row in rows) * step) / 5) * 5
    )
    parts, bottom = [], 0.0
    for row in rows:
        above = np.clip(max(trace.max(initial=0) for _, trace in row) + 4, *_ABOVE)
        below = np.clip(max(-trace.min(initial=0) for _, trace in row) + 1, *_BELOW)
        parts.append(_row(row, step, bottom + above))
        bottom += above + below
    height = np.ceil((bottom + 4) / 5) * 5
    return (
        f'<svg class="ecg" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg" '
        f'width="{width:g}mm" height="{height:g}mm" viewBox="0 0 {width:g} {height:g}">'
        f"<title>{escape(title)}</title>{_grid(width, height)}{''.join(parts)}"
        f'{_TEXT}x="{_MARGIN:g}" y="{height - 1.5:g}">{scale}</text></svg>'
    )


def _grid(width: float, height: float) -> str:
    """Return a grid with a line each mm and a thicker one each 5 mm. The lines are the dashes of
    four very wide strokes, which keeps the SVG small.
    """
    lines = [f'<rect width="{width:g}" height="{height:g}" fill="{_PAPER}"/>']
    for distance, line, colour in ((1.0, 0.1, "#f6c9c9"), (5.0, 0.2, "#e58f8f")):
        dashes = (
            f'fill="none" stroke="{colour}" stroke-dasharray="{line:g} {distance - line:g}" '
            f'stroke-dashoffset="{line / 2:g}"'
        )
        lines.append(f'<path d="M0 {height / 2:g}H{width:g}" stroke-width="{height:g}" {dashes}/>')
        lines.append(f'<path d="M{width / 2:g} 0V{height:g}" stroke-width="{width:g}" {dashes}/>')
    return "".join(lines)


def _row(row: list[tuple[str, np.ndarray]], step: float, baseline: float) -> str:
    wide, high = _PULSE
    pulse = f"M2 {baseline:.2f}h1v-{high:g}h{wide:g}v{high:g}h1"
    parts = [
        f'<path class="calibration" fill="none" stroke="#111" stroke-width=".28" d="{pulse}"/>'
    ]
    left = _MARGIN
    for lead, trace in row:
        place = f'transform="translate({left:.2f} {baseline:.2f}) scale({_UNIT:g})"'
        parts.append(f'{_TRACE}data-lead="{escape(lead)}" {place} d="{_path(trace, step)}"/>')
        parts.append(
            f'{_TEXT}font-weight="bold" x="{left + 1:.2f}" '
            f'y="{baseline - 8:.2f}">{escape(lead)}</text>'
        )
        left += len(trace) * step
    return "".join(parts)


def _path(trace: np.ndarray, step: float) -> str:
    """Path data through a trace in mm.

    Points are differences of rounded positions, so that rounding does not add up.
    """
    stride = max(1, int(_POINT / step))
    y = np.rint(-trace[::stride] / _UNIT).astype(int)
    x = np.rint(np.arange(len(y)) * stride * step / _UNIT).astype(int)
    moves = zip(np.diff(x).tolist(), np.diff(y).tolist(), strict=True)
    return f"M0 {y[0]}l" + " ".join(f"{right}{down:+d}" for right, down in moves)
