"""The plan of a profile agrees with the pipeline: as many cells, and the work of each."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from dvc.repo import Repo
from torch import nn

from ecgforge import console, workers
from ecgforge.commands import foresight, workload
from ecgforge.commands import plan as stage
from ecgforge.commands.chain import longest_chain
from ecgforge.params import Compute, Params
from ecgforge.records.record_set import About, write_record_set
from ecgforge.stages import matrix
from ecgforge.sweeps.common.registry import ON_REAL, get

ROOT = Path(__file__).parents[1]
REAL = {"SR": 60, "SB": 20, "ST": 20}


@pytest.fixture
def params() -> Params:
    return Params.read(ROOT / "params.yaml")


def works(params: Params) -> dict[str, workload.Work]:
    return workload.workload(params, dict.fromkeys(params.record_sets, REAL))


@pytest.mark.parametrize("profile", ["demo", "small", "sample", "paper", "paper_10000", "gpu"])
def test_it_counts_the_cells_of_dvc(params: Params, profile: str) -> None:
    tree, lists = (
        yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"],
        yaml.safe_load((ROOT / "params.yaml").read_text())
        | yaml.safe_load(matrix.text(params.with_profile(profile))),
    )

    def length(reference: str) -> int:
        found = lists
        for key in reference.strip("${}").split("."):
            found = found[key]
        return len(found)

    cells = 0
    for one in tree.values():
        count = 1
        for reference in [
            *one.get("matrix", {}).values(),
            *([one["foreach"]] if "foreach" in one else []),
        ]:
            count *= length(reference)
        cells += count
    assert sum(work.cells for work in works(params.with_profile(profile)).values()) == cells


def test_the_work_of_a_cell_is_that_of_its_points(params: Params) -> None:
    params = params.model_copy(update={"folds": {}})
    found, steps = works(params), params.classifier.training.steps
    seeds = len(params.active.sweeps.seeds)
    mixture, transfer, size = (
        get(name).parameters(params) for name in ("mixture", "transfer", "size")
    )
    # Three datasets, two seeds and one of sweeps: TrRTeR plain and augmented; of three generators
    # TrSTeR, TrRSTeR and that augmented.
    assert found["classify_real"].steps == {"resnet1d": 3 * (2 + 1) * steps}
    assert found["classify"].steps == {"resnet1d": 9 * (2 + 2 + 1) * steps}
    tuned = 2 * len(transfer.percents) * len(transfer.methods) * transfer.training.steps
    assert found["transfer"].steps == {"resnet1d": tuned}
    assert found["mixture"].steps == {"resnet1d": 2 * 2 * len(mixture.percents) * seeds * steps}
    # Of fewer real records each classifier: real ones alone, and both, plain and augmented, and
    # synthetic ones alone.
    assert found["size"].steps == {"resnet1d": 5 * len(size.percents) * seeds * steps}
    # of shares of the real records, and with seed 1; the study has trained the one with seed 0
    trained = len(size.percents) + 1
    assert found["train_variations"].trainings == {"diffwave": trained}
    assert found["train_variations"].cells == 3
    assert found["scratch"].steps == {
        "resnet1d": 2 * len({*transfer.percents} - {100}) * seeds * steps
    }
    # Of each of three rhythms, for each of three datasets.
    drawn = params.active.synthesis
    assert isinstance(drawn.train, int)
    assert found["synthesize"].records_generated == dict.fromkeys(
        params.generators, 3 * 3 * (drawn.train + drawn.validation + drawn.test)
    )
    # 100 real records are 34 of each of three rhythms; in addition 20 and 20 of each for validation
    # and test.
    match_real = works(params.with_profile("sample"))["synthesize"].records_generated
    assert match_real == dict.fromkeys(params.generators, 3 * 3 * (34 + 20 + 20))
    many = works(params.with_profile("paper_10000"))["synthesize"].records_generated
    assert many == dict.fromkeys(params.generators, 3 * 3 * (10_000 + 200 + 200))
    # Half of 100 in proportion are 30, 10, 10; to balance 0, 25, 25.
    assert found["mixture"].records_generated == {"diffwave": 30 + 25 + 25}
    assert (found["quality"].scored, found["ablation"].scored) == (
        9,
        pytest.approx((1 + len(params.generator("diffwave").ablations)) / 3),
    )
    # 100 real records of each of three datasets, and as many synthetic ones as are asked for of
    # three rhythms, by three generators.
    assert found["quality"].searched == [(3 * drawn.train, 100)] * 9
    assert found["generator_seeds"].steps == {"resnet1d": 2 * 3 * steps}
    assert found["generator_seeds"].records_generated == {
        "diffwave": 2 * found["synthesize"].records_generated["diffwave"] // 3
    }
    # Both directions, with records of there as they are and augmented.
    assert found["cross_dataset"].steps == {"resnet1d": 2 * 2 * seeds * steps}
    # Other classifiers: real records, and both kinds, plain and augmented; synthetic ones alone.
    others = map(params.classifier_settings, params.sweep_targets.backbones)
    assert found["backbones"].steps == {
        one.backbone: 5 * seeds * one.training.steps for one in others
    }
    ablated = params.model_copy(update={"generators": ["time_vqvae"]})
    targets = params.sweep_targets.model_copy(update={"generators": ["time_vqvae"]})
    ablated = ablated.model_copy(update={"sweep_targets": targets})
    changed = [key for one in params.generator("time_vqvae").ablations.values() for key in one]
    networks = sum(key.startswith("network.") for key in changed)
    assert 0 < networks < len(changed)
    trained = works(ablated)["train_variations"].trainings["time_vqvae"]
    assert trained == networks + len(size.percents)


def test_a_tuned_generator_is_trained_in_its_trials(params: Params) -> None:
    tuned, plain = works(params.with_profile("paper")), works(params.with_profile("gpu"))
    sets = len(params.record_sets)
    assert tuned["tune_generator"].trainings == dict.fromkeys(params.generators, sets)
    assert not sum(tuned["train_generator"].trainings.values())
    assert plain["train_generator"].trainings == dict.fromkeys(params.generators, sets)
    assert not sum(plain["tune_generator"].trainings.values())


def test_a_pre_training_without_labels_counts_once_for_each_seed(params: Params) -> None:
    targets = params.sweep_targets.model_copy(update={"real_sweeps": ["self_supervised"]})
    params = params.with_profile("sample").model_copy(update={"sweep_targets": targets})
    sweep, transfer = get("self_supervised"), get("transfer").parameters(params)
    pretraining = sweep.parameters(params).pretraining
    seeds, batch = len(params.active.sweeps.seeds), params.classifier.training.batch_size
    views = 2 * pretraining.batch_size * pretraining.steps
    tuned = 2 * len(transfer.percents) * transfer.training.steps
    found = works(params)["self_supervised"]
    assert found.cells == 1
    assert found.steps == {"resnet1d": seeds * (tuned + views // batch)}


def test_prepared_records_count_for_their_own_profile_alone(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo, sample = params.with_profile("demo"), params.with_profile("sample")
    prepared_set(demo, stage.PREPARED / "ptbxl")
    assert stage._counts(demo, "ptbxl") == {"SR": 2, "AFIB": 1}
    assert sum(stage._counts(sample, "ptbxl").values()) > 100, (
        "of the source, since the records are of the demo"
    )
    source = demo.active.sources["ptbxl"].model_copy(update={"records": 2000})
    active = demo.active.model_copy(update={"sources": {**demo.active.sources, "ptbxl": source}})
    assert sum(
        stage._counts(demo.model_copy(update={"profiles": {"demo": active}}), "ptbxl").values()
    ) == pytest.approx(1600, abs=7)
    preparation = demo.active.preparation.model_copy(update={"min_records": 1})
    active = demo.active.model_copy(update={"preparation": preparation})
    assert (
        sum(stage._counts(demo.model_copy(update={"profiles": {"demo": active}}), "ptbxl").values())
        > 100
    )


def prepared_set(params: Params, folder: Path) -> None:
    """Write three training records as the profile in use prepares them."""
    made = {
        "preprocessing": params.preprocessing.model_dump(mode="json"),
        "preparation": params.active.preparation.model_dump(mode="json"),
        "by_dataset": {"ptbxl": {"catalogue": params.source("ptbxl").records, "records": 3}},
    }
    ids = ["1", "2", "3"]
    table = pd.DataFrame(
        {
            "id": ids,
            "patient": ids,
            "dataset": "ptbxl",
            "rhythm": ["SR", "AFIB", "SR"],
            "split": "train",
        }
    )
    with write_record_set(
        folder, About(100, 10, "mV", ("SR", "AFIB"), "simulated", made)
    ) as writer:
        writer.append(
            np.zeros((3, 8, 10), np.float32), table.assign(age=50.0, sex="F", origin="simulated")
        )


@pytest.mark.slow
def test_the_plan_is_printed_before_anything_runs(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "PARTS", 1)  # this test does not check the speeds
    speeds = stage._speeds(params, len(REAL))
    monkeypatch.setattr(stage, "_speeds", lambda *_: speeds)  # measured once for both plans
    stage.show(params)
    output = capsys.readouterr().out
    assert "profile demo" in output
    assert "in parallel" in output
    assert "the expected sizes of the sources" in output
    assert re.search(r"the largest training needs [\d.]+ [MG]B of memory", " ".join(output.split()))
    assert "the smallest gain in macro-F1 that the study can detect" in output
    assert "5 rounds of cross-fitting" in output
    assert "the smallest gain that each claim can detect" in output
    assert "80% power, at 95% confidence. Assumed: recall 0.6" in output
    with console.document(True):
        stage.show(params)
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "profile demo" in printed.err
    assert found["cells"] == sum(one["cells"] for one in found["stages"])
    assert found["parallel_seconds"] < found["serial_seconds"]
    assert found["detectable_gains"][0]["study"] == "as planned"
    assert set(found["detectable_gains"][0]["macro_f1"]) == set(params.datasets)
    assert list(tmp_path.iterdir()) == []


def test_the_disk_is_that_of_the_record_sets(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prepared or synthetic record has 8 leads of 1,000 samples of 4 bytes, and its row."""
    monkeypatch.chdir(tmp_path)
    real = dict.fromkeys(params.record_sets, REAL)
    found = stage._disk(params, real)
    sizes = {name: params.source(name).records for name in ("ptbxl", "chapman")}
    raw = {"ptbxl": 12 * 1000 * 2, "chapman": 12 * 5000 * 2}
    raw_bytes = sum(sizes[name] * raw[name] for name in raw)
    assert raw_bytes < found["raw"] < 1.2 * raw_bytes
    of = {"merged": sum(sizes.values())} | sizes
    prepared = sum(of[name.split("_")[0]] for name in params.record_sets)
    assert found["prepared"] == pytest.approx(prepared * 32_000, rel=0.01)
    drawn = params.active.synthesis
    each = 3 * (drawn.train + drawn.validation + drawn.test)  # of three rhythms
    sets = len(params.record_sets) * len(params.generators)
    assert found["synthetic"] == pytest.approx(sets * each * 32_000, rel=0.01)
    alone = params.model_copy(update={"generators": params.generators[:1]})
    assert stage._disk(alone, real)["synthetic"] < found["synthetic"] / 2


@pytest.mark.parametrize(
    ("size", "words"), [(2.5e6, "2 MB"), (999e6, "999 MB"), (1.26e9, "1.3 GB")]
)
def test_sizes_have_units(size: float, words: str) -> None:
    assert stage._size(size) == words


def above_in_dvc(params: Params) -> dict[str, set[str]]:
    """Return the cells of dvc.yaml in topological order, each with those that it waits for."""
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    tree = params.model_dump(mode="json", exclude={"profiles"})
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    matrix.write(params)
    Path("src/ecgforge").mkdir(parents=True)
    with Repo.init(no_scm=True) as repo:
        shutil.copytree(ROOT / ".dvc/plots", ".dvc/plots")
        graph = repo.index.graph
        order = reversed([*networkx.topological_sort(graph)])
        return {one.addressing: {up.addressing for up in graph.successors(one)} for one in order}


def listed(cell: str) -> str:
    """Return the name under which the plan lists the stage of a cell."""
    name, _, values = cell.partition("@")
    name = values.partition("-")[0] if name in ("sweep", "sweep_real") else name
    return "prepare, merge" if name in ("prepare", "merge") else name


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"folds": {}},
        {"sweep_targets": {"datasets": []}},
        {"folds": {}, "sweep_targets": {"parts": 3, "real_sweeps": [*ON_REAL]}},
        {"sweep_targets": {"cross_dataset": [], "equal_size": ["ptbxl"]}},
    ],
)
def test_the_longest_chain_is_that_of_dvc(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: dict[str, Any]
) -> None:
    """The cells of a stage take equally long, those of one stage much longer than others."""
    monkeypatch.chdir(tmp_path)
    targets = params.sweep_targets.model_copy(update=update.get("sweep_targets", {}))
    params = params.model_copy(update={**update, "sweep_targets": targets})
    real, above = dict.fromkeys(params.record_sets, REAL), above_in_dvc(params)
    stages = [name for name, work in workload.workload(params, real).items() if work.cells]
    assert {*stages} == {*map(listed, above)}
    random = np.random.default_rng(0)
    for slow in (*stages, *stages):
        seconds = dict(zip(stages, random.integers(1, 9, len(stages)).astype(float), strict=True))
        seconds[slow] += 20

        def of(
            works: Mapping[str, workload.Work], seconds: dict[str, float] = seconds
        ) -> dict[str, float]:
            return {name: work.cells * seconds.get(name, 0) for name, work in works.items()}

        ends: dict[str, float] = {}
        for cell, needed in above.items():
            start = max((ends[one] for one in needed), default=0.0)
            ends[cell] = start + seconds[listed(cell)]
        assert longest_chain(params, real, of) == pytest.approx(max(ends.values())), slow


def test_a_training_for_a_sweep_waits_for_tuning_that_can_change_it(params: Params) -> None:
    real = dict.fromkeys(params.record_sets, REAL)

    def chain(changed: Params) -> float:
        long = {"tune_generator": 100.0, "train_variations": 100.0}

        def of(works: Mapping[str, workload.Work]) -> dict[str, float]:
            return {name: work.cells * long.get(name, 1.0) for name, work in works.items()}

        return longest_chain(changed, real, of)

    def tuned(key: str) -> Params:
        tree = params.model_dump()
        space = {key: {"low": 0.0001, "high": 1.0}}
        tree["profiles"]["demo"]["generators"]["diffwave"]["tuning"] = {"space": space}
        return Params.model_validate(tree)

    assert chain(tuned("sampling.guidance")) < 150
    assert 200 < chain(tuned("training.denoiser.learning_rate")) < 220


@pytest.mark.parametrize("visible", [[], ["a", "b", "c"]])
@pytest.mark.slow
def test_the_time_in_parallel_is_that_of_the_gpus_in_use_or_of_the_cores(
    params: Params,
    visible: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "gpus", lambda: visible)
    monkeypatch.setattr(workers, "cores", lambda: 5)
    names = params.active.generators
    ones = [dict.fromkeys(keys, 3600.0) for keys in (params.active.classifiers, names, names)]
    monkeypatch.setattr(stage, "_speeds", lambda *_: stage._Speeds(*ones))
    profile = params.active.model_copy(update={"compute": Compute(accelerator="auto", threads=1)})
    stage.show(params.model_copy(update={"profiles": {params.profile: profile}}))
    output = " ".join(capsys.readouterr().out.split())
    slots, each = (3, "GPU") if visible else (5, "core")
    assert f"{slots} in parallel, one for each {each}" in output
    (total,) = re.findall(r"cells: ([\d.]+) h one after", output)
    (parallel,) = re.findall(r"about ([\d.]+) h with", output)
    assert float(parallel) == pytest.approx(float(total) / slots, rel=0.01)


def test_networks_are_timed_on_the_device_and_with_the_precision_of_trainings(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    class Classifier(nn.Module):
        def objective(self) -> Any:
            return SimpleNamespace(loss=self.loss)

        def loss(self, *_: object) -> dict[str, torch.Tensor]:
            seen.append(torch.is_autocast_enabled("cpu"))
            return {"loss": torch.zeros(1, requires_grad=True)}

    monkeypatch.setattr(stage.classifiers, "create", lambda *_, **__: Classifier())
    monkeypatch.setattr(stage, "_timed", lambda work, _: work(2))
    stage._seconds_a_step(params, 3)
    monkeypatch.setattr(stage.devices, "on_gpu", lambda _: True)
    monkeypatch.setattr(stage.devices, "device", lambda *_: torch.device("cpu"))
    stage._seconds_a_step(params, 3)
    assert seen == [False] * 3 + [True] * 3


def test_a_long_step_is_timed_with_few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    clock = iter([0.0, 4.0])
    monkeypatch.setattr(stage.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert stage._timed(batches.append, 64) == 2.0 * 64 / stage.FEW
    assert set(batches) == {stage.FEW}, "the batch would take 32 s"
    clock = iter([0.0, 1.0, 100.0, 103.0, 104.0, 106.0])
    assert stage._timed(batches.append, 64) == 0.5, "the shortest of three, with two threads"
    assert batches[-stage.PARTS :] == [64] * stage.PARTS


def records(test: int) -> foresight.Records:
    counts = dict.fromkeys(("ptbxl", "chapman", "merged"), REAL)
    tested = {dataset: {"SR": test, "SB": test} for dataset in counts}
    return foresight.Records(counts, tested)


def test_gains_are_those_of_the_records_that_are_tested_on(params: Params) -> None:
    found = foresight.gains(params, records(40))
    assert all(found.values())
    assert found["chapman"] != found["merged"], "chapman is cross-fitted"
    # ptbxl has the sweep generator_seeds, with two trainings of the generator and two seeds
    assert found["ptbxl"] == found["merged"]
    few = foresight.gains(params, records(10))
    assert (few["ptbxl"], few["chapman"]) == (None, found["chapman"])


def test_each_larger_study_sees_a_smaller_gain(params: Params) -> None:
    planned, *larger = foresight.plans(params)
    assert [one.name for one in larger] == [
        "5 rounds of cross-fitting",
        "one more seed",
        "twice the records",
    ]
    now = foresight.gains(planned.params, records(40))
    for one in larger:
        found = foresight.gains(one.params, records(40).times(one.factor))
        assert (found["ptbxl"] or 1) < (now["ptbxl"] or 0)
    every = params.model_copy(update={"folds": dict.fromkeys(params.datasets, 5)})
    assert len(list(foresight.plans(every))) == 3


def test_each_tested_claim_has_the_gain_that_it_can_see(params: Params) -> None:
    found = foresight.claim_gains(params, records(40))
    replaced = found["Synthetic records can replace all real training records."]
    one = foresight.gains(params, records(40))
    assert list(replaced) == list(params.datasets)
    # three datasets are compared together, so each needs more confidence than one alone
    assert all((replaced[name] or 0) > (one[name] or 1) for name in params.datasets)
    assert "Synthetic records can replace half of the real training records." not in found
    # one seed, whose interval has test patients alone
    mixture = found["Some mixture of real and synthetic records helps."]
    assert list(mixture) == ["ptbxl"]
    few = foresight.claim_gains(params, records(10))
    assert few["Some mixture of real and synthetic records helps."] == {"ptbxl": None}


def test_a_claim_on_rare_rhythms_counts_only_their_records(params: Params) -> None:
    rare = "Time-VQVAE is the best of the three by recall of rare rhythms."
    few = {"SB": 40, "ST": 30}

    def gain(claim: str, tested: dict[str, int]) -> float | None:
        counts = dict.fromkeys(params.datasets, tested)
        return foresight.claim_gains(params, foresight.Records(counts, counts))[claim]["merged"]

    best = "Time-VQVAE generates the best records of the three."
    assert gain(rare, {"SR": 700, **few}) == gain(best, few) != gain(best, {"SR": 700, **few})
    without = foresight.claim_gains(params, records(40))  # two equally frequent rhythms
    assert without[rare]["merged"] is None


def test_rounds_of_a_prepared_dataset_have_its_rhythms(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared_set(params, stage.PREPARED / "ptbxl")
    assert stage._counts(params, "ptbxl_1of5") == {"SR": 1, "AFIB": 1}
    assert stage._records(params).all["ptbxl"] == {"SR": 2, "AFIB": 1}
    assert stage._records(params).test["ptbxl"] == {"SR": 0, "AFIB": 0}
