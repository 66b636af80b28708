"""Tracking with the real MLflow on a SQLite file: one run a fingerprint, whatever happens to its
processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickletools
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from torch import Tensor, nn

from ecgforge.errors import EcgforgeError
from ecgforge.files import md5
from ecgforge.model_versions import models, versions
from ecgforge.tracking import runs, store
from ecgforge.tracking.runs import DatasetInput, Run, RunKey, fingerprint, tracked

pytestmark = pytest.mark.slow

KEY = RunKey(
    "classifier",
    "merged",
    1,
    simulated=True,
    generator="diffwave",
    setting="TrSTeR",
    backbone="resnet1d",
)
SAMPLES = 100

# Forks have all modules. They must not take along a connection to a database that they use.
processes = multiprocessing.get_context("fork")


def in_folder(folder: Path, work: Callable[..., None], *arguments: Any) -> None:
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    work(*arguments)


def in_processes(
    folder: Path, work: Callable[..., None], arguments: list[tuple[Any, ...]]
) -> list[int | None]:
    started = [
        processes.Process(target=in_folder, args=(folder, work, *given)) for given in arguments
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    return [process.exitcode for process in started]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that eight processes initialised at once; making one takes seconds."""
    folder = tmp_path_factory.mktemp("database")
    assert in_processes(folder, store.initialise, [()] * 8) == [0] * 8
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, with an environment that MLflow and DVC have not touched."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in (
        "MLFLOW_RUN_ID",
        runs.PARENT,
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "DVC_STAGE",
        "DVC_EXP_NAME",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in store.SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ready(folder: Path, database: Path) -> MlflowClient:
    shutil.copy(database, folder / "mlflow.db")
    return store.client()


def opened(
    key: RunKey = KEY,
    name: str = "a",
    inputs: Sequence[DatasetInput] = (),
    resume_file: Path | None = None,
    **params: Any,
) -> Any:
    return tracked(
        key, fingerprint=name, params=params, inputs=list(inputs), resume_file=resume_file
    )


def curve(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def status(client: MlflowClient, run: Run) -> tuple[str, str | None]:
    found = client.get_run(run.id)
    return found.info.status, found.data.tags.get(runs.REASON)


# Where runs are kept


def test_eight_processes_that_initialise_at_once_leave_a_working_database(
    database: Path, ready: MlflowClient
) -> None:
    with opened() as run:
        run.summary({"f1": 0.5})
    assert ready.get_run(run.id).data.metrics == {"f1": 0.5}
    assert not list(database.parent.glob(".*.partial*"))


@pytest.mark.usefixtures("ready")
def test_ready_database_is_recognised_without_importing_mlflow() -> None:
    code = """
        import sys
        from ecgforge.tracking import runs, store
        store.initialise()
        store.ensure_reachable()
        assert "mlflow" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.usefixtures("ready")
def test_readiness_depends_on_the_database_and_the_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store._ready(folder / "mlflow.db")
    monkeypatch.setattr(store, "version", lambda _: "99.0")
    assert not store._ready(folder / "mlflow.db")
    (folder / "mlflow.db").unlink()
    assert not store._ready(folder / "mlflow.db")


def test_database_that_mlflow_made_is_adopted(folder: Path, ready: MlflowClient) -> None:
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("PRAGMA user_version = 0")
    with opened() as run:
        pass
    assert status(ready, run)[0] == "FINISHED"
    assert store._ready(folder / "mlflow.db")


def test_file_that_is_no_database_is_refused_and_left_alone(folder: Path) -> None:
    (folder / "mlflow.db").write_text(
        "notes, and quite a few of them, so that there is a header's worth of bytes to look at, "
        * 2
    )
    before = (folder / "mlflow.db").read_bytes()
    with pytest.raises(EcgforgeError, match=r"mlflow\.db cannot be used .*move it away"), opened():
        pass
    assert (folder / "mlflow.db").read_bytes() == before


def test_relative_uri_means_one_file_from_every_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "params.yaml").touch()
    deep = folder / "src" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    for uri in ("sqlite:///mlflow.db", ""):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert store.configure() == f"sqlite:///{folder}/mlflow.db"


def test_experiments_in_temporary_copies_belong_to_the_project(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = folder / ".dvc" / "tmp" / "exps" / "tmp12"
    copy.mkdir(parents=True)
    (copy / "params.yaml").touch()
    monkeypatch.chdir(copy)
    assert store.project_root() == folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:{port}",
        "postgresql://me:secret@127.0.0.1:{port}/db",
        "http://no-such-host.invalid",
    ],
)
def test_unreachable_server_is_reported_quickly(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = uri.format(port=free_port())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    with pytest.raises(EcgforgeError, match="cannot be reached") as refusal, opened():
        pytest.fail("work started")
    assert time.monotonic() - started < 5
    assert "127.0.0.1" in str(refusal.value) or "no-such-host" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_silent_server_is_reported_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(EcgforgeError, match="cannot be reached"):
            store.ensure_reachable()
        assert time.monotonic() - started < 5


def test_plain_folders_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(folder / "mlruns"))
    with pytest.raises(EcgforgeError, match="unset it"):
        store.ensure_reachable()


# One fingerprint, one run


def test_run_carries_the_contract(
    folder: Path, ready: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "classify@merged-diffwave")
    monkeypatch.setenv("DVC_EXP_NAME", "wide-net")
    for command in (
        ["init", "-q"],
        ["config", "user.name", "Ada"],
        ["-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "a"],
    ):
        subprocess.run(["git", *command], check=True)
    (folder / ".gitignore").write_text("mlflow.db*\nmlruns\n.gitignore\n")
    (folder / "dvc.lock").touch()
    (folder / "params.yaml").touch()  # its values are in dvc.lock
    long = list(range(3000))
    with opened(training={"lr": 0.1, "betas": [0.9, 0.99]}, name="a", long=long) as run:
        run.log({"loss": 1.0}, 0)
        run.text("hello", "notes/a.txt")
    found = ready.get_run(run.id)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    expected = {
        "git.commit": head,
        "mlflow.source.git.commit": head,
        "git.dirty": "false",
        "dvc.stage": "classify@merged-diffwave",
        "dvc.exp": "wide-net",
        "dataset": "merged",
        "generator": "diffwave",
        "setting": "TrSTeR",
        "backbone": "resnet1d",
        "seed": "1",
        "kind": "classifier",
        "simulated": "true",
        "ecgforge.fingerprint": "a",
        "mlflow.user": "Ada",
        "mlflow.runName": "TrSTeR merged/diffwave resnet1d seed 1",
        "system.device": "cpu",
    }
    assert {key: found.data.tags.get(key) for key in expected} == expected
    assert found.info.status == "FINISHED"
    assert found.data.params.keys() == {"training.lr", "training.betas", "long"}
    assert found.data.params["training.betas"] == "[0.9, 0.99]"
    assert len(found.data.params["long"]) == runs.PARAM_LENGTH
    assert {file.path for file in ready.list_artifacts(run.id)} == {"notes", "params.json"}
    artifact = Path(ready.download_artifacts(run.id, "params.json", str(folder)))
    assert json.loads(artifact.read_text())["long"] == long
    assert "system.gpu" not in found.data.tags
    (folder / "edited.py").touch()
    with opened() as run:
        pass
    assert ready.get_run(run.id).data.tags["git.dirty"] == "true"


def test_a_run_on_a_gpu_has_the_name_of_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    tags = runs._system()
    assert (tags["system.device"], tags[runs.GPU]) == ("cuda", "NVIDIA H100")


def test_names_are_for_people() -> None:
    assert KEY.name == "TrSTeR merged/diffwave resnet1d seed 1"
    assert replace(KEY, generator=None, setting="TrRTeR").name == "TrRTeR merged resnet1d seed 1"
    assert (
        RunKey("generator", "merged", 0, simulated=False, generator="diffwave").name
        == "diffwave on merged, seed 0"
    )
    of_sweep = RunKey(
        "generator", "merged", 0, False, generator="diffwave", sweep="size", point="25"
    )
    assert of_sweep.name == "diffwave on merged, seed 0, size 25"
    assert (
        RunKey("generator", "merged", 0, simulated=False, generator="diffwave").model_name
        == "ecg-generator-diffwave-merged"
    )
    assert KEY.model_name == "ecg-classifier-merged"


def test_long_values_that_differ_at_the_end_look_different() -> None:
    one, two = runs.flatten({"a": "x" * 9000 + "1"}), runs.flatten({"a": "x" * 9000 + "2"})
    assert one != two
    assert runs.flatten({"a": "x" * 6000}) == {"a": "x" * 6000}


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.integers() | st.text() | st.none() | st.booleans(),
        lambda tree: st.dictionaries(st.text("ab", min_size=1), tree),
    )
)
def test_flattening_keeps_every_leaf(tree: Any) -> None:
    def leaves(tree: Any) -> int:
        return sum(map(leaves, tree.values())) if isinstance(tree, dict) and tree else 1

    assert len(runs.flatten({"root": tree})) == leaves(tree)


def test_fingerprint_changes_with_all_that_decides_a_result_and_nothing_else() -> None:
    params, inputs, code = {"a": 1, "b": 2}, {"data": "m", "test": "m"}, {"a.py": "1", "b.py": "1"}
    base = fingerprint(KEY, params, inputs, code)
    assert base == fingerprint(
        KEY, *(dict(reversed(one.items())) for one in (params, inputs, code))
    )
    others = [
        *(
            fingerprint(replace(KEY, seed=2), params, inputs, code),
            fingerprint(replace(KEY, setting="TrRSTeR"), params, inputs, code),
        ),
        *(
            fingerprint(replace(KEY, **{key: 1}), params, inputs, code)
            for key in ("augmented", "draw")
        ),
        fingerprint(replace(KEY, dataset=f"{KEY.dataset}_1of3"), params, inputs, code),
        fingerprint(KEY, params | {"b": 3}, inputs, code),
        fingerprint(KEY, params, inputs | {"data": "n"}, code),
        fingerprint(KEY, params, {"data": "m", "real": "m"}, code),
        fingerprint(KEY, params, inputs, code | {"b.py": "2"}),
        fingerprint(KEY, params, inputs, {"a.py": "2", "b.py": "1"}),
        fingerprint(KEY, params, inputs, {"a.py": "1"}),
        fingerprint(KEY, params, inputs, code | {"c.py": "1"}),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_same_cell_twice_is_one_result(ready: MlflowClient) -> None:
    for _ in range(2):
        with opened(
            lr=0.1,
            inputs=[DatasetInput("merged", Path("data"), "d" * 32 + ".dir", "training", "real")],
        ) as run:
            for step in range(3):
                run.log({"loss": 1 / (step + 1)}, step)
            run.summary({"f1": 0.5, "undefined": float("nan")})
    assert len(ready.search_runs([run.experiment_id])) == 1
    assert curve(ready, run.id, "loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert len(curve(ready, run.id, "f1")) == len(curve(ready, run.id, "undefined")) == 1
    assert len(ready.get_run(run.id).inputs.dataset_inputs) == 1
    with opened(name="another", lr=0.2) as other:
        pass
    assert other.id != run.id


def test_a_failure_is_recorded_and_a_restart_resumes_the_run(ready: MlflowClient) -> None:
    with pytest.raises(ZeroDivisionError), opened() as run:  # noqa: PT012
        run.log({"loss": 1.0}, 0)
        raise ZeroDivisionError("no beats")
    assert status(ready, run) == ("FAILED", "ZeroDivisionError: no beats")
    assert curve(ready, run.id, "loss") == [(0, 1.0)]
    with opened() as again:
        again.log({"loss": 1.0}, 0)
        again.log({"loss": 0.5}, 1)
        assert status(ready, run)[0] == "RUNNING"
    assert again.id == run.id
    assert status(ready, run) == ("FINISHED", None)
    assert curve(ready, run.id, "loss") == [(0, 1.0), (1, 0.5)]


def test_interruptions_end_as_killed(ready: MlflowClient) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), opened(name="a") as run:
        raise KeyboardInterrupt
    assert status(ready, run) == ("KILLED", "interrupted")
    with pytest.raises(SystemExit) as ending, opened(name="b") as run:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert ending.value.code == 143
    assert status(ready, run) == ("KILLED", "terminated, exit code 143")
    assert signal.getsignal(signal.SIGTERM) is before


def train_until_killed(folder: Path, send_at: int) -> None:
    with opened(resume_file=folder / "unsent") as run:
        (folder / "id").write_text(run.id)
        for step in range(1000):
            run.log({"loss": float(step), "f1": -float(step)}, step)
            if step == send_at:
                run.flush()
            if step == 60:
                (folder / "checkpoint").touch()
                time.sleep(60)


def test_a_killed_run_resumes_without_gaps_or_duplicates(folder: Path, database: Path) -> None:
    shutil.copy(database, folder / "mlflow.db")
    process = processes.Process(target=in_folder, args=(folder, train_until_killed, folder, 40))
    process.start()
    while not (folder / "checkpoint").exists():
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    ready = store.client()
    run_id = (folder / "id").read_text()
    assert ready.get_run(run_id).info.status == "RUNNING"
    assert max(step for step, _ in curve(ready, run_id, "loss")) == 40
    with (folder / "unsent").open("a") as file:
        file.write('["loss", 61.0, 6')  # killed while it wrote
    # The checkpoint was of step 50: the steps after it run again, and those before it never will.
    with opened(resume_file=folder / "unsent") as run:
        for step in range(51, 80):
            run.log({"loss": float(step), "f1": -float(step)}, step)
    assert run.id == run_id
    assert status(ready, run) == ("FINISHED", None)
    assert curve(ready, run_id, "loss") == [(step, float(step)) for step in range(80)]
    assert curve(ready, run_id, "f1") == [(step, -float(step)) for step in range(80)]
    assert not (folder / "unsent").exists()


def test_points_left_by_another_cell_are_not_taken(folder: Path, ready: MlflowClient) -> None:
    (folder / "unsent").write_text('another\n["loss", 1.0, 5, 0]\n')
    with opened(resume_file=folder / "unsent") as run:
        run.log({"loss": 2.0}, 0)
    assert curve(ready, run.id, "loss") == [(0, 2.0)]


def test_curves_are_sent_in_batches_of_what_mlflow_takes(
    ready: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    send = MlflowClient.log_batch

    def count(*args: Any, **rest: Any) -> Any:
        sizes.append(len(rest.get("metrics", ())))
        return send(*args, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", count)
    with opened() as run:
        sizes.clear()
        for step in range(750):
            run.log({"loss": 1.0, "f1": 0.0}, step)
        assert sizes == []
    assert [size for size in sizes if size] == [1000, 500]
    assert len(curve(ready, run.id, "loss")) == 750


def test_server_that_is_away_for_a_while_costs_nothing(
    ready: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("gone")

    monkeypatch.setattr(runs, "SEND_EVERY", 0.0)
    with opened() as run:
        run._wait = 0.0
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", refuse)
            run.log({"loss": 1.0}, 0)
        run.log({"loss": 0.5}, 1)
    assert curve(ready, run.id, "loss") == [(0, 1.0), (1, 0.5)]


def test_stages_under_mlflow_run_become_its_children(
    ready: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = ready.create_experiment("project")
    parent = ready.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    children = []
    for name in ("a", "b"):
        # `mlflow run` hands the same id to every stage.
        monkeypatch.setenv("MLFLOW_RUN_ID", parent)
        with opened(name=name, lr=name) as run:
            children.append(run.id)
    with opened(name="c", lr="c") as run:  # a second run of the same process
        children.append(run.id)
    assert len({parent, *children}) == 4
    for child in children:
        found = ready.get_run(child)
        assert found.data.tags["mlflow.parentRunId"] == parent
        assert found.info.experiment_id == experiment
    assert ready.get_run(parent).info.status == "RUNNING"
    assert ready.get_run(parent).data.params == {}


@pytest.mark.usefixtures("ready")
def test_a_fingerprint_keeps_its_run_if_another_command_starts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with opened() as run:
        pass
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    with opened() as again:
        pass
    assert again.id == run.id


def track_some(number: int) -> None:
    shared = [DatasetInput("merged", Path("data"), "d" * 32 + ".dir", "training", "real")]
    for turn in range(2):
        with opened(name=f"{number}-{turn}", inputs=shared, number=number) as run:
            for step in range(5):
                run.log({"loss": 1.0}, step)
                run.flush()


def test_four_processes_write_to_one_file_at_once(folder: Path, database: Path) -> None:
    shutil.copy(database, folder / "mlflow.db")
    assert in_processes(folder, track_some, [(number,) for number in range(4)]) == [0] * 4
    ready = store.client()
    found = ready.search_runs(
        [ready.get_experiment_by_name("ecgforge").experiment_id], max_results=100
    )
    assert len(found) == 8
    assert {run.info.status for run in found} == {"FINISHED"}
    assert all(len(curve(ready, run.info.run_id, "loss")) == 5 for run in found)


# Inputs


def test_inputs_are_searchable_and_read_back_as_what_they_are(
    folder: Path, ready: MlflowClient
) -> None:
    data = folder / "data"
    data.mkdir()
    (data / "signals.npy").write_bytes(b"1")
    digest = md5(data)
    uses = [
        DatasetInput("merged", data, digest, "training", "simulated"),
        DatasetInput("merged", data, digest, "test", "simulated"),
        DatasetInput("merged/diffwave", folder / "synthetic", "e" * 32, "training", "diffwave"),
    ]
    with opened(inputs=uses) as run:
        pass
    (found,) = ready.search_runs([run.experiment_id], "dataset.name = 'merged/diffwave'")
    assert found.info.run_id == run.id
    assert found.data.tags["input.merged"] == digest
    logged = {item.dataset.name: item for item in found.inputs.dataset_inputs}
    assert {tag.key: tag.value for tag in logged["merged"].tags} == {
        "mlflow.data.context": "training, test",
        "origin": "simulated",
    }
    source = mlflow.data.get_source(logged["merged"])
    assert type(source).__name__ == "DvcSource"
    assert (source.path, source.digest, logged["merged"].dataset.digest) == ("data", digest, digest)
    assert source.load() == data
    (data / "signals.npy").write_bytes(b"2")
    with pytest.raises(EcgforgeError, match="dvc checkout data"):
        source.load()


# Models


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(8, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, signals: Tensor) -> Tensor:
        return self.head(self.body(signals).mean(-1))


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.labels = nn.Embedding(4, 8)
        self.out = nn.Conv1d(8, 8, 1)

    def forward(self, noisy: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return self.out(noisy * times[:, None, None] + self.labels(labels)[:, :, None])


EXAMPLE = np.sin(np.arange(2 * 8 * SAMPLES, dtype=np.float32)).reshape(2, 8, SAMPLES)
TENSORS = {
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "torch LongStorage",
    "collections OrderedDict",
}


def assert_nothing_executes(folder: Path) -> None:
    """No artifact is a pickle; inside a pt2 archive, which torch gives one for its example inputs,
    it names nothing but tensors.
    """
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert file.suffix not in {
            ".pkl",
            ".pickle",
            ".pth",
            ".pt",
            ".bin",
            ".ckpt",
            ".joblib",
            ".npz",
        }, file
        assert not file.read_bytes().startswith(b"\x80"), file
        if zipfile.is_zipfile(file):
            assert file.suffix == ".pt2"
            archive = zipfile.ZipFile(file)
            for name in archive.namelist():
                if name.endswith("sample_inputs/model.pt"):
                    archive.extract(name, folder.parent / "unpacked")
                    inner = zipfile.ZipFile(folder.parent / "unpacked" / name)
                    pickled = inner.read(
                        next(part for part in inner.namelist() if part.endswith("data.pkl"))
                    )
                    used = {
                        argument
                        for code, argument, _ in pickletools.genops(pickled)
                        if code.name in ("GLOBAL", "STACK_GLOBAL")
                    }
                    assert used <= TENSORS
                else:
                    assert not archive.read(name).startswith((b"\x80\x02", b"PK")), name


def register(run: Run, network: nn.Module) -> str:
    return models.log_classifier(run, network, EXAMPLE, ["SR", "SB", "ST"], name=KEY.model_name)


@pytest.mark.usefixtures("folder")
def test_mlflow_records_the_use_of_the_machine_by_long_trainings(
    ready: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(name: str, seconds: float) -> set[str]:
        with opened(name=name) as run:
            time.sleep(seconds)
        return {key for key in ready.get_run(run.id).data.metrics if key.startswith("system/")}

    assert used("short", 0.3) == set()
    monkeypatch.setattr(runs, "MONITOR_AFTER", 0.0)
    monkeypatch.setattr(runs, "MONITOR_EVERY", 0.1)
    expected = {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}
    deadline = time.monotonic() + 30  # on a busy machine
    seconds = 0.5
    while not expected <= used(f"{seconds} s", seconds):
        assert time.monotonic() < deadline
        seconds *= 2


@pytest.mark.usefixtures("folder")
def test_sweeps_have_one_parent_for_each_dataset_and_generator(ready: MlflowClient) -> None:
    def parent(sweep: str | None, dataset: str, generator: str | None, seed: int) -> str | None:
        key = RunKey(
            "classifier", dataset, seed, True, generator, "TrRSTeR", "resnet1d", sweep, "50"
        )
        name = f"{sweep} {dataset} {generator} {seed}"
        with runs.tracked(key, fingerprint=name, params={}, inputs=[]) as run:
            pass
        return ready.get_run(run.id).data.tags.get("mlflow.parentRunId")

    keys = [(sweep, "ptbxl", "diffwave", seed) for sweep in ("size", "mixture") for seed in (0, 1)]
    with ThreadPoolExecutor() as pool:  # cells run in parallel
        (one,) = set(pool.map(lambda key: parent(*key), keys))
    assert one is not None
    found = ready.get_run(one)
    assert (found.info.run_name, found.info.status) == ("sweeps of diffwave on ptbxl", "FINISHED")
    assert found.data.tags["kind"] == "sweeps"
    assert parent("size", "ptbxl_2of5", "diffwave", 0) == one, "a round of the same dataset"
    others = {parent("size", "ptbxl", None, 0), parent("size", "chapman", "diffwave", 0)}
    assert len(others | {one}) == 3
    assert parent(None, "ptbxl", "diffwave", 0) is None


def test_classifier_is_a_version_that_serves_any_batch(folder: Path, ready: MlflowClient) -> None:
    torch.manual_seed(0)
    network = Network()
    with opened(
        inputs=[DatasetInput("merged", Path("data"), "d" * 32, "training", "simulated")]
    ) as run:
        version = register(run, network)
    assert network.training  # the caller's model is left as it was
    uri = f"models:/ecg-classifier-merged/{version}"
    loaded, served = mlflow.pytorch.load_model(uri), mlflow.pyfunc.load_model(uri)
    expected = network.eval()
    for batch in (1, 3, 7):
        signals = np.random.default_rng(batch).normal(size=(batch, 8, SAMPLES)).astype(np.float32)
        logits = expected(torch.from_numpy(signals)).detach().numpy()
        np.testing.assert_allclose(
            loaded(torch.from_numpy(signals)).detach().numpy(), logits, rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(served.predict(signals), logits, rtol=1e-4, atol=1e-6)
    assert served.metadata.signature.inputs.inputs[0].shape == (-1, 8, SAMPLES)
    np.testing.assert_array_equal(served.input_example, EXAMPLE)
    found = ready.get_model_version("ecg-classifier-merged", version)
    assert found.run_id == run.id
    assert run.provenance.items() <= found.tags.items()
    expected_tags = {
        "input.merged": "d" * 32,
        "ecgforge.fingerprint": "a",
        "rhythms": "SR, SB, ST",
        "simulated": "true",
    }
    assert expected_tags.items() <= found.tags.items()
    assert ready.get_run(run.id).outputs.model_outputs[0].model_id == found.source.removeprefix(
        "models:/"
    )
    assert_nothing_executes(folder / "mlruns")


def test_same_weights_keep_their_version_and_others_get_their_own(ready: MlflowClient) -> None:
    torch.manual_seed(0)
    network = Network()
    with opened() as run:
        first = register(run, network)
    with opened() as run:
        assert register(run, network) == first
        network.head.bias.data += 1
        second = register(run, network)
    assert (first, second) == ("1", "2")
    newest = models.find_version("ecg-classifier-merged", "a")
    assert newest is not None
    assert str(newest.version) == second
    assert models.find_version("ecg-classifier-merged", "b") is None
    assert len(ready.search_logged_models([run.experiment_id])) == 2


@pytest.mark.parametrize(
    "killed_in",
    ["log_model_artifacts", "finalize_logged_model", "log_outputs", "create_model_version"],
)
def test_a_model_that_a_kill_left_unregistered_is_taken_up_again(
    ready: MlflowClient, killed_in: str, monkeypatch: Any
) -> None:
    torch.manual_seed(0)
    network, before = Network(), getattr(MlflowClient, killed_in)

    def kill(*arguments: Any, **others: Any) -> None:
        if killed_in != "create_model_version":
            before(*arguments, **others)
        raise SystemExit(137)

    monkeypatch.setattr(MlflowClient, killed_in, kill)
    with pytest.raises(SystemExit), opened() as run:
        register(run, network)
    monkeypatch.setattr(MlflowClient, killed_in, before)
    (left,) = ready.search_logged_models([run.experiment_id])
    (Path(left.artifact_location) / "of another time").write_text("left")
    with opened() as run:
        register(run, network)
    (model,) = ready.search_logged_models([run.experiment_id])
    assert model.model_id == left.model_id
    assert [one.model_id for one in ready.get_run(run.id).outputs.model_outputs] == [model.model_id]
    with versions.files(versions.find("ecg-classifier-merged/1")):
        pass


def test_model_that_does_not_export_leaves_nothing_behind(ready: MlflowClient) -> None:
    class Random(nn.Module):
        def forward(self, signals: Tensor) -> Tensor:
            return signals.mean((1, 2)) if float(signals.mean()) > 0 else signals.sum((1, 2))

    with pytest.raises(Exception, match="data-dependent"), opened() as run:
        register(run, Random())
    assert ready.search_registered_models() == []
    assert ready.search_logged_models([run.experiment_id]) == []
    with pytest.raises(ValueError, match="an example of 1 record"), opened() as run:
        models.log_classifier(run, Network(), EXAMPLE[:1], ["SR"], name="ecg-classifier-merged")


def test_generator_is_a_version_that_carries_its_own_files(
    folder: Path, ready: MlflowClient
) -> None:
    key = RunKey("generator", "merged", 0, simulated=False, generator="diffwave")
    weights = folder / "generator"
    weights.mkdir()
    safetensors.torch.save_file({"weights": torch.zeros(1)}, weights / "weights.safetensors")
    (weights / "generator.json").write_text("{}")
    network = Denoiser()
    example = (torch.zeros(2, 8, SAMPLES), torch.tensor([0.0, 1.0]), torch.tensor([0, 3]))
    with opened(key) as run:
        version = models.log_generator(run, network, example, weights, name=key.model_name)
        assert models.log_generator(run, network, example, weights, name=key.model_name) == version
    uri = f"models:/ecg-generator-diffwave-merged/{version}"
    loaded = mlflow.pytorch.load_model(uri)
    call = (torch.ones(5, 8, SAMPLES), torch.rand(5), torch.tensor([0, 1, 2, 3, 0]))
    torch.testing.assert_close(loaded(*call), network(*call))
    found = ready.get_model_version("ecg-generator-diffwave-merged", version)
    assert found.tags["weights.md5"] == md5(weights / "weights.safetensors")
    assert found.tags["generator"] == "diffwave"
    files = mlflow.artifacts.download_artifacts(f"{uri}/extra_files")
    assert {file.name for file in Path(files).iterdir()} == {
        "weights.safetensors",
        "generator.json",
    }
    signature = mlflow.models.get_model_info(uri).signature
    assert [spec.name for spec in signature.inputs.inputs] == ["noisy", "times", "labels"]
    assert_nothing_executes(folder / "mlruns")
