"""A small study from end to end, by the tools that people use:

DVC, MLflow and the command line, in a copy of the project.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import wfdb
import yaml
from mlflow import MlflowClient

import warm_stages
from ecgforge.files import md5, read_csv
from ecgforge.generators import train
from ecgforge.generators.common import registry
from ecgforge.params import Params
from ecgforge.pipeline import warm
from ecgforge.records.record_set import RecordSet
from ecgforge.stages import matrix
from ecgforge.study.experiment import KEYS
from ecgforge.study.settings import SETTINGS
from ecgforge.tracking import runs
from in_process import dvc
from test_mlflow_browser import compared, ui
from test_report_browser import CHROMIUM, DRIVER, browser  # noqa: F401  # the fixture
from test_serving import ask, served

ROOT = Path(__file__).parent.parent
PROJECT = (
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    "MLproject",
    "python_env.yaml",
    "requirements.txt",
)
SWEEPS = ("scratch", "backbones", "sweep", "ablation", "generator_seeds", "cross_dataset")
STAGES = (
    "train_generator",
    "train_variations",
    "classify_real",
    "classify",
    "quality",
    *SWEEPS,
    "report",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def small_params() -> dict[str, Any]:
    """The demo's parameters, with few records, two of its generators' simplest, and a few steps of
    each training.
    """
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree |= {"datasets": ["ptbxl"], "folds": {}, "generators": ["diffwave"]}
    tree["sweep_targets"]["sweeps"] = ["mixture", "transfer", "size"]
    tree["sweep_targets"]["cross_dataset"] = [{"train": "ptbxl", "test": "ptbxl"}]
    demo = tree["profiles"]["demo"]
    for source in demo["sources"].values():
        source["records"] = 160
    demo["preparation"]["min_records"] = 8
    demo["generators"]["diffwave"]["network"] |= {"layers": 3, "channels": 16}
    demo["generators"]["diffwave"]["training"]["denoiser"] |= {
        "steps": 20,
        "evaluate_every": 5,
        "warmup_steps": 2,
        "batch_size": 8,
    }
    # one that is trained
    demo["generators"]["diffwave"]["ablations"]["cosine_schedule"] = {"network.timestep_shift": 1.0}
    demo["synthesis"] |= {"train": 24, "validation": 3, "test": 4}
    demo["classifiers"]["resnet1d"]["network"] |= {"widths": [8, 16]}
    short = {"steps": 18, "evaluate_every": 6, "warmup_steps": 2}  # a third is unfrozen at a time
    demo["classifiers"]["resnet1d"]["training"] |= short
    demo["study"] |= {"seeds": [0, 1], "resamples": 50}
    for other in ("xresnet1d", "transformer"):
        demo["classifiers"][other]["training"] |= short
    demo["classifiers"]["xresnet1d"]["network"] |= {"widths": [4, 8], "depths": [1, 1]}
    demo["sweeps"]["transfer"]["training"] |= short
    for name, percent in {"mixture": 50, "transfer": 25, "size": 50}.items():
        demo["sweeps"][name]["percents"] = [percent]
    demo["quality"] |= {"records": 20, "permutations": 20}
    demo["classifiers"]["resnet1d"]["tuning"] |= {"n_trials": 2, "repeats": 1}
    return tree


def environment() -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    identity = {
        f"GIT_{who}_{what}": "test@example.org"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    return {**kept, "PATH": path, **identity, "DVC_NO_ANALYTICS": "1"}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert not check or found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
    return found


def make_project(folder: Path, params: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name in PROJECT:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    matrix.write(Params.read(folder / "params.yaml"), folder / "matrix.yaml")
    run(folder, "git", "init", "--quiet")
    dvc(folder, "init", "--quiet")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    run(folder, "git", "add", ".")
    run(folder, "git", "commit", "--quiet", "-m", "the project")
    return folder


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """Stages of these tests start from loaded libraries, as those of `ecgforge repro` do."""
    with warm_stages.server():
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("study") / "project", small_params())
    run(folder, "ecgforge", "repro", "--jobs", "2")
    return folder


@pytest.fixture(scope="module")
def client(study: Path) -> MlflowClient:
    return client_of(study)


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Path:
    """A copy of the study, for a test that changes it."""
    return Path(shutil.copytree(study, tmp_path / "project", symlinks=True))


def client_of(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project}/mlflow.db", f"sqlite:///{project}/mlflow.db")


def all_runs(client: MlflowClient) -> list[Any]:
    """All runs of the study, without those of tuning, and those that contain sweeps."""
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()], max_results=1000
    )
    return [one for one in found if one.data.tags.get("kind") not in ("tuning", "trial", "sweeps")]


def of_no_sweep(tags: dict[str, str]) -> bool:
    return tags.get("sweep", runs.NO_SWEEP) == runs.NO_SWEEP and tags.get("augmented") != "true"


def test_the_results_have_every_setting_and_seed(study: Path) -> None:
    results = read_csv(study / "reports/results.csv", keep_default_na=False)
    assert list(results.columns) == [*KEYS, "rhythm", "metric", "value"]
    assert results[["fold", "draw"]].eq(0).all(axis=None)
    trained = results[
        (results["backbone"] == "resnet1d")
        & (results["rhythm"] == "macro")
        & (results["metric"] == "f1")
    ]
    main = trained[(trained["sweep"] == "") & ~trained["augmented"]]
    cells = set(zip(main["generator"], main["setting"], main["seed"], strict=True))
    with_synthetic = {
        ("diffwave", setting, seed)
        for setting in ("TrSTeR", "TrRTeS", "TrSTeS", "TrRSTeR")
        for seed in (0, 1)
    }
    assert cells == with_synthetic | {("", "TrRTeR", 0), ("", "TrRTeR", 1)}
    augmented = trained[(trained["sweep"] == "") & trained["augmented"]]
    assert set(zip(augmented["setting"], augmented["seed"], strict=True)) == {
        ("TrRTeR", 0),
        ("TrRSTeR", 0),
    }
    assert {"logistic_regression_rr", "majority"} <= set(results["backbone"])
    metrics = json.loads((study / "reports/metrics.json").read_text())
    assert set(metrics["macro_f1"]["ptbxl"]) == {"real", "real+diffwave"}
    seeds = main[main["setting"] == "TrRTeR"]["value"].astype(float)
    assert metrics["macro_f1"]["ptbxl"]["real"] == pytest.approx(seeds.mean(), abs=1e-4)
    (answer,) = json.loads((study / "reports/answers.json").read_text())
    assert metrics["gain"]["ptbxl"]["diffwave"] == round(answer["estimate"], 4)
    assert next(iter(metrics)) == "gain", "`dvc exp show` keeps the order"
    report = (study / "reports/report.html").read_text()
    assert "simulated" in report.lower()


def test_every_sweep_has_its_points(study: Path) -> None:
    results = read_csv(study / "reports/results.csv", keep_default_na=False, dtype={"point": str})
    f1 = results[
        (results["rhythm"] == "macro") & (results["metric"] == "f1") & (results["sweep"] != "")
    ]
    assert f1["value"].between(0, 1).all()
    found = {
        (sweep, augmented): set(zip(rows["setting"], rows["backbone"], rows["point"], strict=True))
        for (sweep, augmented), rows in f1.groupby(["sweep", "augmented"])
    }
    cross_dataset = {("TrRTeR", "ptbxl, real")}
    cross_dataset |= {
        ("TrRSTeR", f"ptbxl, synthetic ({which} dataset)") for which in ("training", "test")
    }
    tree = yaml.safe_load((study / "params.yaml").read_text())
    variations = tree["profiles"]["demo"]["generators"]["diffwave"]["ablations"]
    both = {  # plain and augmented
        **{
            f"fine-tuning, {name}": {("TrSTeR", "25")}
            for name in ("full", "linear_probe", "gradual_unfreezing")
        },
        **{f"mixture, {how}": {("TrRSTeR", "50")} for how in ("proportion", "balance")},
        "scratch": {("TrRTeR", "25")},
        "size": {(setting, "50") for setting in ("TrRTeR", "TrRSTeR")},
        "generator_seeds": {("TrRSTeR", "")},
        "cross_dataset": cross_dataset,
    }
    plain = {
        **both,
        "size": both["size"] | {("TrSTeR", "50")},
        "generator_seeds": {("TrSTeR", ""), ("TrRSTeR", "")},
        "ablation": {("TrSTeR", name) for name in variations},
    }
    expected = {
        (sweep, augmented): {(setting, "resnet1d", point) for setting, point in points}
        for augmented, sweeps in ((False, plain), (True, both))
        for sweep, points in sweeps.items()
    }
    for augmented, settings in (
        (False, ("TrRTeR", "TrSTeR", "TrRSTeR")),
        (True, ("TrRTeR", "TrRSTeR")),
    ):
        expected["backbones", augmented] = {
            (setting, name, "") for setting in settings for name in ("xresnet1d", "transformer")
        }
    assert found == expected
    costs = read_csv(study / "results/ablation/ptbxl/diffwave/variations.csv").set_index(
        "variation"
    )
    assert list(costs.index) == ["as it is", *variations]
    assert (costs["generate_ms"] > 0).all()


def test_a_retrained_generator_generates_other_records(study: Path, client: MlflowClient) -> None:
    found = read_csv(
        study / "results/generator_seeds/ptbxl/diffwave/predictions.csv", keep_default_na=False
    )
    own = read_csv(study / "results/classify/ptbxl/diffwave/predictions.csv", keep_default_na=False)
    probabilities = [name for name in found if name.startswith("p_")]

    def of(table: pd.DataFrame, seed: int) -> np.ndarray:
        return (
            table[(table["setting"] == "TrSTeR") & (table["seed"] == seed)]
            .sort_values("id")[probabilities]
            .to_numpy()
        )

    assert set(found["seed"]) == {0, 1}
    np.testing.assert_allclose(
        of(found, 0), of(own, 0), atol=1e-6, err_msg="the study's own training is one of them"
    )
    assert np.abs(of(found, 1) - of(own, 1)).max() > 0.01
    trained = [
        one
        for one in all_runs(client)
        if one.data.tags["kind"] == "generator" and one.data.tags.get("sweep") == "generator_seeds"
    ]
    assert [(one.data.tags["seed"], one.data.tags["point"]) for one in trained] == [("1", "seed 1")]


def test_the_report_judges_every_claim(study: Path) -> None:
    judged = read_csv(study / "reports/verdicts.csv")
    assert set(judged["verdict"]) <= {"supported", "contradicted", "undecided"}
    assert len(judged["claim"].unique()) >= 7
    report = (study / "reports/report.html").read_text()
    assert all(claim.replace("'", "&#39;") in report for claim in judged["claim"])
    assert "Not tested in this study" in report, "there is no merged dataset in this study"


def test_the_answer_is_the_same_in_the_report_the_file_and_the_terminal(
    study: Path, client: MlflowClient
) -> None:
    (answer,) = json.loads((study / "reports/answers.json").read_text())
    assert answer["sentence"].startswith("PTB-XL (simulated): ")
    assert (answer["dataset"], answer["generator"]) == ("ptbxl", "diffwave")
    assert answer["sentence"] in (study / "reports/report.html").read_text()
    said = run(study, "ecgforge", "repro").stdout
    assert answer["sentence"] in said
    changed = run(study, "git", "status", "--porcelain", "--", "dvc.lock").stdout
    assert ("git add dvc.lock" in said) == bool(changed)
    (found,) = [one for one in all_runs(client) if one.data.tags["kind"] == "answers"]
    assert found.data.tags["answer.ptbxl"] == answer["sentence"]
    assert found.data.metrics["ptbxl/synthetic"] == pytest.approx(answer["estimate"], abs=1e-5)


def test_dvc_finds_nothing_more_to_do_and_shows_metrics_and_plots(study: Path) -> None:
    assert "up to date" in dvc(study, "repro")
    assert "gain.ptbxl.diffwave" in dvc(study, "metrics", "show")
    dvc(study, "plots", "show", "--out", "plots_page")
    assert list((study / "plots_page").rglob("*.svg"))
    page = (study / "plots_page/index.html").read_text()
    assert "ptbxl diffwave: pre-trained, all fine-tuned" in page
    assert "<DVC_METRIC" not in page, "the template is filled in"
    shutil.rmtree(study / "plots_page")


def test_every_run_says_where_it_comes_from(study: Path, client: MlflowClient) -> None:
    found = all_runs(client)
    kinds = [one.data.tags["kind"] for one in found]
    assert (kinds.count("quality"), kinds.count("answers")) == (1, 1)
    main = [one for one in found if of_no_sweep(one.data.tags)]
    # TrRTeR and the four settings with synthetic records for two seeds, and two baselines.
    assert [one.data.tags["kind"] for one in main].count("classifier") == 12
    generators = [
        one.data.tags.get("sweep") for one in found if one.data.tags["kind"] == "generator"
    ]
    assert set(generators) == {None, "ablation", "size", "generator_seeds"}
    commit = run(study, "git", "rev-parse", "HEAD").stdout.strip()
    for one in found:
        assert one.info.status == "FINISHED"
        tags = one.data.tags
        assert (tags["dataset"], tags["git.commit"], tags["git.dirty"], tags["simulated"]) == (
            "ptbxl",
            commit,
            "false",
            "true",
        )
        assert tags["dvc.stage"].partition("@")[0] in STAGES
        assert one.inputs.dataset_inputs
    curves = next(one for one in main if one.data.tags["kind"] == "generator")
    assert [
        point.step for point in client.get_metric_history(curves.info.run_id, "loss/train")
    ] == list(range(1, 21))


def test_inputs_carry_the_digests_of_dvc(study: Path, client: MlflowClient) -> None:
    lock = yaml.safe_load((study / "dvc.lock").read_text())["stages"]
    digests = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    found = {}
    for one in all_runs(client):
        for item in one.inputs.dataset_inputs:
            found[json.loads(item.dataset.source)["path"]] = item.dataset.digest
    # those of sweeps are not kept
    kept = {
        path: digest
        for path, digest in found.items()
        if not path.startswith(".ecgforge/synthetic/")
    }
    assert kept == {
        path: digests[path] for path in ("data/prepared/ptbxl", "data/synthetic/ptbxl/diffwave")
    }


def test_models_are_registered_with_their_provenance(client: MlflowClient) -> None:
    names = {model.name for model in client.search_registered_models()}
    assert names == {"ecg-generator-diffwave-ptbxl", "ecg-classifier-ptbxl"}
    versions = client.search_model_versions("name = 'ecg-classifier-ptbxl'")
    plain = [version for version in versions if of_no_sweep(version.tags)]
    assert sorted((version.tags["setting"], version.tags["seed"]) for version in plain) == [
        (setting, seed) for setting in ("TrRSTeR", "TrRTeR", "TrSTeR") for seed in ("0", "1")
    ]
    rest = {
        (version.tags["sweep"], version.tags["augmented"])
        for version in versions
        if version not in plain
    }
    assert rest == {(runs.NO_SWEEP, "true")}, "points of a curve are no candidates"
    (generator,) = client.search_model_versions("name = 'ecg-generator-diffwave-ptbxl'")
    assert generator.tags["input.ptbxl"]


def test_repeating_a_cell_is_the_same_result_and_not_a_second_one(
    study: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(warm.ADDRESS, raising=False)
    before = {one.info.run_id for one in all_runs(client)}
    versions = len(client.search_model_versions("name = 'ecg-generator-diffwave-ptbxl'"))
    weights = md5(study / "models/generators/ptbxl/diffwave")
    run(study, "dvc", "repro", "--force", "--single-item", "train_generator@ptbxl-diffwave")
    assert md5(study / "models/generators/ptbxl/diffwave") == weights
    assert {one.info.run_id for one in all_runs(client)} == before
    assert len(client.search_model_versions("name = 'ecg-generator-diffwave-ptbxl'")) == versions


def test_a_clone_gets_the_study_without_running_it(copied: Path, tmp_path: Path) -> None:
    study = copied
    run(study, "git", "add", "dvc.lock")
    run(study, "git", "commit", "--quiet", "-m", "results")
    remote = ("remote", "add", "--local", "--default", "--force", "shelf", str(tmp_path / "shelf"))
    dvc(study, *remote)
    dvc(study, "push")
    run(tmp_path, "git", "clone", "--quiet", str(study), "clone")
    clone = tmp_path / "clone"
    dvc(clone, *remote)
    dvc(clone, "pull")
    assert md5(clone / "data/synthetic") == md5(study / "data/synthetic")
    assert (clone / "reports/results.csv").read_bytes() == (
        study / "reports/results.csv"
    ).read_bytes()
    assert "up to date" in dvc(clone, "repro")


CLASSIFIER = "ecg-classifier-ptbxl"


@pytest.fixture(scope="module")
def record(study: Path) -> Path:
    return next((study / "data/raw/ptbxl").rglob("*.hea")).with_suffix("")


def champion(client: MlflowClient) -> str:
    return str(client.get_model_version_by_alias(CLASSIFIER, "champion").version)


def test_tuning_feeds_the_trainings(study: Path, client: MlflowClient) -> None:
    found = yaml.safe_load((study / "models/tuning/ptbxl/classifier.yaml").read_text())
    trials = client.search_runs(
        [client.get_experiment_by_name(runs.TUNING).experiment_id], "tags.kind = 'trial'"
    )
    assert len(trials) == 2
    assert [trial.data.tags.get("best") for trial in trials].count("true") == 1
    wanted = found["classifiers"]["resnet1d"].get("training", {}).get("learning_rate")
    used = {
        one.data.params.get("training.learning_rate")
        for one in all_runs(client)
        if one.data.tags.get("setting") == "TrRTeR"
    }
    assert repr(wanted) in used


def test_the_walk_from_promotion_to_rollback(copied: Path, record: Path, tmp_path: Path) -> None:
    study, client = copied, client_of(copied)
    # Trained for a second, a classifier does not pass; those that do are in test_promotion.
    refused = run(study, "ecgforge", "promote", CLASSIFIER, "--best", check=False)
    assert refused.returncode != 0
    assert "was not made champion; there is none yet" in refused.stderr
    first = next(
        str(version.version)
        for version in client.search_model_versions(f"name = '{CLASSIFIER}'")
        if "verdict" in version.tags
    )
    run(
        study,
        "ecgforge",
        "promote",
        CLASSIFIER,
        "--version",
        first,
        "--force",
        "--reason",
        "the first one",
    )
    assert champion(client) == first
    judged = run(
        study,
        "ecgforge",
        "classify",
        str(record),
        "--model",
        f"{CLASSIFIER}@champion",
        "--out",
        str(tmp_path / "first.csv"),
    )
    table = read_csv(tmp_path / "first.csv")
    assert len(table) == 1, judged.stdout

    with served(f"models:/{CLASSIFIER}@champion", study, tmp_path / "log") as address:
        signal, fields = wfdb.rdsamp(str(record))
        status, answer = ask(
            address,
            {
                "inputs": [
                    {
                        "signals": signal.T.tolist(),
                        "sampling_rate": fields["fs"],
                        "leads": fields["sig_name"],
                        "units": "mV",
                    }
                ]
            },
        )
    assert status == 200, answer
    assert answer["predictions"][0]["rhythm"] == table["rhythm"][0]

    other = next(number for number in ("1", "2", "3") if number != first)
    run(
        study,
        "ecgforge",
        "promote",
        CLASSIFIER,
        "--version",
        other,
        "--force",
        "--reason",
        "to see it break",
    )
    source = client.get_model_version(CLASSIFIER, other).source.removeprefix("models:/")
    weights = next((study / "mlruns").rglob(f"{source}/**/weights.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for command in (("verify",), ("classify", str(record), "--model", f"{CLASSIFIER}@champion")):
        refused = run(study, "ecgforge", *command, check=False)
        assert refused.returncode != 0, refused.stdout
        assert "registered" in refused.stdout + refused.stderr

    run(study, "ecgforge", "rollback", CLASSIFIER, "--reason", "the other was broken")
    assert champion(client) == first
    run(
        study,
        "ecgforge",
        "classify",
        str(record),
        "--model",
        f"{CLASSIFIER}@champion",
        "--out",
        str(tmp_path / "again.csv"),
    )
    pd.testing.assert_frame_equal(read_csv(tmp_path / "again.csv"), table)
    output = run(study, "ecgforge", "history", CLASSIFIER).stdout
    assert [output.count(word) for word in ("promoted", "forced", "rolled back")] == [0, 2, 1]


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver on the PATH")
def test_the_study_is_compared_in_mlflows_ui(study: Path, browser) -> None:  # noqa: F811
    with ui(study) as printed:
        page = compared(browser, printed["Settings"], "setting")
    assert {name for name in SETTINGS if f"Group: {name}" in page} == set(SETTINGS)


def test_mlflow_run_makes_its_stages_runs_children(copied: Path) -> None:
    study, client = copied, client_of(copied)
    params = small_params()
    params["profiles"]["demo"]["classifiers"]["resnet1d"]["training"]["weight_decay"] = 0.02
    (study / "params.yaml").write_text(yaml.safe_dump(params))
    before = {one.info.run_id for one in all_runs(client)}
    command = (
        "mlflow",
        "run",
        ".",
        "--env-manager",
        "local",
        "-e",
        "classifier",
        "-P",
        "dataset=ptbxl",
        "-P",
        "generator=diffwave",
    )
    uri = f"sqlite:///{study}/mlflow.db"
    found = subprocess.run(
        [*command, "--experiment-name", "projects"],
        cwd=study,
        env=environment() | {"MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    new = [one for one in all_runs(client) if one.info.run_id not in before]
    (parent,) = [one for one in new if "mlflow.parentRunId" not in one.data.tags]
    children = [one for one in new if one is not parent]
    assert {one.data.tags["mlflow.parentRunId"] for one in children} == {parent.info.run_id}
    assert len(children) == 12, (
        "TrRTeR and four settings for two seeds, two augmented ones; the baselines have no weight "
        "decay"
    )
    assert {one.info.status for one in new} == {"FINISHED"}


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not list(path.glob("*/denoiser/last.ckpt")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.02)


def longer_training() -> dict[str, Any]:
    """Parameters with enough steps of a generator that its training can be stopped."""
    params = small_params()
    training = params["profiles"]["demo"]["generators"]["diffwave"]["training"]["denoiser"]
    training |= {"steps": 200, "evaluate_every": 10}
    return params


@pytest.fixture(scope="module")
def not_stopped(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generator of `longer_training`, trained without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    profile = Params.model_validate(longer_training()).active
    records = RecordSet.open(study / "data/prepared/ptbxl")
    settings, checkpoints = profile.generators["diffwave"], folder / "checkpoints"
    whole = train.train(
        "diffwave", settings, records, profile.compute, checkpoints, lambda *_: None
    )
    registry.save(whole, folder / "model")
    return folder / "model"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, "RUNNING"), (signal.SIGINT, "KILLED")]
)
def test_a_stopped_training_resumes_as_the_same_run(
    copied: Path, not_stopped: Path, number: signal.Signals, status: str
) -> None:
    study, client, params = copied, client_of(copied), longer_training()
    training = params["profiles"]["demo"]["generators"]["diffwave"]["training"]["denoiser"]
    (study / "params.yaml").write_text(yaml.safe_dump(params))
    before = {one.info.run_id for one in all_runs(client)}
    stage = ("dvc", "repro", "train_generator@ptbxl-diffwave")
    process = start(study, *stage)
    wait_for(study / ".ecgforge/unfinished", process)
    os.killpg(process.pid, number)
    process.communicate(timeout=120)
    (stopped,) = [one for one in all_runs(client) if one.info.run_id not in before]
    assert stopped.info.status == status
    assert not (study / "models/generators/ptbxl/diffwave").exists()

    run(study, *stage)
    (finished,) = [one for one in all_runs(client) if one.info.run_id not in before]
    assert (finished.info.run_id, finished.info.status) == (stopped.info.run_id, "FINISHED")
    for name, every in (("loss/validation", 10), ("loss/train", training["steps"] // 40)):
        points = client.get_metric_history(finished.info.run_id, name)
        assert [point.step for point in points][-2:] == [
            training["steps"] - every,
            training["steps"],
        ]
        steps = [point.step for point in points]
        assert len(steps) == len(set(steps)) >= training["steps"] // 10, "none is missing or twice"
    assert list((study / ".ecgforge/unfinished").iterdir()) == []
    assert md5(not_stopped) == md5(study / "models/generators/ptbxl/diffwave")


def test_synthetic_records_say_that_they_are(study: Path) -> None:
    records = RecordSet.open(study / "data/synthetic/ptbxl/diffwave")
    assert records.about.origin == "synthetic"
    assert set(records.records["origin"]) == {"diffwave"}
    assert records.about.made["learned_from_origin"] == "simulated"
    assert records.counts() == dict.fromkeys(records.about.rhythms, 24 + 3 + 4)
    assert np.isfinite(records.signals()).all()
