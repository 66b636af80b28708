"""Draw a synthetic record set from a trained generator, chunk by chunk."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from ecgforge.errors import EcgforgeError
from ecgforge.generators.base import Generator
from ecgforge.params import Compute, Section, Synthesis, checked
from ecgforge.records.record_set import SPLITS, RecordSet, write_record_set


def plan(rhythms: tuple[str, ...], synthesis: Synthesis, real_training_records: int) -> pd.DataFrame:
    """Return a row for every record to draw: rhythm, split, and a seed that no other record of the set has.

    The seed depends on the split, the rhythm and the record's number in them alone, so that a larger set holds the smaller one.
    """
    counts = {split: getattr(synthesis, split) for split in SPLITS}
    if counts["train"] == "as_real":
        counts["train"] = math.ceil(real_training_records / len(rhythms))
    rows = []
    for number, (split, count) in enumerate(counts.items()):
        for label, rhythm in enumerate(rhythms):
            seeds = np.random.SeedSequence([synthesis.seed, number, label]).generate_state(count, np.uint64) >> np.uint64(1)
            rows += [(rhythm, label, split, index, int(seed)) for index, seed in enumerate(seeds)]
    return pd.DataFrame(rows, columns=["rhythm", "label", "split", "number", "seed"])


@torch.inference_mode()
def synthesize(
    generator: Generator,
    name: str,
    sampling: dict[str, Any],
    synthesis: Synthesis,
    compute: Compute,
    source: RecordSet,
    made: dict[str, Any],
    out: Path,
) -> None:
    """Write a synthetic record set to `out`, in constant memory.

    Args:
        name: the generator's name; becomes the records' origin.
        source: the record set that the generator learned from; the synthetic one is of the same kind.
        made: provenance to keep in about.json.

    Raises:
        EcgforgeError: the generator gave a signal that is not finite.
    """
    torch.set_num_threads(compute.threads)
    device = torch.device("cuda" if compute.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    generator = generator.to(device).eval()
    settings = checked(type(generator).Sampling, sampling, f"generators.{name}.sampling")
    rows = plan(source.about.rhythms, synthesis, len(source.split("train")))
    about = replace(source.about, origin="synthetic", made=made)
    starts = range(0, len(rows), synthesis.chunk)
    with write_record_set(out, about) as writer:
        for start in track(starts, description=f"synthesize {name}"):
            chunk = rows.iloc[start : start + synthesis.chunk]
            signals = _draw(generator, chunk, settings, device)
            if not np.isfinite(signals).all():
                raise EcgforgeError(f"{name} gave signals that are not finite: train it longer, or with a lower learning_rate")
            writer.append(signals, _table(chunk, name))


def _draw(generator: Generator, chunk: pd.DataFrame, settings: Section, device: torch.device) -> np.ndarray:
    labels = torch.tensor(chunk["label"].to_numpy(), device=device)
    seeds = torch.tensor(chunk["seed"].to_numpy(), dtype=torch.int64)
    return generator.sample(labels, seeds, settings).float().cpu().numpy()


def _table(chunk: pd.DataFrame, name: str) -> pd.DataFrame:
    ids = [f"{row.split}-{row.rhythm}-{row.number:06d}" for row in chunk.itertuples()]
    table = pd.DataFrame({"id": ids, "patient": ids, "dataset": "", "rhythm": chunk["rhythm"].to_numpy()})
    return table.assign(split=chunk["split"].to_numpy(), age=np.nan, sex="", origin=name)
