"""The public Python API, and the notebook that shows it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ecgforge
from ecgforge import api
from ecgforge.classifiers.common.base import Classifier
from ecgforge.errors import EcgforgeError
from ecgforge.generators.common.base import Generator
from ecgforge.params import Params, Training
from ecgforge.records.record_set import RecordSet
from test_init import record

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs/notebooks/first_study.ipynb"


@pytest.fixture(scope="module")
def params() -> Params:
    """Those of the project, with small samples for quality scores."""
    found = ecgforge.load_params(ROOT / "params.yaml")
    assert found.generator("diffwave").network["layers"] == 6  # the defaults are filled in
    return found


@pytest.fixture(scope="module")
def records(params: Params) -> RecordSet:
    return ecgforge.simulate_records(120, seed=1, params=params)


@pytest.fixture(scope="module")
def generator(records: RecordSet, params: Params) -> Generator:
    return ecgforge.train_generator(records, steps=4, seed=1, params=params)


@pytest.fixture(scope="module")
def classifier(records: RecordSet, params: Params) -> Classifier:
    return ecgforge.train_classifier(records, steps=30, params=params)


def test_an_import_loads_nothing_heavy() -> None:
    code = "import ecgforge, sys; print(ecgforge.__all__); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, heavy = done.stdout.splitlines()
    assert ast.literal_eval(names) == ecgforge.__all__
    assert heavy == "False"


def test_each_name_is_there_and_documented() -> None:
    assert set(ecgforge.__all__) <= set(dir(ecgforge))
    for name in ecgforge.__all__:
        assert getattr(ecgforge, name) is getattr(api, name)
        assert getattr(ecgforge, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ecgforge.nothing  # type: ignore[attr-defined]


def test_own_records_are_loaded_by_their_labels(tmp_path: Path, params: Params) -> None:
    home = tmp_path / "ecgs"
    rows = []
    for number in range(18):
        record(home, f"r{number}", number)
        rows.append(f"r{number},p{number},{'Sinus rhythm' if number < 9 else 'irregular'}\n")
    (home / "t.csv").write_text("file,patient,label\n" + "".join(rows))
    found = ecgforge.load_records(home, params=params, out=tmp_path / "set")
    assert found.counts() == {"SR": 9}
    found = ecgforge.load_records(home, labels={"irregular": "SA"}, params=params)
    assert found.counts() == {"SR": 9, "SA": 9}
    assert found.signals().shape == (18, 8, 1000)
    assert found.about.units == "mV"
    assert found.about.origin == "real"
    assert not set(found.split("test").records["patient"]) & set(
        found.split("train").records["patient"]
    )
    scaled = ecgforge.load_records(
        home, labels={"irregular": "SA"}, units="per_lead_std", params=params
    )
    np.testing.assert_allclose(scaled.signals().std(axis=2), 1, rtol=1e-4)
    assert ecgforge.load_records(tmp_path / "set").counts() == {"SR": 9}
    with pytest.raises(EcgforgeError, match="exists already: name a new folder"):
        ecgforge.load_records(home, params=params, out=tmp_path / "set")


def test_records_are_generated_by_rhythm_and_seed(
    records: RecordSet, generator: Generator, params: Params, tmp_path: Path
) -> None:
    assert records.about.origin == "simulated"
    made = ecgforge.synthesize(generator, records, 2, params=params, out=tmp_path / "made")
    assert made.counts() == dict.fromkeys(records.about.rhythms, 2)
    assert set(made.records["split"]) == {"train"}
    assert made.about.origin == "synthetic"
    more = ecgforge.synthesize(generator, records, 3, params=params)
    other = ecgforge.synthesize(generator, records, 2, seed=7, params=params)
    first = [*range(0, 2), *range(3, 5)]  # of two rhythms, in both sets
    np.testing.assert_allclose(made.signals()[:4], more.signals()[first], atol=1e-4)
    assert not np.allclose(made.signals(), other.signals(), atol=1e-2)
    last = records.about.rhythms[-1]
    alone = ecgforge.synthesize(generator, records, {last: 2}, params=params)
    assert set(alone.records["rhythm"]) == {last}
    np.testing.assert_allclose(made.signals()[-2:], alone.signals(), atol=1e-4)
    with pytest.raises(EcgforgeError, match="no rhythm X: use SR"):
        ecgforge.synthesize(generator, records, {"X": 1}, params=params)
    with pytest.raises(EcgforgeError, match=r"sampling.*unknown key"):
        ecgforge.synthesize(generator, records, 1, sampling={"magic": 1}, params=params)


def test_models_are_saved_and_loaded(
    records: RecordSet, generator: Generator, classifier: Classifier, tmp_path: Path
) -> None:
    for name, model in (("generator", generator), ("classifier", classifier)):
        for _ in range(2):  # a model is replaced
            ecgforge.save(model, tmp_path / name)
        loaded = ecgforge.load(tmp_path / name)
        assert type(loaded) is type(model)
        assert not loaded.training
        for key, value in model.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[key], value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("")
    with pytest.raises(EcgforgeError, match="has no model: name a new folder"):
        ecgforge.save(generator, tmp_path / "mine")
    assert (tmp_path / "mine/letter.txt").exists()
    table = ecgforge.classify(classifier, records.split("test"))
    assert table["id"].tolist() == records.split("test").records["id"].tolist()
    probabilities = table[list(records.about.rhythms)]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (table["rhythm"] == probabilities.idxmax(axis=1)).all()


@pytest.mark.slow
def test_the_second_classifier_is_compared_with_the_first(
    params: Params,
) -> None:
    # Fewer test records would give a difference by chance, which varies between machines.
    records = ecgforge.simulate_records(500, seed=1, params=params)
    trained = ecgforge.train_classifier(records, steps=60, params=params)
    worse = ecgforge.train_classifier(records, steps=1, params=params)
    macro = "rhythm == 'macro' and metric == 'f1'"
    both = [
        ecgforge.evaluate(one, records).query(macro)["mean"].iloc[0] for one in (worse, trained)
    ]
    gain = ecgforge.compare(worse, trained, records).query(macro).iloc[0]
    assert gain["estimate"] == pytest.approx(both[1] - both[0])
    assert gain["low"] < gain["estimate"] < gain["high"]
    assert gain["estimate"] > 0.3
    several = ecgforge.evaluate([worse, trained], records)
    assert set(several["seeds"]) == {2}
    classifier_of_others = ecgforge.train_classifier(_two_rhythms(records), steps=1, params=params)
    with pytest.raises(EcgforgeError, match="the classifier knows SR, SB, and the records have"):
        ecgforge.evaluate(classifier_of_others, records)
    with pytest.raises(EcgforgeError, match="the sets have different rhythms"):
        ecgforge.train_classifier(records, _two_rhythms(records), params=params)


def _two_rhythms(records: RecordSet) -> RecordSet:
    from ecgforge.records.record_set import aligned

    return aligned(records, ("SR", "SB"))


def test_a_drawing_is_a_picture_in_a_notebook(records: RecordSet) -> None:
    drawing = ecgforge.draw(records, 3)
    assert drawing.startswith("<svg")
    assert str(records.records["id"].iloc[3]) in drawing
    assert drawing._repr_svg_() == drawing
    assert "my title" in ecgforge.draw(records, 0, "my title")
    with pytest.raises(EcgforgeError, match="there is no record 9999: the set has"):
        ecgforge.draw(records, 9999)


@pytest.mark.parametrize(
    ("steps", "expected"), [(None, (100, 25)), (100, (100, 25)), (60, (60, 30)), (7, (7, 7))]
)
def test_a_shorter_training_is_evaluated_at_its_end(
    steps: int | None, expected: tuple[int, int]
) -> None:
    settings = Training(
        steps=100, batch_size=4, learning_rate=0.1, warmup_steps=10, evaluate_every=25
    )
    found = api._shortened(settings, steps)
    assert (found.steps, found.evaluate_every) == expected
    assert found.warmup_steps <= found.steps


def cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["source"]]


@pytest.mark.slow
def test_the_notebook_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cells run in order, as in Jupyter, with smaller numbers."""
    monkeypatch.chdir(NOTEBOOK.parent)
    small = {"RECORDS": 150, "GENERATOR_STEPS": 8, "CLASSIFIER_STEPS": 20, "SYNTHETIC": 12}
    names: dict[str, Any] = {}
    for cell in cells():
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "cell", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                assert small.keys() <= names.keys()
                names |= small | {"SEEDS": (0, 1)}
    assert "Do synthetic records help? " in capsys.readouterr().out
    assert set(names["overall"].index) >= {"heart_rate_w1", "c2st_accuracy", "copied_share"}
    assert len(names["synthetic"]) == 12 * len(names["records"].about.rhythms)


def test_the_notebook_has_no_outputs() -> None:
    assert [cell["id"] for cell in cells() if cell.get("outputs")] == []
    assert len({cell["id"] for cell in cells()}) == len(cells())
