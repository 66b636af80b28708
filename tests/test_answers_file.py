"""The answers outside of the report: answers.json, the terminal, and a run in MLflow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ecgforge.analysis.answers import Answer, Gain
from ecgforge.analysis.verdicts import Claim, Verdict, Word, any_gain
from ecgforge.errors import EcgforgeError
from ecgforge.params import Params
from ecgforge.report import answers
from ecgforge.stages import report
from ecgforge.tracking import runs, store
from test_cli import ecgforge
from test_report import a_prepared_set, answered

ROOT = Path(__file__).parent.parent


def verdict(text: str, word: Word) -> Verdict:
    return Verdict(Claim(text, True, [], any_gain), word, pd.DataFrame())


def test_the_file_has_a_row_for_each_dataset(tmp_path: Path) -> None:
    file = tmp_path / answers.NAME
    both = [answered("ptbxl"), answered("chapman")]
    answers.write(both, file)
    rows = json.loads(file.read_text())
    assert [row["dataset"] for row in rows] == ["ptbxl", "chapman"]
    assert answers.sentences(file) == [one.sentence for one in both]
    assert {key: rows[0][key] for key in ("word", "estimate", "low", "high", "finding")} == {
        "word": "no",
        "estimate": -0.01,
        "low": -0.03,
        "high": 0.01,
        "finding": "does not help enough",
    }
    assert rows[0]["augmentation"] == {
        "estimate": 0.05,
        "low": 0.03,
        "high": 0.07,
        "finding": "helps enough",
    }
    kept = ("generator", "metric", "records", "smallest_gain")
    assert [rows[0][key] for key in kept] == ["diffwave", "f1", [180], 0.02]


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '[{"word": "no"}]', '{"a": 1}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / answers.NAME).write_text(text)
    with pytest.raises(EcgforgeError, match="answers cannot be read"):
        answers.sentences(tmp_path / answers.NAME)


@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [((), 0, True), (("report",), 0, True), (("classify",), 0, False), ((), 1, False)],
)
def test_repro_ends_with_the_answers_of_a_report_that_is_up_to_date(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    printed: bool,
) -> None:
    monkeypatch.setattr("ecgforge.pipeline.cells.repro", lambda *_: code)
    monkeypatch.setattr("ecgforge.tracking.store.initialise", lambda: None)
    monkeypatch.setattr("ecgforge.tracking.runs.end_killed", lambda: None)
    (tmp_path / "reports").mkdir()
    answers.write([answered("ptbxl"), answered("chapman")], tmp_path / "reports" / answers.NAME)
    found = ecgforge(tmp_path, "repro", *arguments)
    assert found.returncode == code
    assert (answered("ptbxl").sentence in found.stdout) == printed
    assert (answered("chapman").sentence in found.stdout) == printed


def test_metrics_of_dvc_have_each_gain_with_the_known_limits() -> None:
    unknown = Gain(0.1, float("nan"), float("nan"), "undecided")
    few = replace(answered("chapman"), gain=unknown)
    nothing = pd.DataFrame(columns=["metric", "backbone", "setting"])
    assert report._metrics(nothing, [answered("ptbxl"), few]) == {
        "gain": {"ptbxl": {"diffwave": -0.01}, "chapman": {"diffwave": 0.1}},
        "gain_low": {"ptbxl": {"diffwave": -0.03}},
        "gain_high": {"ptbxl": {"diffwave": 0.01}},
        "macro_f1": {},
    }


def test_metrics_have_each_gain_and_each_tested_claim() -> None:
    unknown = Gain(0.1, float("nan"), float("nan"), "undecided")
    few = replace(answered("chapman"), gain=unknown, augmentation=None)
    judged = [
        verdict("With few, it helps.", "supported"),
        verdict("It hurts.", "contradicted"),
        verdict("Who knows?", "undecided"),
        verdict("It sings.", "not tested"),
    ]
    assert answers.metrics([answered("ptbxl"), few], judged) == {
        "ptbxl/synthetic": -0.01,
        "ptbxl/synthetic_low": -0.03,
        "ptbxl/synthetic_high": 0.01,
        "ptbxl/augmentation": 0.05,
        "ptbxl/augmentation_low": 0.03,
        "ptbxl/augmentation_high": 0.07,
        "chapman/synthetic": 0.1,
        "claim/With few it helps": 1.0,
        "claim/It hurts": -1.0,
        "claim/Who knows": 0.0,
    }


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A study of one dataset, in a folder with its prepared records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name, value in store.SETTINGS.items():
        monkeypatch.setenv(name, value)
    a_prepared_set(tmp_path / "data/prepared/ptbxl")
    return Params.read(ROOT / "params.yaml").model_copy(update={"datasets": ["ptbxl"]})


@pytest.mark.slow
def test_equal_answers_are_one_run(params: Params) -> None:
    store.initialise()

    def log(answer: Answer) -> None:
        page = Path("report.html")
        page.write_text("<p>the report</p>")
        report._log(params, [answer], [verdict("It helps, in all.", "supported")], page)

    log(answered("ptbxl"))
    log(answered("ptbxl"))
    client = store.client()
    (experiment,) = (
        one.experiment_id for one in client.search_experiments(filter_string="name = 'ecgforge'")
    )
    (run,) = client.search_runs([experiment], "tags.kind = 'answers'")
    assert (run.info.run_name, run.info.status) == ("answers", "FINISHED")
    assert run.data.metrics["ptbxl/synthetic"] == -0.01
    assert run.data.metrics["claim/It helps in all"] == 1
    assert run.data.tags["answer.ptbxl"] == answered("ptbxl").sentence
    assert run.data.tags["dataset"] == "ptbxl"
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["ptbxl"]
    more = replace(answered("ptbxl"), gain=Gain(0.05, 0.03, 0.07, "helps enough"))
    log(more)
    assert len(client.search_runs([experiment], "tags.kind = 'answers'")) == 2


def test_training_records_are_counted_in_each_round(params: Params) -> None:
    for number, train in ((1, 20), (2, 30), (3, 40)):
        a_prepared_set(Path(f"data/prepared/ptbxl_{number}of3"), train=train)
    crossed = params.model_copy(update={"folds": {"ptbxl": 3}})
    assert report._trainings(crossed)["ptbxl"].records == [40, 60, 80]
    (plain,) = report._trainings(params.model_copy(update={"folds": {}})).values()
    assert (plain.records, plain.simulated) == ([180], True)


def test_the_name_of_the_run_is_that_of_its_kind() -> None:
    key = runs.RunKey("answers", "ptbxl, chapman", 0, simulated=True)
    assert key.name == "answers"
    assert (key.tags["kind"], key.tags["dataset"]) == ("answers", "ptbxl, chapman")
