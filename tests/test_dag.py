"""The pipeline itself: what a change re-runs and what it leaves alone, asked of DVC on the project's own dvc.yaml.

Every stage's outputs are stood in for by small files, so that DVC takes the study for complete; nothing is trained here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecgforge.dvc.internals import each_file_once
from ecgforge.params import Params
from ecgforge.study.plan import workload
from ecgforge.tuning import space

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
ARMS = [
    f"{dataset}-{generator}" for dataset in ("ptbxl", "chapman", "merged") for generator in ("diffwave", "time_diffusion", "time_vqvae")
]

STAGES = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
KINDS = ("backbones", "mixture", "transfer", "size", "ablation", "retrained")


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC's command line in this process: starting one costs more than most commands."""
    from dvc.cli import main

    with chdir(folder), redirect_stdout(StringIO()) as told:
        assert main(list(arguments)) == 0, told.getvalue()
    return told.getvalue()


def outputs(folder: Path) -> list[str]:
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return [str(out) for stage in repo.index.stages for out in stage.outs]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which DVC finds everything up to date."""
    folder = tmp_path_factory.mktemp("study") / "project"
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    dvc(folder, "init", "--quiet")
    for name in outputs(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    with each_file_once():
        dvc(folder, "commit", "--force", "--quiet")
    assert status(folder) == set()
    return folder


@pytest.fixture
def study(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "project"))


def status(folder: Path) -> set[str]:
    """Return the stages that DVC would run, before it knows whether those before them come out differently."""
    from dvc.repo import Repo

    with chdir(folder), each_file_once(), Repo() as repo:
        return set(repo.status())


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    change(tree)
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))


def cells(stage: str) -> set[str]:
    return {f"{stage}@{arm}" for arm in ARMS}


def per_dataset(stage: str) -> set[str]:
    return {f"{stage}@{dataset}" for dataset in ("ptbxl", "chapman", "merged")}


def swept(*kinds: str) -> set[str]:
    """The cells of these sweeps, or of all."""
    return {f"{kind}@ptbxl-diffwave" for kind in kinds or KINDS}


TUNED = per_dataset("tune_classifier") | cells("tune_generator")
HOSPITALS = {"hospitals@pair0-diffwave", "hospitals@pair1-diffwave"}
TRAINED = swept() | HOSPITALS | {"sweep_real@ptbxl"}  # cells of sweeps that train the study's classifier


def test_records_of_ones_own_are_a_whole_study(tmp_path: Path) -> None:
    """As the documentation says: no site of the paper is asked for, and nothing is merged."""
    page = (ROOT / "docs/how-to/own_records.md").read_text()
    told = page.split("```yaml\n# params.yaml: change these keys")[1].split("```")[0].split("\n", 1)[1]
    shutil.copy(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    tree = space.merge_patch(yaml.safe_load((ROOT / "params.yaml").read_text()), yaml.safe_load(told))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "--quiet")
    params = Params.read(tmp_path / "params.yaml")
    assert params.source("mine").path == "/path/to/records"
    named = {line.split()[0] for line in dvc(tmp_path, "stage", "list").splitlines()}
    assert {name.split("@")[0] for name in named} == STAGES - {"merge", "hospitals"}
    assert all("mine" in name for name in named - {"report"})
    assert len(named) == sum(work.cells for work in workload(params, {"mine": {"SR": 60, "AFIB": 20}})), "the plan counts them all"


def test_what_the_readme_points_to_in_reports_is_an_output(complete: Path) -> None:
    told = set(re.findall(r"`(reports/[\w./]+)`", (ROOT / "README.md").read_text()))
    assert len(told) > 1
    assert told <= {Path(name).relative_to(complete).as_posix() if Path(name).is_absolute() else name for name in outputs(complete)}


def test_a_study_may_have_no_sweeps(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["swept"] = {"datasets": [], "generators": [], "retrained": [], "hospitals": []}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "--quiet")
    named = {line.split()[0] for line in dvc(tmp_path, "stage", "list").splitlines()}
    assert {name.split("@")[0] for name in named} == STAGES - {"sweep_real", *KINDS, "hospitals"}
    params = Params.read(tmp_path / "params.yaml")
    works = list(workload(params, {dataset: {"SR": 60, "AFIB": 20} for dataset in params.datasets}))
    assert len(named) == sum(work.cells for work in works), "the plan counts them all"
    assert not any(sum(work.steps.values()) for work in works if not work.cells)


def test_a_learning_rate_of_the_classifier_touches_no_generator_and_no_data(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["classifiers"]["resnet1d"]["training"]["learning_rate"] = 0.5

    edit(study, change)
    assert status(study) == cells("classify") | per_dataset("classify_real") | TRAINED | per_dataset("tune_classifier")


def test_more_trials_tune_again_and_touch_what_they_change_alone(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["classifiers"]["resnet1d"]["tuning"]["n_trials"] = 10
        tree["profiles"]["demo"]["generators"]["diffwave"]["tuning"]["n_trials"] = 5

    edit(study, change)
    assert status(study) == per_dataset("tune_classifier") | {f"tune_generator@{data}-diffwave" for data in ("ptbxl", "chapman", "merged")}
    for name, value in (("classifier", "{classifier: {network: {dropout: 0.5}}}"), ("diffwave", "{generators: {diffwave: {}}}")):
        (study / f"models/tuning/ptbxl/{name}.yaml").write_text(value)
    touched = status(study) - TUNED
    trained = {"train_generator@ptbxl-diffwave", "synthesize@ptbxl-diffwave", "classify_real@ptbxl", "sweep_real@ptbxl"}
    trained |= {f"classify@ptbxl-{name}" for name in ("diffwave", "time_diffusion", "time_vqvae")}
    assert touched == trained | swept("mixture", "transfer", "size", "ablation", "retrained") | {"hospitals@pair0-diffwave"}


@pytest.mark.parametrize("sweep", ["mixture", "size"])
def test_a_new_point_of_a_sweep_runs_that_sweep_alone(study: Path, sweep: str) -> None:
    edit(study, lambda tree: tree["profiles"]["demo"]["sweeps"][sweep].append(200))
    assert status(study) == swept(sweep)


def test_sweeps_on_another_generator_are_new_cells(study: Path) -> None:
    edit(study, lambda tree: tree["swept"].update(generators=["diffwave", "time_vqvae"]))
    new = {f"{kind}@ptbxl-time_vqvae" for kind in KINDS if kind != "retrained"}
    assert status(study) == new | {"hospitals@pair0-time_vqvae", "hospitals@pair1-time_vqvae", "report"}


def test_a_new_seed_touches_no_data_and_no_generator(study: Path) -> None:
    edit(study, lambda tree: tree["profiles"]["demo"]["study"]["seeds"].append(99))
    assert status(study) == cells("classify") | per_dataset("classify_real") | {"report"}


def test_a_new_generator_runs_its_cells_alone(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["generators"].append("flow")
        for profile in tree["profiles"].values():
            profile["generators"]["flow"] = profile["generators"]["diffwave"]

    edit(study, change)
    (study / "src/ecgforge/generators/flow.py").write_text("# a new generator is one file ...\n")
    registry = study / "src/ecgforge/generators/common/registry.py"
    registry.write_text(registry.read_text() + "# ... and a line\n")
    stages = ("tune_generator", "train_generator", "synthesize", "classify", "quality")
    assert status(study) == {f"{stage}@{dataset}-flow" for stage in stages for dataset in ("ptbxl", "chapman", "merged")} | {"report"}


def test_augmentation_touches_what_trains_on_real_records(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["study"]["augmentation"]["gain"] = 0.3

    edit(study, change)
    assert status(study) == cells("classify") | per_dataset("classify_real") | TRAINED - swept("ablation") | {"report"}


def test_sampling_is_no_matter_of_training(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["generators"]["diffwave"]["sampling"]["guidance"] = 3.5

    edit(study, change)
    drawn = {f"synthesize@{dataset}-diffwave" for dataset in ("ptbxl", "chapman", "merged")}
    tuned = {f"tune_generator@{dataset}-diffwave" for dataset in ("ptbxl", "chapman", "merged")}
    assert status(study) == drawn | tuned | swept("mixture", "size", "ablation", "retrained")


def test_the_beat_detector_touches_what_looks_for_beats(study: Path) -> None:
    file = study / "src/ecgforge/records/beats.py"
    file.write_text(file.read_text() + "# a change\n")
    touched = (
        cells("tune_generator")
        | cells("train_generator")
        | cells("quality")
        | per_dataset("classify_real")
        | swept("size", "ablation", "retrained")
    )
    assert status(study) == touched | {"prepare@ptbxl", "prepare@chapman", "merge@pair0"}


def test_a_source_touches_its_own_raw_records_alone(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["sources"]["chapman"]["records"] += 1

    edit(study, change)
    assert status(study) == {"acquire@chapman"}
    (study / "data/raw/chapman").write_text("other records")
    assert status(study) == {"acquire@chapman", "prepare@chapman", "merge@pair0"}


def test_a_profile_that_is_not_in_use_touches_nothing(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["paper"]["classifiers"]["resnet1d"]["training"]["learning_rate"] = 0.5

    edit(study, change)
    assert status(study) == set()


def test_where_it_runs_is_no_matter_of_what_comes_out(study: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["compute"]["accelerator"] = "gpu"

    edit(study, change)
    assert status(study) == set()


def test_another_profile_is_one_word(study: Path) -> None:
    edit(study, lambda tree: tree.update(profile="sample"))
    everything = {f"acquire@{source}" for source in ("ptbxl", "chapman")} | {f"prepare@{source}" for source in ("ptbxl", "chapman")}
    everything |= {"merge@pair0", "report"} | TUNED | per_dataset("classify_real") | TRAINED
    for stage in ("train_generator", "synthesize", "classify", "quality"):
        everything |= cells(stage)
    assert status(study) == everything


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        (
            "src/ecgforge/generators/time_vqvae/model.py",
            {
                f"{stage}@{data}-time_vqvae"
                for stage in ("tune_generator", "train_generator", "synthesize")
                for data in ("ptbxl", "chapman", "merged")
            },
        ),
        (
            "src/ecgforge/generators/diffusion/unet.py",
            cells("tune_generator") | cells("train_generator") | cells("synthesize") | swept("mixture", "size", "ablation", "retrained"),
        ),
        ("src/ecgforge/study/mixtures.py", TRAINED | {"report"}),
        ("src/ecgforge/classifiers/common/registry.py", set()),
        ("src/ecgforge/report/page.html", {"report"}),
        ("src/ecgforge/tracking/runs.py", set()),
        ("src/ecgforge/tuning/search.py", TUNED),
    ],
)
def test_code_touches_the_stages_that_run_it(study: Path, file: str, stages: set[str]) -> None:
    path = study / file
    path.write_text(path.read_text() + "\n")
    assert status(study) == stages
