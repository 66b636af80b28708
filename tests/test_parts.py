"""Sweeps in parts, for many machines: the parts make up the whole, and compute the same."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import registry_project as project
from ecgforge import grid
from ecgforge.errors import EcgforgeError
from ecgforge.params import Params, Sweeps
from ecgforge.stages import matrix, sweep, train_variations
from ecgforge.study import predictions
from ecgforge.sweeps.common import cells
from ecgforge.sweeps.common.registry import (
    OF_GENERATORS,
    ON_REAL,
    SPLIT,
    SWEEPS,
    WITH_VARIATIONS,
    WITHOUT_CLASSIFIERS,
    get,
    stage,
)

DEMO = Params.read(Path(__file__).parents[1] / "params.yaml")
ITEM = {"dataset": "ptbxl", "generator": "diffwave"}


def study(parts: int, seeds: list[int], percents: list[int]) -> Params:
    """Return the demo with all sweeps, in parts."""
    demo = DEMO.active
    tree = {"seeds": seeds, **demo.sweeps.sections} | {"generator_seeds": {"seeds": seeds}}
    for name in ("size", "mixture", "transfer"):
        tree[name] = {**tree[name], "percents": percents}
    update = {
        "sweeps": Sweeps.model_validate(tree),
        "study": demo.study.model_copy(update={"seeds": seeds}),
    }
    real = {"parts": parts, "real_sweeps": [*ON_REAL], "equal_size": ["ptbxl"]}
    return DEMO.model_copy(
        update={
            "sweep_targets": DEMO.sweep_targets.model_copy(update=real),
            "profiles": {"demo": demo.model_copy(update=update)},
        }
    )


def whole(cell: grid.Cell) -> str:
    """Return the name of a cell without its part."""
    return str([cell.stage, *(value for key, value in cell.item.items() if key != "part")])


PERCENTS = st.lists(st.sampled_from([5, 10, 40, 80]), min_size=1, max_size=3, unique=True)


@given(
    parts=st.integers(2, 7),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    percents=PERCENTS,
)
@settings(max_examples=12, deadline=None)
def test_parts_are_a_partition_of_the_unsplit_cells(
    parts: int, seeds: list[int], percents: list[int]
) -> None:
    def gathered(params: Params) -> dict[str, list[grid.Cell]]:
        found: dict[str, list[grid.Cell]] = {}
        for cell in grid.cells(params):
            found.setdefault(whole(cell), []).append(cell)
        return found

    params = study(parts, seeds, percents)
    split, unsplit = gathered(params), gathered(study(1, seeds, percents))
    assert split.keys() == unsplit.keys()
    for name, (one,) in unsplit.items():
        pieces = split[name]
        assert [row for cell in pieces for row in cell.experiments] == one.experiments
        assert len({cell.results for cell in pieces}) == len(pieces) <= parts
        if one.sweep and one.sweep.scored:
            points = [source.point for cell in pieces for source in cell.sources]
            assert len(set(points)) == len(points), "no records are scored twice"
        sources = [(source.generator, source.point) for cell in pieces for source in cell.sources]
        repeated = len(sources) - len(set(sources))
        assert repeated < len(pieces), "a cell has each source once, and goes on with another"
        if one.item.get("sweep") in ("size", "transfer"):
            assert len(pieces) == min(parts, len(one.experiments))
        if one.sweep and one.sweep.pretraining(params):
            trained = [seed for cell in pieces for seed in {row.seed for row in cell.experiments}]
            assert len(set(trained)) == len(trained), "no pre-training is repeated"


@given(parts=st.integers(1, 7), percents=PERCENTS)
@settings(max_examples=12, deadline=None)
def test_each_generator_of_a_sweep_is_trained_once(parts: int, percents: list[int]) -> None:
    params, found = study(parts, [0, 1], percents), list[str]()
    folders = [cells.variations(item) for item in cells.of_variations(params)]
    assert len(set(folders)) == len(folders) <= 3 * parts
    for item in cells.of_variations(params):
        place = f"{item['sweep']}-{item['dataset']}-{item['generator']}"
        trained = get(item["sweep"]).variations(params, item)
        assert trained or item["sweep"] == "ablation", "the ablations of the demo are of sampling"
        found += [f"{place}-{source.point}" for source in trained]
    needed = {
        f"{cell.sweep.name}-{cell.item['dataset']}-{source.generator}-{source.point}"
        for cell in grid.cells(params)
        for source in cell.sources
        if cell.sweep and source.needs_training(params)
    }
    assert sorted(found) == sorted(needed)


def test_every_stage_with_parts_is_in_dvc() -> None:
    params = study(2, [0, 1], [10, 40])
    listed = yaml.safe_load(matrix.text(params))["sweep_cells"]
    assert set(listed) == {*SPLIT, cells.VARIATIONS}
    assert listed[cells.VARIATIONS]["size-ptbxl-diffwave-2of2"] == {
        "dataset": "ptbxl",
        "generator": "diffwave",
        "sweep": "size",
        "part": "2of2",
        "command": "ptbxl diffwave --sweep size --part 2of2",
        "waits_for": "data/prepared/ptbxl",
        "parameters": "sweeps.size",
        "models": "models/variations/size/ptbxl/diffwave/2of2",
    }
    assert [*listed["sweep"]][:2] == [f"mixture-ptbxl-diffwave-{one}of2" for one in (1, 2)]
    assert listed["backbones"]["ptbxl-xresnet1d-2of2"] == {
        "dataset": "ptbxl",
        "backbone": "xresnet1d",
        "part": "2of2",
        "command": "backbones ptbxl --backbone xresnet1d --part 2of2",
        "results": "results/backbones/ptbxl/xresnet1d-2of2",
    }
    folders = [cell["results"] for stage in SPLIT for cell in listed[stage].values()]
    of_grid = [cell.results.as_posix() for cell in grid.cells(params) if cell.stage in SPLIT]
    assert sorted(folders) == sorted(of_grid)
    assert {stage(name) for name in SWEEPS} - set(SPLIT) == {"equal_size"}


def test_a_training_waits_for_a_search_that_can_change_it() -> None:
    tree = DEMO.model_dump()
    tuning = tree["profiles"]["demo"]["generators"]["diffwave"]["tuning"] = {}
    found = {}
    for key in ("sampling.guidance", "training.denoiser.learning_rate"):
        tuning["space"] = {key: {"low": 0.0001, "high": 1.0}}
        listed = yaml.safe_load(matrix.text(Params.model_validate(tree)))["sweep_cells"]
        found[key] = listed[cells.VARIATIONS]["size-ptbxl-diffwave"]["waits_for"]
    assert [*found.values()] == ["data/prepared/ptbxl", "models/tuning/ptbxl/diffwave.yaml"]


def test_sweeps_that_read_classifiers_wait_for_them() -> None:
    params = study(1, [0], [10])
    listed = yaml.safe_load(matrix.text(params))["sweep_cells"]["sweep"]
    for name in OF_GENERATORS:
        rows = get(name).experiments(params, ITEM)
        reads = {f"models/classifiers/{row.start.rpartition('/synthetic/')[0]}" for row in rows}
        waits_for = listed[f"{name}-ptbxl-diffwave"]["starts_from"]
        if any(row.start for row in rows):
            assert reads == {waits_for}, name
        elif name in WITH_VARIATIONS:
            assert waits_for == f"models/variations/{name}/ptbxl/diffwave"
        else:
            assert name in WITHOUT_CLASSIFIERS, "it could start earlier"
            assert waits_for == "models/generators/ptbxl/diffwave"


def test_commands_that_start_at_once_write_one_matrix(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("fork")
    for attempt in range(5):
        file = tmp_path / str(attempt) / "matrix.yaml"
        file.parent.mkdir()
        written = processes.SimpleQueue()

        def write(file: Path = file, put: Callable[[bool], None] = written.put) -> None:
            put(matrix.write(DEMO, file))

        writers = [processes.Process(target=write) for _ in range(4)]
        for one in writers:
            one.start()
        for one in writers:
            one.join()
        assert [one.exitcode for one in writers] == [0] * 4
        assert sorted(written.get() for _ in writers) == [False] * 3 + [True]
        matrix.check(DEMO, file)


def test_a_part_that_does_not_exist_is_named() -> None:
    params = study(3, [0, 1], [10])
    assert get("size").parts(params, ITEM) == 3
    for wrong in ("0of2", "3of2", "1of11", "2", "aofb", "-1of2"):
        with pytest.raises(EcgforgeError, match=f"--part {wrong}: use one such as 1of10"):
            get("size").sources_of(params, {**ITEM, "part": wrong})


@pytest.mark.slow
def test_parts_have_the_predictions_of_the_unsplit_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project.make(tmp_path)
    params = study(2, [1], [25, 50])
    demo = params.active
    short = {"steps": 2, "evaluate_every": 1, "warmup_steps": 1, "batch_size": 4}
    diffwave = demo.generators["diffwave"]
    diffwave.network.update(layers=1, channels=8)
    diffwave.training["denoiser"] = diffwave.training["denoiser"].model_copy(update=short)
    diffwave.sampling.update(steps=1)
    demo.generators["diffwave"] = diffwave
    resnet = demo.classifiers["resnet1d"]
    resnet.network.update(widths=[4])
    training = resnet.training.model_copy(update=short)
    demo.classifiers["resnet1d"] = resnet.model_copy(update={"training": training})
    small = demo.synthesis.model_copy(update={"train": 12, "validation": 2, "test": 2})
    study_ = demo.study.model_copy(update={"synthetic_share": 0.5})
    profiles = {"demo": demo.model_copy(update={"synthesis": small, "study": study_})}
    params = params.model_copy(update={"profiles": profiles})
    items = [ITEM, *({**ITEM, "part": part} for part in ("1of2", "2of2"))]
    for item in items:
        own, real = {**item, "sweep": "size"}, Path("data/prepared/ptbxl")
        if "part" in item:
            shutil.rmtree(cells.variations({**ITEM, "sweep": "size"}), ignore_errors=True)
            for part in ("1of2", "2of2"):  # a cell may need the generator of another part
                trained = own | {"part": part}
                train_variations.train(params, trained, real, cells.variations(trained))
        else:
            train_variations.train(params, own, real, cells.variations(own))
        folders = (Path("data"), Path("models"), cells.results("size", item))
        sweep.sweep(params, "size", item, *folders)
    one, *pieces = (predictions.read([cells.results("size", item)]) for item in items)
    assert [piece["point"].unique().tolist() for piece in pieces] == [["25"], ["50"]]
    together = pd.concat(pieces, ignore_index=True)
    pd.testing.assert_frame_equal(together, one, check_exact=True, check_categorical=False)
