"""The pipeline itself: what a change re-runs and what it leaves alone, asked of DVC on the
project's own dvc.yaml.

Every stage's outputs are stood in for by small files, so that DVC takes the study for complete;
nothing is trained here.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecgforge.classifiers.common.registry import CLASSIFIERS
from ecgforge.commands.workload import workload
from ecgforge.dvc.internals import each_file_once, locked_repo
from ecgforge.errors import EcgforgeError
from ecgforge.generators.common.registry import GENERATORS
from ecgforge.params import Params
from ecgforge.stages import matrix, resolve
from ecgforge.stages.common import code
from ecgforge.tuning import space
from in_process import dvc

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
ROUNDS = tuple(f"chapman_{number}of3" for number in (1, 2, 3))
SETS = ("ptbxl", "chapman", "merged", *ROUNDS)
PAIRS = [
    f"{dataset}-{generator}"
    for dataset in SETS
    for generator in ("diffwave", "time_diffusion", "time_vqvae")
]

STAGES = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
SWEEPS = yaml.safe_load((ROOT / "params.yaml").read_text())["sweep_targets"]["sweeps"]


def outputs(folder: Path) -> list[str]:
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return [str(out) for stage in repo.index.stages for out in stage.outs]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which DVC finds everything up to date."""
    folder = tmp_path_factory.mktemp("study") / "project"
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml", "matrix.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    dvc(folder, "init", "--quiet")
    for name in outputs(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    resolved(folder)
    with each_file_once():
        dvc(folder, "commit", "--force", "--quiet")
    assert status(folder) == set()
    return folder


@pytest.fixture
def study(complete: Path, tmp_path: Path) -> Path:
    """A copy with the same cache: nothing is written to it."""
    no_cache = shutil.ignore_patterns("cache")
    folder = Path(shutil.copytree(complete, tmp_path / "project", ignore=no_cache))
    (folder / ".dvc/cache").symlink_to(complete / ".dvc/cache")
    return folder


def resolved(folder: Path) -> None:
    """Do what the stage `resolve` does, with the source in this folder."""
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "PACKAGE", folder / "src/ecgforge")
        resolve.resolve(Path("params.yaml"), Path("resolved"))


def status(folder: Path) -> set[str]:
    """Return the stages that DVC would run once `resolve` has run, before it knows whether those
    before them come out differently."""
    resolved(folder)
    with chdir(folder), each_file_once(), locked_repo() as repo:
        return set(repo.status()) - {"resolve"}


@pytest.fixture(scope="module")
def code_read(complete: Path) -> dict[str, list[str]]:
    """The keys of resolved/code.json that each stage depends on."""
    from dvc.repo import Repo

    with Repo(str(complete)) as repo:
        return {
            stage.name: dep.params
            for stage in repo.index.stages
            for dep in stage.deps
            if dep.def_path == "resolved/code.json"
        }


def with_other_code(code_read: dict[str, list[str]], complete: Path, study: Path) -> set[str]:
    """Return the stages whose digests of code have changed. `status` takes three times as long."""
    resolved(study)
    before, now = (
        json.loads((folder / "resolved/code.json").read_text()) for folder in (complete, study)
    )

    def digest(tree: Any, key: str) -> str:
        for part in key.split("."):
            tree = tree[part]
        return tree

    return {
        stage
        for stage, keys in code_read.items()
        if any(digest(before, key) != digest(now, key) for key in keys)
    }


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tree = yaml.load((folder / "params.yaml").read_text(), yaml.CSafeLoader)
    change(tree)
    write_params(folder, tree)


def write_params(folder: Path, tree: dict[str, Any]) -> Params:
    """Write params.yaml, and matrix.yaml to fit it."""
    (folder / "params.yaml").write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper))
    params = Params.read(folder / "params.yaml")
    matrix.write(params, folder / "matrix.yaml")
    return params


def cells(stage: str) -> set[str]:
    return {f"{stage}@{pair}" for pair in PAIRS}


def per_dataset(stage: str) -> set[str]:
    return {f"{stage}@{dataset}" for dataset in SETS}


def swept(*names: str) -> set[str]:
    """The cells of these sweeps, or of all that train the generator's neighbours."""
    return {
        f"{name}@ptbxl-diffwave" if name == "ablation" else f"sweep@{name}-ptbxl-diffwave"
        for name in names or (*SWEEPS, "generator_seeds", "ablation")
    }


CHANGE = "\nCHANGED = True\n"
PREPARED = {"prepare@ptbxl", "prepare@chapman", "merge@merged"}
TUNED = per_dataset("tune_classifier") | cells("tune_generator")
CROSS = {"cross_dataset@ptbxl-chapman-diffwave", "cross_dataset@chapman-ptbxl-diffwave"}
BACKBONES = {"backbones@ptbxl-xresnet1d", "backbones@ptbxl-transformer"}
VARYING = ("size", "ablation", "generator_seeds")  # sweeps that train generators
VARIED = {f"train_variations@{name}-ptbxl-diffwave" for name in VARYING}
TRAINED = swept() | CROSS | {"scratch@ptbxl"}  # cells of sweeps that train the study's classifier


def test_own_records_are_a_complete_study(tmp_path: Path) -> None:
    """As the documentation says: no site of the paper is asked for, and nothing is merged."""
    page = (ROOT / "docs/how-to/own_records.md").read_text()
    text = (
        page.split("```yaml\n# params.yaml: change these keys")[1].split("```")[0].split("\n", 1)[1]
    )
    shutil.copy(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    tree = space.merge_patch(
        yaml.safe_load((ROOT / "params.yaml").read_text()) | {"folds": {}}, yaml.safe_load(text)
    )
    params = write_params(tmp_path, tree)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "--quiet")
    assert params.source("mine").path == "/path/to/records"
    named = {line.split()[0] for line in dvc(tmp_path, "stage", "list").splitlines()}
    assert {name.split("@")[0] for name in named} == STAGES - {
        "merge",
        "cross_dataset",
        "cross_fit",
        "sweep_real",
        "equal_size",
    }
    assert all("mine" in name for name in named - {"report", "resolve"})
    assert len(named) == sum(
        work.cells for work in workload(params, {"mine": {"SR": 60, "AFIB": 20}}).values()
    ), "the plan counts them all"


def test_what_the_readme_points_to_in_reports_is_an_output(complete: Path) -> None:
    written = set(re.findall(r"`(reports/[\w./]+)`", (ROOT / "README.md").read_text()))
    assert len(written) > 1
    assert written <= {
        Path(name).relative_to(complete).as_posix() if Path(name).is_absolute() else name
        for name in outputs(complete)
    }


def test_a_study_may_have_no_sweeps(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["sweep_targets"] = {key: [] for key in tree["sweep_targets"]}
    params = write_params(tmp_path, tree)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "--quiet")
    named = {line.split()[0] for line in dvc(tmp_path, "stage", "list").splitlines()}
    swept = ("scratch", "backbones", "sweep", "sweep_real", "ablation")
    without = {*swept, "cross_dataset", "equal_size", "train_variations"}
    assert {name.split("@")[0] for name in named} == STAGES - without
    known = {dataset: {"SR": 60, "AFIB": 20} for dataset in params.record_sets}
    works = workload(params, known).values()
    assert len(named) == sum(work.cells for work in works), "the plan counts them all"
    assert not any(sum(work.steps.values()) for work in works if not work.cells)


def test_weight_decay_of_the_classifier_touches_no_generator_and_no_data(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["classifiers"]["resnet1d"]["training"]["weight_decay"] = 0.5

    edit(study, change)
    assert status(study) == cells("classify") | per_dataset(
        "classify_real"
    ) | TRAINED | per_dataset("tune_classifier")


def test_more_trials_tune_again_and_touch_what_they_change_alone(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["classifiers"]["resnet1d"]["tuning"]["n_trials"] = 10
        tree["profiles"]["demo"]["generators"]["diffwave"]["tuning"]["n_trials"] = 5

    edit(study, change)
    assert status(study) == per_dataset("tune_classifier") | {
        f"tune_generator@{data}-diffwave" for data in SETS
    }
    found = {"classifier": "{classifiers: {resnet1d: {network: {dropout: 0.5}}}}", "diffwave": "{}"}
    for name, value in found.items():
        (study / f"models/tuning/ptbxl/{name}.yaml").write_text(value)
    touched = status(study) - TUNED
    trained = {
        "train_generator@ptbxl-diffwave",
        "synthesize@ptbxl-diffwave",
        "classify_real@ptbxl",
        "scratch@ptbxl",
    }
    trained |= {f"classify@ptbxl-{name}" for name in ("diffwave", "time_diffusion", "time_vqvae")}
    assert touched == trained | swept() | {"cross_dataset@ptbxl-chapman-diffwave"}


@pytest.mark.parametrize("sweep", ["mixture", "size"])
def test_a_new_point_of_a_sweep_runs_that_sweep_alone(study: Path, sweep: str) -> None:
    edit(study, lambda tree: tree["profiles"]["demo"]["sweeps"][sweep]["percents"].append(70))
    trained = {"train_variations@size-ptbxl-diffwave"} if sweep == "size" else set()
    assert status(study) == swept(sweep) | trained | {"report"}


def test_pre_training_without_labels_is_one_cell_for_each_dataset(study: Path) -> None:
    edit(study, lambda tree: tree["sweep_targets"].update(real_sweeps=["self_supervised"]))
    assert status(study) == {"sweep_real@self_supervised-ptbxl", "report"}


def test_sweeps_on_another_generator_are_new_cells(study: Path) -> None:
    edit(study, lambda tree: tree["sweep_targets"].update(generators=["diffwave", "time_vqvae"]))
    new = {f"sweep@{name}-ptbxl-time_vqvae" for name in SWEEPS} | {"ablation@ptbxl-time_vqvae"}
    new |= {"cross_dataset@ptbxl-chapman-time_vqvae", "cross_dataset@chapman-ptbxl-time_vqvae"}
    new |= {f"train_variations@{name}-ptbxl-time_vqvae" for name in ("size", "ablation")}
    assert status(study) == new | BACKBONES | {"report"}, "backbones train with the records of all"


def test_a_generator_without_ablations_has_no_cell_of_them(study: Path) -> None:
    edit(study, lambda tree: tree["profiles"]["demo"]["generators"]["diffwave"].pop("ablations"))
    named = {line.split()[0] for line in dvc(study, "stage", "list").splitlines()}
    assert not {name for name in named if name.startswith("ablation@")}
    assert swept(*SWEEPS, "generator_seeds") <= named


def test_a_new_seed_touches_no_data_and_no_generator(study: Path) -> None:
    edit(study, lambda tree: tree["profiles"]["demo"]["study"]["seeds"].append(99))
    assert status(study) == cells("classify") | per_dataset("classify_real") | {"report"}


def test_a_new_generator_runs_its_cells_alone(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["generators"].append("flow")
        for profile in (tree["profiles"][name] for name in ("demo", "sample", "paper")):
            profile["generators"]["flow"] = profile["generators"]["diffwave"]

    edit(study, change)
    shutil.copytree(
        study / "src/ecgforge/generators/diffwave", study / "src/ecgforge/generators/flow"
    )
    monkeypatch.setitem(GENERATORS, "flow", GENERATORS["diffwave"])
    stages = ("tune_generator", "train_generator", "synthesize", "classify", "quality")
    expected = {f"{stage}@{dataset}-flow" for stage in stages for dataset in SETS}
    assert status(study) == expected | {"report"}


def test_a_new_backbone_runs_its_cells_alone(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["sweep_targets"]["backbones"].append("mlp")
        for profile in (tree["profiles"][name] for name in ("demo", "sample", "paper")):
            profile["classifiers"]["mlp"] = profile["classifiers"]["transformer"]

    edit(study, change)
    folder = study / "src/ecgforge/classifiers"
    shutil.copy(folder / "transformer.py", folder / "mlp.py")
    monkeypatch.setitem(CLASSIFIERS, "mlp", CLASSIFIERS["transformer"])
    assert status(study) == {"backbones@ptbxl-mlp", "report"}


def test_augmentation_touches_what_trains_on_real_records(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["study"]["augmentation"] = {"gain": 0.3}

    edit(study, change)
    assert status(study) == cells("classify") | per_dataset(
        "classify_real"
    ) | TRAINED | BACKBONES | {"report"}


def test_sampling_is_no_matter_of_training(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["generators"]["diffwave"]["sampling"]["guidance"] = 3.5

    edit(study, change)
    drawn = {f"synthesize@{dataset}-diffwave" for dataset in SETS}
    tuned = {f"tune_generator@{dataset}-diffwave" for dataset in SETS}
    assert status(study) == drawn | tuned | swept()


def test_the_beat_detector_touches_what_looks_for_beats(
    complete: Path, study: Path, code_read: dict[str, list[str]]
) -> None:
    file = study / "src/ecgforge/records/beats.py"
    file.write_text(file.read_text() + CHANGE)
    touched = (
        cells("quality") | per_dataset("classify_real") | cells("classify") | swept("ablation")
    )
    assert status(study) == touched
    assert with_other_code(code_read, complete, study) == touched, "as DVC sees it"


def test_a_source_touches_its_own_raw_records_alone(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["sources"]["chapman"]["records"] += 1

    edit(study, change)
    assert status(study) == {"acquire@chapman"}
    (study / "data/raw/chapman").write_text("other records")
    assert status(study) == {"acquire@chapman", "prepare@chapman", "merge@merged"}


def test_a_withdrawn_patient_touches_its_own_source_and_merged_sets(study: Path) -> None:
    edit(study, lambda tree: tree.update(withdrawn={"chapman": ["JS00001"]}))
    assert status(study) == {"prepare@chapman", "merge@merged"}


@pytest.mark.parametrize("merged", [["b", "ptbxl", "a"], [*"abcdefgh"]])
def test_a_merged_set_depends_on_its_own_sources_alone(study: Path, merged: list[str]) -> None:
    """In any number that the parameters allow, whatever other sources there are."""
    from dvc.repo import Repo

    def change(tree: dict[str, Any]) -> None:
        sources = tree["profiles"]["demo"]["sources"]
        sources |= dict.fromkeys("abcdefgh", sources["chapman"])
        tree |= {"sources": [*sources], "merged": merged}

    edit(study, change)
    with Repo(str(study)) as repo:
        (merge,) = (one for one in repo.index.stages if one.name == "merge@merged")
        read = [dep.def_path for dep in merge.deps]
    raw = [path for path in read if not path.startswith("resolved")]
    assert list(dict.fromkeys(raw)) == [f"data/raw/{source}" for source in merged]
    options = " ".join(f"--raw data/raw/{source}" for source in merged)
    assert merge.cmd == f"ecgforge prepare {options} --out data/prepared/merged"


def test_a_round_depends_on_its_dataset_alone(study: Path) -> None:
    (study / "data/prepared/ptbxl").write_text("other records")
    assert not any("chapman" in name for name in status(study) - CROSS)
    (study / "data/prepared/chapman").write_text("other records")
    assert {f"cross_fit@{name}" for name in ROUNDS} <= status(study)
    (study / "data/prepared/chapman").write_text("data/prepared/chapman")
    (study / f"data/prepared/{ROUNDS[0]}").write_text("other splits")
    touched = {name for name in status(study) if "chapman" in name}
    assert touched - {f"cross_fit@{ROUNDS[0]}"}
    assert all(ROUNDS[0] in name for name in touched)


def test_folds_are_more_cells_and_sweeps_run_on_rounds(study: Path) -> None:
    edit(study, lambda tree: tree.update(folds={"ptbxl": 3, "chapman": 3}))
    found = status(study)
    names = [f"ptbxl_{number}of3" for number in (1, 2, 3)]
    assert {f"cross_fit@{name}" for name in names} <= found
    assert {f"sweep@mixture-{name}-diffwave" for name in names} <= found
    assert not any("chapman" in name for name in found - CROSS)


def test_equal_sizes_run_on_the_rounds_of_the_merged_dataset(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["sweep_targets"]["equal_size"] = ["chapman"]

    edit(study, change)
    assert status(study) == {"equal_size@merged-chapman", "report"}
    edit(study, lambda tree: tree.update(folds={"chapman": 3, "merged": 3}))
    found = {name for name in status(study) if name.startswith("equal_size")}
    assert found == {f"equal_size@merged_{one}of3-chapman_{one}of3" for one in (1, 2, 3)}


def test_a_matrix_that_does_not_fit_is_refused(study: Path) -> None:
    tree = yaml.safe_load((study / "params.yaml").read_text()) | {"folds": {"ptbxl": 4}}
    (study / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(EcgforgeError, match="run `ecgforge matrix`, then `dvc repro`"):
        resolved(study)


def test_a_profile_that_is_not_in_use_touches_nothing(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["paper"]["classifiers"]["resnet1d"]["training"]["batch_size"] = 7

    edit(study, change)
    assert status(study) == set()


def test_where_it_runs_is_no_matter_of_what_comes_out(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["compute"]["accelerator"] = "gpu"

    edit(study, change)
    assert status(study) == set()


def test_another_profile_is_one_word(study: Path) -> None:
    edit(study, lambda tree: tree.update(profile="sample"))
    everything = {f"acquire@{source}" for source in ("ptbxl", "chapman")} | {
        f"prepare@{source}" for source in ("ptbxl", "chapman")
    }
    everything |= (
        {"merge@merged", "report"} | TUNED | per_dataset("classify_real") | TRAINED | BACKBONES
    )
    for stage in ("train_generator", "synthesize", "classify", "quality"):
        everything |= cells(stage)
    assert status(study) == everything | VARIED


SETTINGS = per_dataset("classify_real") | cells("classify")


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        (
            "generators/time_vqvae/model.py",
            {
                f"{stage}@{data}-time_vqvae"
                for stage in ("tune_generator", "train_generator", "synthesize")
                for data in SETS
            },
        ),
        (
            "generators/diffwave/model.py",
            {
                f"{stage}@{data}-diffwave"
                for stage in ("tune_generator", "train_generator", "synthesize")
                for data in SETS
            }
            | VARIED
            | swept(),
        ),
        (
            "generators/diffusion/unet.py",
            {
                f"{stage}@{data}-time_diffusion"
                for stage in ("tune_generator", "train_generator", "synthesize")
                for data in SETS
            },
        ),
        (
            "classifiers/resnet1d.py",
            per_dataset("tune_classifier") | SETTINGS | cells("quality") | TRAINED,
        ),
        ("classifiers/transformer.py", {"backbones@ptbxl-transformer"}),
        ("sweeps/mixture.py", swept("mixture") | {"report"}),
        ("sweeps/transfer.py", swept("transfer") | {"scratch@ptbxl", "report"}),
        (
            "sweeps/ablation.py",
            swept("ablation") | {"train_variations@ablation-ptbxl-diffwave", "report"},
        ),
        ("study/mixtures.py", cells("synthesize") | VARIED | TRAINED | BACKBONES | {"report"}),
        ("sources/ptbxl.py", {f"acquire@{name}" for name in ("ptbxl", "chapman")} | PREPARED),
        ("preparation/splits.py", PREPARED | {f"cross_fit@{name}" for name in ROUNDS}),
        ("analysis/statistics.py", {"report"}),
        ("report/page.html", {"report"}),
        ("tracking/runs.py", set()),
        ("tuning/search.py", TUNED),
    ],
)
def test_code_touches_the_stages_that_run_it(
    complete: Path, study: Path, code_read: dict[str, list[str]], file: str, stages: set[str]
) -> None:
    path = study / "src/ecgforge" / file
    path.write_text(path.read_text() + (CHANGE if file.endswith(".py") else "<p>changed</p>"))
    assert with_other_code(code_read, complete, study) == stages


@pytest.mark.parametrize(
    "file", ["analysis/claims.py", "records/record_set.py", "sources/ptbxl.py"]
)
def test_comments_and_docstrings_touch_nothing(
    complete: Path, study: Path, code_read: dict[str, list[str]], file: str
) -> None:
    path = study / "src/ecgforge" / file
    source = path.read_text()
    assert source.startswith('"""')
    path.write_text('"""Another docstring.' + source[3:] + "\n\n# A comment.\n")
    assert with_other_code(code_read, complete, study) == set()
