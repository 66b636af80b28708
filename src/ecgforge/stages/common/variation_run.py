"""The run of a generator that a sweep trains, for its training and for the sweep that uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.common.tracked import Sets, Stage, fingerprint, record_inputs
from ecgforge.study import mixtures
from ecgforge.sweeps.common import cells
from ecgforge.sweeps.common.base import Item, Source
from ecgforge.tracking import runs, store


def learned_from(source: Source, real: RecordSet) -> RecordSet:
    """Return the real records that the generator of a source learns from."""
    assert source.settings is not None
    if source.percent == 100:
        return real
    return mixtures.share(real, source.percent, source.settings.seed)


def described(
    params: Params, item: Item, source: Source, real: RecordSet
) -> tuple[Stage, runs.RunKey, dict[str, Any], Sets]:
    """Return the stage, the key, the parameters and the record sets of the run.

    Args:
        item: sweep, dataset and generator.
        source: the one with the generator.
        real: the record set of the dataset.
    """
    assert source.settings is not None
    names = {key: item[key] for key in ("sweep", "dataset", "generator")}
    records = learned_from(source, real)
    key = runs.RunKey(
        "generator",
        item["dataset"],
        source.settings.seed,
        real.about.origin == "simulated",
        generator=item["generator"],
        sweep=item["sweep"],
        point=source.point,
    )
    tree = source.settings.model_dump(exclude={"sampling", "ablations"})
    tree |= {"training_records": {"real": len(records.split("train"))}}
    return Stage(cells.VARIATIONS, params, names), key, tree, [("training", records)]


def run_id(params: Params, item: Item, source: Source, real: RecordSet) -> str | None:
    """Return the run of the training; None if MLflow does not have it."""
    stage, key, tree, sets = described(params, item, source, real)
    mark = fingerprint(stage, key, tree, record_inputs(sets))
    found = store.runs(f"tags.`{runs.FINGERPRINT}` = '{mark}'")
    return found[0].info.run_id if found else None


def folder(source: Source) -> str:
    """Return the name of the folder of a generator among those of its cell."""
    return source.point.replace(" ", "-")


def model(cell: Path, source: Source) -> Path:
    """Return the folder of a trained generator.

    Args:
        cell: the folder of the generators of the cell, which may have a folder for each part.
    """
    places = [cell / folder(source), *sorted(cell.glob(f"*of*/{folder(source)}"))]
    return next((one for one in places if one.exists()), places[0])
