"""A champion served by `mlflow models serve`, asked over HTTP; and what is refused when it is
loaded.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import wfdb
import yaml
from scipy.signal import resample_poly

from champions import CLASSIFIER, Bomb, prepared_records, register_classifier, stored
from ecgforge.classifiers.common import base, registry
from ecgforge.errors import EcgforgeError
from ecgforge.files import md5
from ecgforge.model_versions.invalid_request import InvalidRequestError
from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.registry import serving
from ecgforge.registry.serving import Predictor
from ecgforge.tracking import store

URI = f"models:/{CLASSIFIER}@champion"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordSet]:
    """The prepared records, in a project whose champion is a classifier of them."""
    patch, project = pytest.MonkeyPatch(), tmp_path_factory.mktemp("project")
    patch.chdir(project)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    found = prepared_records(project)
    register_classifier(project, found)
    yield found
    patch.undo()


@pytest.fixture(scope="module")
def classifier(records: RecordSet) -> base.Classifier:
    return registry.load(records.folder.parent / "classifier")


@pytest.fixture(scope="module")
def server(records: RecordSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(URI, records.folder.parent, tmp_path_factory.mktemp("log") / "log") as address:
        yield address


@pytest.fixture(scope="module")
def predictor(records: RecordSet) -> Predictor:
    return Predictor.open(stored(records.folder.parent, CLASSIFIER) / "extra_files", CLASSIFIER)


@contextmanager
def served(uri: str, project: Path, log: Path) -> Iterator[str]:
    """The address of `mlflow models serve`, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        uri,
        "--env-manager",
        "local",
        "--port",
        str(port),
    ]
    # MLflow starts uvicorn by its name.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{project}/mlflow.db"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        while not answers(address):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/ping", timeout=5).status == 200
    except OSError:
        return False


def ask(address: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def raw(records: RecordSet, row: int) -> dict[str, Any]:
    """A record as it was published, twelve leads in mV, as the server takes it."""
    path = next(
        (records.folder.parent / "raw").rglob(f"{int(records.records['id'][row]):05d}_lr.hea")
    ).with_suffix("")
    found = wfdb.rdrecord(str(path))
    return {
        "signals": found.p_signal.T.tolist(),
        "sampling_rate": found.fs,
        "leads": found.sig_name,
        "units": "mV",
    }


def probabilities(answer: Any) -> np.ndarray:
    return np.array([list(one["probabilities"].values()) for one in answer["predictions"]])


@pytest.mark.slow
def test_the_server_answers_as_the_study_tested(
    server: str, records: RecordSet, classifier: base.Classifier
) -> None:
    expected = base.probabilities(classifier, records)[:6]
    assert len(set(expected.argmax(1))) > 1
    status, answer = ask(server, {"inputs": [raw(records, row) for row in range(6)]})
    assert status == 200
    np.testing.assert_allclose(probabilities(answer), expected, atol=1e-5)
    rhythms = list(records.about.rhythms)
    assert [list(one["probabilities"]) for one in answer["predictions"]] == [rhythms] * 6
    assert [one["rhythm"] for one in answer["predictions"]] == [
        rhythms[index] for index in expected.argmax(1)
    ]


@pytest.mark.slow
def test_rate_order_of_leads_and_units_may_be_others(server: str, records: RecordSet) -> None:
    one = raw(records, 0)
    signals = np.array(one["signals"])
    order = np.random.default_rng(0).permutation(12)
    shuffled = one | {
        "signals": signals[order].tolist(),
        "leads": [one["leads"][index].lower() for index in order],
    }
    microvolts = one | {"signals": (1000 * signals).tolist(), "units": "uV"}
    faster = one | {
        "signals": resample_poly(signals, 5, 1, axis=1, padtype="line").tolist(),
        "sampling_rate": 500,
    }
    found = probabilities(ask(server, {"inputs": [one, shuffled, microvolts, faster]})[1])
    np.testing.assert_allclose(found[1:3], found[[0, 0]], atol=1e-6)
    np.testing.assert_allclose(found[3], found[0], atol=0.02)


@pytest.mark.slow
def test_the_example_is_a_request(server: str, records: RecordSet) -> None:
    example = json.loads(
        (stored(records.folder.parent, CLASSIFIER) / "serving_input_example.json").read_text()
    )
    assert ask(server, example)[0] == 200


def test_the_example_has_70_beats_per_minute_in_leads_of_other_heights() -> None:
    (example,) = serving._example(30)
    signals = np.array(example["signals"])
    (found,) = beats.detect(signals[None], example["sampling_rate"])
    expected = (np.arange(35) + 0.5) * 60 / 70
    np.testing.assert_allclose(found / example["sampling_rate"], expected, atol=0.06)
    np.testing.assert_allclose(signals.max(axis=1), np.linspace(0.5, 1.2, 8), atol=0.06)


def changed(**changes: Any) -> Callable[[dict[str, Any]], list[Any]]:
    return lambda one: [
        {
            key: change(one[key]) if callable(change) else change
            for key, change in (one | changes).items()
        }
    ]


def with_nan(signals: list[list[float]]) -> list[list[float]]:
    return [
        [*row[:5], float("nan"), *row[6:]] if lead == 7 else row for lead, row in enumerate(signals)
    ]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no list": (lambda one: one, "inputs must be a list of records"),
    "second": (lambda one: [one, one | {"units": "NU"}], "inputs[1]: wrong units: NU, not mV"),
    "no units": (
        lambda one: [{key: one[key] for key in ("signals", "sampling_rate", "leads")}],
        "inputs[0]: units: missing",
    ),
    "a key too many": (lambda one: [one | {"gain": 2}], "inputs[0]: gain: unknown key"),
    "no rate": (
        lambda one: [one | {"sampling_rate": None}],
        "inputs[0]: sampling_rate = None: Input should be a valid number",
    ),
    "rate of 0": (
        lambda one: [one | {"sampling_rate": 0}],
        "inputs[0]: wrong sampling rate: 0 Hz; over 80 Hz",
    ),
    "rate of NaN": (
        lambda one: [one | {"sampling_rate": float("nan")}],
        "inputs[0]: wrong sampling rate: nan Hz",
    ),
    "rate of a radio": (lambda one: [one | {"sampling_rate": 1e6}], "to 10000 Hz are allowed"),
    "too short": (
        lambda one: [one | {"sampling_rate": 500}],
        "inputs[0]: wrong length: 2 s, and 10 s are needed",
    ),
    "a lead is missing": (
        lambda one: [one | {"leads": ["X" if lead == "V3" else lead for lead in one["leads"]]}],
        "inputs[0]: missing lead: 0 leads named V3 among",
    ),
    "transposed": (
        lambda one: [one | {"signals": np.transpose(one["signals"]).tolist()}],
        "inputs[0]: signals has the shape (1000, 12), but must have a row for each of the 12 leads",
    ),
    "one row": (
        lambda one: [one | {"signals": one["signals"][0]}],
        "signals has the shape (1000,)",
    ),
    "ragged": (
        lambda one: [one | {"signals": [*one["signals"][:11], [1.0]]}],
        "signals must be numbers, with a row for each lead",
    ),
    "words": (lambda one: [one | {"signals": "ECG"}], "signals must be numbers"),
    "NaN": (
        lambda one: [one | {"signals": with_nan(one["signals"])}],
        "inputs[0]: non-finite sample: lead V2: invalid samples",
    ),
    "null": (
        lambda one: [one | {"signals": [[None] * 1000, *one["signals"][1:]]}],
        "non-finite sample: lead I",
    ),
    "flat": (
        lambda one: [one | {"signals": [[0.0] * 1000, *one["signals"][1:]]}],
        "inputs[0]: flat lead: lead I",
    ),
    "a number beyond all": (
        lambda one: [one | {"signals": [[10**400] * 1000, *one["signals"][1:]]}],
        "signals must be numbers",
    ),
    "numbers beyond recorders": (
        lambda one: [one | {"signals": [[1e308] * 500 + [-1e308] * 500, *one["signals"][1:]]}],
        "absurd amplitude",
    ),
    "infinity": (
        lambda one: [one | {"signals": [[float("inf")] * 1000, *one["signals"][1:]]}],
        "non-finite sample: lead I",
    ),
    "a rate beyond all": (lambda one: [one | {"sampling_rate": 10**400}], "inputs[0]: "),
    "nested": (
        lambda one: [one | {"signals": [[[[1.0]]]] * 12}],
        "signals has the shape (12, 1, 1)",
    ),
    "records in records": (lambda one: [[[one]]], "inputs[0]: "),
    "a dictionary": (lambda one: [one | {"signals": {"I": [1.0]}}], "signals must be numbers"),
    "rows of dictionaries": (
        lambda one: [one | {"signals": [{"0": 1.0}] * 12}],
        "signals has the shape (12,)",
    ),
    "many leads": (lambda one: [one | {"leads": ["I"] * 100_000}], "leads"),
    "a long name": (lambda one: [one | {"units": "V" * 100_000}], "units"),
    "many keys": (
        lambda one: [one | {f"key{number}": 1 for number in range(10_000)}],
        "10004 keys",
    ),
    "a key of two lines": (lambda one: [one | {"a\nb\x1b": 1}], "inputs[0]: a b\\x1b: unknown key"),
    "many records": (lambda one: [one] * 5000, "inputs has 5000 records; at most 1000"),
    "microvolts as mV": (
        lambda one: [one | {"signals": (1000 * np.array(one["signals"])).tolist()}],
        "absurd amplitude",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["second", "NaN", "a number beyond all", "nested", "a key of two lines", "flat"]
)
def test_a_wrong_request_is_400_and_one_line(server: str, records: RecordSet, what: str) -> None:
    change, expected = WRONG[what]
    status, answer = ask(server, {"inputs": change(raw(records, 0))})
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert expected in answer["message"]
    assert "stack_trace" not in answer


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_is_refused_in_one_line(
    predictor: Predictor, records: RecordSet, what: str
) -> None:
    change, expected = WRONG[what]
    with pytest.raises(InvalidRequestError) as refused:
        predictor.predict(change(raw(records, 0)))
    message = refused.value.message
    assert expected in message
    assert "\n" not in message
    assert len(message) <= 300


@pytest.mark.parametrize("rate", [257.3, 360.01, 499.99, 9999.99, 9973])
def test_an_odd_rate_is_answered_in_little_time_and_memory(
    predictor: Predictor, records: RecordSet, rate: float
) -> None:
    one, samples = raw(records, 0), math.ceil(10 * rate)
    times = np.arange(samples) / rate
    signals = np.stack([np.interp(times, np.arange(1000) / 100, row) for row in one["signals"]])
    request = one | {"signals": signals.tolist(), "sampling_rate": rate}
    tracemalloc.start()
    started = time.process_time()
    (answer,) = predictor.predict([request])
    assert time.process_time() - started < 2
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    expected = predictor.predict([one])[0]["probabilities"]
    assert answer["probabilities"] == pytest.approx(expected, abs=0.05)


def test_a_long_record_costs_no_more_than_what_is_used_of_it(
    predictor: Predictor, records: RecordSet
) -> None:
    one = raw(records, 0)
    long = one | {"signals": [row * 60 for row in one["signals"]]}
    tracemalloc.start()
    assert predictor.predict([long])[0]["rhythm"] == predictor.predict([one])[0]["rhythm"]
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["instances", "dataframe_split", "dataframe_records"])
def test_other_forms_of_request_get_a_hint_to_the_accepted_one(
    server: str, records: RecordSet, form: str
) -> None:
    status, answer = ask(server, {form: [raw(records, 0)]})
    assert status == 400
    assert "'inputs' key" in answer["message"]


# What is refused when MLflow loads it


def flip(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def rewrite_digest(folder: Path) -> None:
    description = yaml.safe_load((folder / "MLmodel").read_text())
    description["metadata"]["files.md5"] = md5(folder / "extra_files")
    (folder / "MLmodel").write_text(yaml.safe_dump(description))


@pytest.fixture
def kept(records: RecordSet, tmp_path: Path) -> Iterator[Path]:
    """The folder of the champion, which is put back afterwards."""
    folder = stored(records.folder.parent, CLASSIFIER)
    shutil.copytree(folder, tmp_path / "kept")
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)


def test_what_mlflow_loads_answers_as_the_server(
    kept: Path, records: RecordSet, classifier: base.Classifier
) -> None:
    served, away = mlflow.pyfunc.load_model(URI), mlflow.pyfunc.load_model(str(kept))
    inputs = [raw(records, row) for row in range(2)]
    assert served.predict(inputs) == away.predict(inputs)
    np.testing.assert_allclose(
        probabilities({"predictions": served.predict(inputs)}),
        base.probabilities(classifier, records)[:2],
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["weights.safetensors", "preprocessing.json", "classifier.json"])
def test_tampered_files_are_refused(kept: Path, name: str) -> None:
    flip(kept / "extra_files" / name)
    with pytest.raises(EcgforgeError, match="are not those that were registered"):
        mlflow.pyfunc.load_model(URI)


def test_a_rewritten_description_is_refused_by_the_registry(kept: Path, tmp_path: Path) -> None:
    tree = json.loads((kept / "extra_files/preprocessing.json").read_text())
    (kept / "extra_files/preprocessing.json").write_text(json.dumps(tree | {"band": [1, 30]}))
    rewrite_digest(kept)
    with pytest.raises(
        EcgforgeError, match=f"the files of {CLASSIFIER}/1 are not those that were registered"
    ):
        mlflow.pyfunc.load_model(URI)
    # Away from the registry nothing else is known, as the documentation says.
    copy = shutil.copytree(
        kept, tmp_path / "copy", ignore=shutil.ignore_patterns("registered_model_meta")
    )
    assert mlflow.pyfunc.load_model(str(copy)).unwrap_python_model is not None
    flip(copy / "extra_files/weights.safetensors")
    with pytest.raises(EcgforgeError, match="are not those that were registered"):
        mlflow.pyfunc.load_model(str(copy))


@pytest.mark.parametrize(
    "name", ["extra_files/weights.safetensors", "data/model.pkl", "extra_files/innocent.json"]
)
def test_pickle_is_refused_and_not_executed(kept: Path, records: RecordSet, name: str) -> None:
    (kept / name).write_bytes(pickle.dumps(Bomb()))
    rewrite_digest(kept)
    with pytest.raises(EcgforgeError, match="could execute"):
        mlflow.pyfunc.load_model(URI)
    assert not list(records.folder.parent.rglob("exploded"))


def test_a_model_away_from_its_registry_loads_and_makes_no_database(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (kept / "registered_model_meta").write_text(f"model_name: {CLASSIFIER}\nmodel_version: '1'\n")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/elsewhere.db")
    try:
        assert (
            mlflow.pyfunc.load_model(str(kept)).metadata.flavors["python_function"]["loader_module"]
            == "ecgforge.registry.serving"
        )
        assert mlflow.get_tracking_uri().endswith("elsewhere.db")
    finally:
        mlflow.set_tracking_uri(before)
    assert not list(tmp_path.glob("*.db"))


def test_the_exported_graph_is_still_there(kept: Path, classifier: base.Classifier) -> None:
    import torch

    graph, signals = mlflow.pytorch.load_model(URI), torch.randn(3, 8, 1000)
    torch.testing.assert_close(graph(signals), classifier(signals), atol=1e-4, rtol=1e-4)
    assert store.client().get_model_version(CLASSIFIER, "1").tags["files.md5"] == md5_without_note(
        kept
    )


def md5_without_note(folder: Path) -> str:
    (folder / "registered_model_meta").unlink(missing_ok=True)
    return md5(folder)
