"""The sweeps: their rows, and what they compare, on few records and few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import registry_project as project
from ecgforge import grid
from ecgforge.classifiers.common import registry
from ecgforge.errors import EcgforgeError
from ecgforge.files import read_csv
from ecgforge.params import Params, Sweeps
from ecgforge.records.record_set import RecordSet, write_record_set
from ecgforge.stages import sweep, train_variations
from ecgforge.stages.common import classifier_runs
from ecgforge.stages.common.classifier_runs import ClassifierRuns
from ecgforge.stages.common.tracked import Stage
from ecgforge.study import fine_tuning, mixtures, predictions
from ecgforge.study.experiment import Experiment
from ecgforge.study.fine_tuning import Method
from ecgforge.study.settings import training_data
from ecgforge.sweeps.common import cells
from ecgforge.sweeps.common.registry import ON_REAL, SWEEPS, get
from ecgforge.tracking import runs, store
from ecgforge.training.batches import Records
from ecgforge.training.fit import Outcome
from ecgforge.training.objective import Objective

ROOT = Path(__file__).parents[1]
ITEM = {"dataset": "ptbxl", "generator": "diffwave"}


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    project.make(tmp_path)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    demo = tree["profiles"]["demo"]
    short = {"steps": 2, "evaluate_every": 1, "warmup_steps": 1, "batch_size": 4}
    demo["generators"]["diffwave"]["network"] |= {"layers": 1, "channels": 8}
    demo["generators"]["diffwave"]["training"]["denoiser"] |= short
    demo["generators"]["diffwave"]["sampling"]["steps"] = 1
    demo["synthesis"] |= {"train": 12, "validation": 2, "test": 2}
    demo["classifiers"]["resnet1d"]["network"] |= {"widths": [4]}
    demo["classifiers"]["resnet1d"]["training"] |= short
    demo["study"]["synthetic_share"] = 0.5
    demo["sweeps"]["seeds"], demo["sweeps"]["size"]["percents"] = [1], [50]
    tree["sweep_targets"]["generators"] = ["diffwave"]
    params = Params.model_validate(tree)
    assert params.generator("diffwave").seed not in params.active.sweeps.seeds
    return params


def train_size(params: Params) -> None:
    """Train the generators of the sweep `size`, as its stage does."""
    item = {"sweep": "size", **ITEM}
    real = Path("data/prepared/ptbxl")
    train_variations.train(params, item, real, cells.variations(item))


@pytest.mark.slow
def test_a_classifier_of_few_real_records_has_those_that_the_generator_has(
    params: Params, tmp_path: Path
) -> None:
    train_size(params)
    sweep.sweep(params, "size", ITEM, Path("data"), Path("models"), tmp_path / "size")
    found = predictions.read([tmp_path / "size"])
    settings = {
        augmented: [*rows["setting"].unique()] for augmented, rows in found.groupby("augmented")
    }
    assert settings == {False: ["TrRTeR", "TrSTeR", "TrRSTeR"], True: ["TrRTeR", "TrRSTeR"]}
    found = found[~found["augmented"]]
    runs = ClassifierRuns(Stage("classify", params, ITEM), True, Path("models"))
    real = RecordSet.open(Path("data/prepared/ptbxl"))
    few = mixtures.share(real, 50, params.generator("diffwave").seed)
    assert 0 < len(few.split("train")) < len(real.split("train"))
    row, data = Experiment("TrRTeR", "ptbxl", "resnet1d", 1), training_data("real", few, None, 0, 0)
    runs.train(row, data, real, params.classifier)
    columns = [name for name in found.columns if name.startswith(predictions.PROBABILITY)]
    own = found.loc[found["setting"] == "TrRTeR", columns].to_numpy()
    np.testing.assert_array_equal(own, runs.tested[0].predictions[columns].to_numpy())


def test_a_generator_that_a_sweep_trains_has_a_page_of_its_records(params: Params) -> None:
    size, item = get("size"), {"sweep": "size", **ITEM}
    cell = sweep._Cell(
        size, params, item, Stage("sweep", params, item), Path("data"), Path("models")
    )
    train_size(params)
    (source,) = size.sources(params, item)
    with cell.records(source) as (synthetic, _):
        assert synthetic is not None
    key = "tags.kind = 'generator' and tags.sweep = 'size'"
    experiment = store.client().get_experiment_by_name(runs.EXPERIMENT)
    found = store.client().search_runs([experiment.experiment_id], key)
    assert found
    for run in found:  # of other tests, too
        page = (store.read_file(run.info.run_id, "records.html") or b"").decode()
        assert all(f"<h2>{rhythm}</h2>" in page for rhythm in cell.real.about.rhythms)
    assert page.count("<h3>diffwave, ") == len(cell.real.about.rhythms)
    assert page.count("<h3>simulated, ") == len(cell.real.about.rhythms)


def test_balanced_sampling_draws_all_rhythms_equally_often() -> None:
    params = Params.read(ROOT / "params.yaml").with_profile("sample")
    own = get("balanced_sampling")
    found = own.experiments(params, {"dataset": "ptbxl"})
    seeds = params.active.sweeps.seeds
    assert [(row.seed, row.point, row.augmented) for row in found] == [
        (seed, "1", augmented) for seed in seeds for augmented in (False, True)
    ]
    assert {(row.setting, row.generator, row.trains) for row in found} == {("TrRTeR", "", True)}
    settings = own.settings(params, found[0])
    study = params.classifier_settings(params.backbone)
    assert settings.training.class_balance_power == 1 != study.training.class_balance_power


def test_pre_training_without_labels_is_compared_with_fine_tuning_point_by_point() -> None:
    params = Params.read(ROOT / "params.yaml").with_profile("sample")
    own, transfer = get("self_supervised"), get("transfer")
    tuned = [row for row in transfer.experiments(params, ITEM) if row.method == "full"]
    found = own.experiments(params, {"dataset": "ptbxl"})
    assert [(row.seed, row.point, row.augmented) for row in found] == [
        (row.seed, row.point, row.augmented) for row in tuned
    ]
    assert {(row.setting, row.generator, row.start) for row in found} == {("TrRTeR", "", "")}
    assert own.settings(params, found[0]) == transfer.settings(params, tuned[0])


@pytest.mark.slow
def test_classifiers_of_a_seed_share_one_pre_training_on_all_real_training_records(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = params.active
    short = {"steps": 2, "evaluate_every": 1, "warmup_steps": 1, "batch_size": 4}
    sections = demo.sweeps.sections
    tree = demo.sweeps.model_dump() | {"seeds": [0, 1]}
    tree["transfer"] = {
        "percents": [50],
        "methods": ["full"],
        "training": sections["transfer"]["training"] | short,
    }
    tree["self_supervised"] = {"pretraining": sections["self_supervised"]["pretraining"] | short}
    active = demo.model_copy(update={"sweeps": Sweeps.model_validate(tree)})
    params = params.model_copy(update={"profiles": {params.profile: active}})
    real, trainings = RecordSet.open(Path("data/prepared/ptbxl")), []
    fit = classifier_runs.fit.fit

    def watched(objective: Objective, train: list[RecordSet], *args: Any, **named: Any) -> Outcome:
        outcome = fit(objective, train, *args, **named)
        trainings.append((objective.monitor, named["seed"], len(train[0]), outcome.steps))
        return outcome

    monkeypatch.setattr(classifier_runs.fit, "fit", watched)
    folders = (Path("data"), Path("models"))
    sweep.sweep(params, "self_supervised", {"dataset": "ptbxl"}, *folders, tmp_path / "one")
    few = len(mixtures.share_of(real, 50, 0).train[0])
    assert few < len(real.split("train"))
    assert trainings == [
        one
        for seed in (0, 1)
        for one in [("loss", seed, len(real.split("train")), 2)] + 2 * [("f1_macro", seed, few, 2)]
    ]
    found = predictions.read([tmp_path / "one"])
    assert found.groupby(["seed", "augmented"]).size().eq(len(real.split("test"))).all()
    assert len(found.groupby(["seed", "augmented"])) == 4
    # killed after the first classifier: what it left behind gives the same predictions
    trains = ClassifierRuns.train
    started: list[Experiment] = []

    def killed(runs: ClassifierRuns, experiment: Experiment, *args: Any, **named: Any) -> None:
        started.append(experiment)
        if len(started) == 2:
            raise KeyboardInterrupt
        trains(runs, experiment, *args, **named)

    monkeypatch.setattr(ClassifierRuns, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(params, "self_supervised", {"dataset": "ptbxl"}, *folders, tmp_path / "two")
    monkeypatch.setattr(ClassifierRuns, "train", trains)
    sweep.sweep(params, "self_supervised", {"dataset": "ptbxl"}, *folders, tmp_path / "two")
    pd.testing.assert_frame_equal(predictions.read([tmp_path / "two"]), found)


def test_a_sweep_without_points_has_empty_tables(params: Params, tmp_path: Path) -> None:
    settings = params.active.sweeps.model_copy(update={"seeds": []})
    active = params.active.model_copy(update={"sweeps": settings})
    none = params.model_copy(update={"profiles": {params.profile: active}})
    for name, chosen in {"none": none, "some": params}.items():
        folders = (Path("data"), Path("models"), tmp_path / name)
        sweep.sweep(chosen, "scratch", {"dataset": "ptbxl"}, *folders)
    assert list(read_csv(tmp_path / "none/runs.csv").columns) == predictions.RUN_COLUMNS
    assert predictions.read([tmp_path / "none"]).empty
    both = predictions.read([tmp_path / "none", tmp_path / "some"])
    pd.testing.assert_frame_equal(both, predictions.read([tmp_path / "some"]))


def test_no_two_rows_of_the_grid_have_the_same_keys() -> None:
    params = Params.read(ROOT / "params.yaml")
    for profile in params.profiles:
        table = grid.table(params.with_profile(profile))
        assert len(table) > 50
        assert not table.duplicated().any()
        assert table.notna().all(axis=None)


@pytest.mark.parametrize("name", SWEEPS)
def test_rows_of_a_sweep_name_their_cell(name: str) -> None:
    params = Params.read(ROOT / "params.yaml")
    item = {"dataset": "ptbxl", "generator": "diffwave", "backbone": "transformer"}
    rows = get(name).experiments(params, item | {"trained_on": "chapman"})
    assert rows
    seeds = {*params.active.study.seeds}
    assert {row.dataset for row in rows} == {"ptbxl"}
    assert {row.seed for row in rows} <= seeds
    assert all(row.sweep for row in rows), "rows without a sweep are those of the settings"
    assert {row.generator for row in rows} <= {"", "diffwave"}
    assert all(row.setting == "TrRTeR" for row in rows if not row.generator)


def test_an_unknown_sweep_is_named() -> None:
    with pytest.raises(EcgforgeError, match="unknown sweep 'mixtures': use one of .*mixture"):
        get("mixtures")


@pytest.mark.parametrize(
    ("name", "item", "words"),
    [
        ("mixture", {"dataset": "ptbxl"}, "the sweep 'mixture' needs a generator"),
        ("backbones", {"dataset": "ptbxl"}, "the sweep 'backbones' needs --backbone"),
        ("cross_dataset", ITEM, "the sweep 'cross_dataset' needs --trained-on"),
        ("scratch", ITEM, "the sweep 'scratch' does not take a generator"),
        ("self_supervised", ITEM, "the sweep 'self_supervised' does not take a generator"),
    ],
)
def test_a_cell_that_is_not_of_the_sweep_is_named(
    name: str, item: dict[str, str], words: str
) -> None:
    with pytest.raises(EcgforgeError, match=words):
        get(name).check(item)


@pytest.mark.parametrize("name", SWEEPS)
def test_the_cells_of_the_grid_are_those_that_a_sweep_takes(name: str) -> None:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["sweep_targets"] |= {"equal_size": ["ptbxl"], "real_sweeps": [*ON_REAL]}
    cells = [cell for cell in grid.cells(Params.model_validate(tree)) if cell.sweep]
    own = [cell for cell in cells if cell.sweep.name == name]
    assert own
    for cell in own:
        get(name).check(cell.item)


def test_synthetic_records_take_the_place_of_as_many_real_ones(params: Params) -> None:
    """Of each rhythm; the other modes keep all real records."""
    mixture = params.active.sweeps.sections["mixture"] | {"percents": [50], "replaced": [30]}
    sweeps = params.active.sweeps.model_copy(update={"mixture": mixture})
    params = params.model_copy(
        update={"profiles": {params.profile: params.active.model_copy(update={"sweeps": sweeps})}}
    )
    real = RecordSet.open(Path("data/prepared/ptbxl"))
    synthetic = real  # for their numbers alone
    train, sweep_ = real.split("train"), get("mixture")
    rows = {row.sweep: row for row in sweep_.experiments(params, ITEM) if not row.augmented}
    assert [row.point for row in rows.values()] == ["50", "50", "30"]
    kept, put_in = sweep_.training_data(params, rows["mixture, replace"], real, synthetic).train
    assert len(kept) + len(put_in) == len(train)
    for rhythm, count in train.counts().items():
        assert put_in.counts()[rhythm] == count - kept.counts()[rhythm]
        assert abs(put_in.counts()[rhythm] - 0.3 * count) <= 0.5
    assert set(kept.records["id"]) < set(train.records["id"])
    added = sweep_.training_data(params, rows["mixture, proportion"], real, synthetic).train
    assert added[0].rows.tolist() == train.rows.tolist()


def merged_set(folder: Path) -> RecordSet:
    """Write records of two sources in turn; only the second one has the rhythm ST."""
    real = RecordSet.open(Path("data/prepared/ptbxl"))
    places = np.array(["ptbxl", "chapman"])[np.arange(len(real)) % 2]
    table = real.records.assign(dataset=places)
    kept = ((table["dataset"] == "chapman") | (table["rhythm"] != "ST")).to_numpy()
    with write_record_set(folder, replace(real.about, origin="mixed")) as writer:
        writer.append(real.signals()[kept], table[kept])
    return RecordSet.open(folder)


def test_equal_sizes_differ_in_their_sources_alone(params: Params) -> None:
    merged, item = merged_set(Path("merged")), {"trained_on": "merged", "dataset": "ptbxl"}
    equal_size, train = get("equal_size"), merged.split("train")
    rows = {row.point: row for row in equal_size.experiments(params, item) if not row.augmented}
    alone, equal = (
        equal_size.training_data(params, rows[point], merged, None)
        for point in ("alone", "merged, equal size")
    )
    assert rows["merged, all records"].start == "merged/real/seed-1"
    assert not rows["merged, all records"].trains
    own = (train.records["dataset"] == "ptbxl").to_numpy()
    assert alone.train[0].rows.tolist() == train.rows[own].tolist()
    assert equal.train[0].counts() == alone.train[0].counts()
    assert equal.train[0].counts()["ST"] == 0 < train.counts()["ST"]
    assert set(equal.train[0].records["dataset"]) == {"ptbxl", "chapman"}
    assert set(equal.train[0].records["split"]) == {"train"}
    other = replace(rows["merged, equal size"], seed=2)
    redrawn = equal_size.training_data(params, other, merged, None).train[0]
    assert redrawn.rows.tolist() != equal.train[0].rows.tolist()
    for data in (alone, equal):
        assert set(data.validation[0].records["dataset"]) == {"ptbxl"}
        assert set(data.validation[0].records["split"]) == {"validation"}


@pytest.mark.slow
def test_equal_sizes_are_tested_on_records_of_the_source(params: Params, tmp_path: Path) -> None:
    merged = merged_set(Path("data/prepared/merged_2of5"))
    scale = Records([merged]).scale()
    classifier = registry.create(params.classifier, [*merged.about.rhythms], scale, seed=0)
    for kind in ("real", "real/augmented"):
        folder = Path("models/classifiers/merged_2of5") / kind / "seed-1"
        registry.save(classifier, params.backbone, folder)
    item = {"trained_on": "merged_2of5", "dataset": "ptbxl_2of5"}
    sweep.sweep(params, "equal_size", item, Path("data"), Path("models"), tmp_path / "out")
    found, tested = predictions.read([tmp_path / "out"]), merged.split("test").records
    expected = tested.loc[tested["dataset"] == "ptbxl", "id"].tolist()
    by_point = found.groupby(["point", "augmented"])["id"].apply(list)
    assert len(by_point) == 6
    assert all(ids == expected for ids in by_point)
    assert (set(found["dataset"]), set(found["fold"])) == ({"ptbxl"}, {2})


def test_classifiers_of_one_dataset_are_tested_on_the_other() -> None:
    params = Params.read(ROOT / "params.yaml").with_profile("demo")
    item = {"trained_on": "ptbxl", "dataset": "chapman", "generator": "diffwave"}
    found = [
        (row.setting, row.augmented, row.start, row.trains)
        for row in get("cross_dataset").experiments(params, item)
    ]
    assert found == [
        ("TrRTeR", False, "ptbxl/real/seed-0", False),
        ("TrRTeR", True, "ptbxl/real/augmented/seed-0", False),
        ("TrRSTeR", False, "ptbxl/diffwave/mixed/seed-0", False),
        ("TrRSTeR", True, "ptbxl/diffwave/augmented/seed-0", False),
        ("TrRSTeR", False, "", True),
        ("TrRSTeR", True, "", True),
    ]


@pytest.mark.parametrize(
    ("method", "five", "six"),
    [
        ("full", [5], [6]),
        ("linear_probe", [1], [1]),
        ("gradual_unfreezing", [1, 3, 5], [1, 3, 6]),
        ("early_layers_frozen", [3], [3]),
    ],
)
def test_a_method_of_fine_tuning_says_how_many_parts_each_phase_trains(
    method: Method, five: list[int], six: list[int]
) -> None:
    assert fine_tuning.phases(method, 5) == five
    assert fine_tuning.phases(method, 6) == six
    assert fine_tuning.phases(method, 1)[-1] == 1
