"""Draw records of a record set, several of each rhythm, as one picture.

    .venv/bin/python benchmarks/examples.py data/synthetic/ptbxl/diffwave diffwave.png

The picture has the first training records of each rhythm, one lead each. The records are not
selected by their looks.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import RecordSet

matplotlib.use("agg")
from matplotlib import pyplot as plt

SPACING = 6.0  # between the traces, in standard deviations of the lead
HEIGHT = 0.28  # of a trace, in inches


def draw(records: RecordSet, lead: str, number: int, file: Path) -> None:
    """Draw the first `number` records of each rhythm below each other, and write them to `file`."""
    train = records.split("train")
    rhythms = [name for name in records.about.rhythms if (train.records["rhythm"] == name).any()]
    column = LEADS.index(lead)
    seconds = np.arange(records.about.samples) / records.about.sampling_rate
    figure, axes = plt.subplots(figsize=(8, HEIGHT * number * len(rhythms) + 0.6))
    for position, rhythm in enumerate(rhythms):
        rows = np.flatnonzero(train.records["rhythm"].to_numpy() == rhythm)[:number]
        traces = train.signals()[rows, column]
        top = -position * (number + 0.5) * SPACING
        for row, trace in enumerate(traces / traces.std()):
            axes.plot(seconds, trace + top - row * SPACING, color="black", linewidth=0.5)
        axes.text(-0.15, top, rhythm, ha="right", va="center", weight="bold")
    axes.set_xlim(0, seconds[-1])
    axes.set_ylim(-(len(rhythms) * (number + 0.5)) * SPACING + SPACING / 2, SPACING)
    axes.set_yticks([])
    axes.set_xlabel(f"time (s), lead {lead}")
    axes.spines[["top", "left", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, dpi=100, bbox_inches="tight")
    Image.open(image).convert("L").quantize(8).save(file, optimize=True)  # a small file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("records", type=Path, help="a record set, such as data/synthetic/a/b")
    parser.add_argument("picture", type=Path, help="the PNG file")
    parser.add_argument("--lead", default="II", choices=LEADS)
    parser.add_argument("--number", type=int, default=6, help="records of each rhythm")
    asked = parser.parse_args()
    draw(RecordSet.open(asked.records), asked.lead, asked.number, asked.picture)


if __name__ == "__main__":
    main()
