"""The cells of the sweeps: a dataset, a generator or backbone, and a part where cells are split.

A study on many machines takes as long as its longest cell. With `sweep_targets.parts`, each cell is
split into parts with some of its experiments each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ecgforge import folders
from ecgforge.params import Params
from ecgforge.sweeps.common import registry

Item = dict[str, str]
VARIATIONS = "train_variations"  # the stage that trains generators for sweeps
IN_PLACE = ("trained_on", "dataset")  # keys of an item whose values name one folder together
IN_NAME = ("sweep", *IN_PLACE, "generator", "backbone", "part")


def cells(params: Params) -> Iterator[tuple[str, str, Item]]:
    """Yield stage, sweep and item of each cell, in the order of the results."""
    for stage, sweep, item in _unsplit(params):
        parts = _parts(params, sweep, item)
        if parts == 1:
            yield stage, sweep, item
            continue
        for number in range(1, parts + 1):
            yield stage, sweep, item | {"part": f"{number}of{parts}"}


def results(sweep: str, item: Mapping[str, str]) -> Path:
    """Return the folder of a sweep's predictions in one cell, as dvc.yaml names it."""
    place = "-".join(item[key] for key in IN_PLACE if key in item)
    names = [item[key] for key in ("generator", "backbone") if key in item]
    folder = folders.RESULTS.joinpath(sweep, place, *names)
    return folder.with_name(f"{folder.name}-{item['part']}") if "part" in item else folder


def of_variations(params: Params) -> Iterator[Item]:
    """Yield the cells of the stage `train_variations`, one for each cell of some sweeps or for a
    part of its generators.
    """
    for _, sweep, item in _unsplit(params):
        if sweep not in registry.WITH_VARIATIONS:
            continue
        cell, parts = {**item, "sweep": sweep}, 1
        if params.sweep_targets.parts > 1:
            trained = len(registry.get(sweep).variations(params, item))
            parts = max(1, min(params.sweep_targets.parts, trained))
        if parts == 1:
            yield cell
            continue
        for number in range(1, parts + 1):
            yield cell | {"part": f"{number}of{parts}"}


def variations(item: Mapping[str, str]) -> Path:
    """Return the folder of the generators that a sweep trains in a cell, as dvc.yaml names it.

    With parts, the folder of the cell has a folder for each of them.
    """
    names = [item[key] for key in ("sweep", "dataset", "generator", "part") if key in item]
    return folders.VARIATIONS.joinpath(*names)


def in_dvc(params: Params) -> dict[str, dict[str, Item]]:
    """Return the cells by stage and name, with the values that dvc.yaml reads.

    The stage `equal_size` lists its pairs itself.
    """
    found: dict[str, dict[str, Item]] = {stage: {} for stage in (VARIATIONS, *registry.SPLIT)}
    for item in of_variations(params):
        found[VARIATIONS][_name(item)] = _of_variation(params, item)
    for stage, sweep, item in cells(params):
        if stage in registry.SPLIT:
            folder = results(sweep, item).as_posix()
            cell = {**item, "command": _command(sweep, item), "results": folder}
            if stage in ("sweep", "ablation"):
                cell["starts_from"] = _starts_from(sweep, item)
            found[stage][_name(item)] = cell
    return found


def _name(item: Item) -> str:
    return "-".join(item[key] for key in IN_NAME if key in item)


def _of_variation(params: Params, item: Item) -> Item:
    """Return a cell of `train_variations` as dvc.yaml reads it.

    `waits_for` names the tuned parameters only where they can change a training: a template cannot
    leave a dependency out, so the records are named twice otherwise.
    """
    sweep, dataset, generator = (item[key] for key in ("sweep", "dataset", "generator"))
    tuned = folders.TUNED / dataset / f"{generator}.yaml"
    waits = params.generator(generator).tunes_training
    own = f"generators.{generator}.ablations" if sweep == "ablation" else f"sweeps.{sweep}"
    part = f" --part {item['part']}" if "part" in item else ""
    return {
        **item,
        "command": f"{dataset} {generator} --sweep {sweep}{part}",
        "waits_for": (tuned if waits else folders.PREPARED / dataset).as_posix(),
        "parameters": own,
        "models": variations(item).as_posix(),
    }


def _starts_from(sweep: str, item: Item) -> str:
    """Return the models that a cell with a generator waits for, besides the study's generator."""
    place = Path(item["dataset"], item["generator"])
    if sweep in registry.WITH_VARIATIONS:
        return (folders.VARIATIONS / sweep / place).as_posix()
    without = sweep in registry.WITHOUT_CLASSIFIERS
    return ((folders.GENERATORS if without else folders.CLASSIFIERS) / place).as_posix()


def _command(sweep: str, item: Item) -> str:
    """Return the arguments of `ecgforge sweep`."""
    words = [sweep, item["dataset"], *([item["generator"]] if "generator" in item else [])]
    for key in ("backbone", "trained_on", "part"):
        words += [f"--{key.replace('_', '-')}", item[key]] if key in item else []
    return " ".join(words)


def _parts(params: Params, sweep: str, item: Item) -> int:
    if params.sweep_targets.parts == 1 or registry.stage(sweep) not in registry.SPLIT:
        return 1
    return registry.get(sweep).parts(params, item)


def _unsplit(params: Params) -> Iterator[tuple[str, str, Item]]:
    targets, swept = params.sweep_targets, params.sweep_record_sets
    for dataset in swept:
        yield "scratch", "scratch", {"dataset": dataset}
    for dataset in swept:
        for backbone in targets.backbones:
            yield "backbones", "backbones", {"dataset": dataset, "backbone": backbone}
    for name in targets.sweeps:
        for item in pairs(swept, targets.generators):
            yield "sweep", name, {"sweep": name, **item}
    for name in targets.real_sweeps:
        for dataset in swept:
            yield "sweep_real", name, {"sweep": name, "dataset": dataset}
    for item in pairs(swept, params.ablated):
        yield "ablation", "ablation", item
    for item in pairs(swept, targets.generator_seeds):
        yield "sweep", "generator_seeds", {"sweep": "generator_seeds", **item}
    for pair in targets.cross_dataset:
        for generator in targets.generators:
            item = {"trained_on": pair.train, "dataset": pair.test, "generator": generator}
            yield "cross_dataset", "cross_dataset", item
    for pair in params.equal_size_pairs:
        yield "equal_size", "equal_size", {"trained_on": pair.train, "dataset": pair.test}


def pairs(datasets: list[str], generators: list[str]) -> Iterator[Item]:
    """Yield an item for each dataset and generator."""
    for dataset in datasets:
        for generator in generators:
            yield {"dataset": dataset, "generator": generator}
