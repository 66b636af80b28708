"""Cells side by side, by the real DVC: what fails stops what comes after it and nothing else, and
is reported once.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml
from dvc import rwlock
from dvc.repo import Repo

from ecgforge import workers
from ecgforge.errors import EcgforgeError
from ecgforge.pipeline import cells, warm
from ecgforge.tracking import store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stages = {
        "early": {"cmd": "sleep 1; echo early > early", "outs": ["early"]},
        "wrong": {"cmd": "echo wrong >&2; exit 3", "outs": ["wrong"]},
        "slow": {
            "cmd": "until test -e noticed; do sleep 0.1; done; echo slow > slow",
            "outs": ["slow"],
        },
        "after_slow": {"cmd": "cat slow > after_slow", "deps": ["slow"], "outs": ["after_slow"]},
        "after_wrong": {
            "cmd": "cat wrong > after_wrong",
            "deps": ["wrong"],
            "outs": ["after_wrong"],
        },
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    Repo.init(str(tmp_path)).close()
    monkeypatch.chdir(tmp_path)
    # No stage here is one of ecgforge's, so none would use the server that loads torch for them.
    monkeypatch.setenv(warm.ADDRESS, str(tmp_path / "no-server"))
    return tmp_path


@pytest.fixture
def database(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's database of the project; the command line would take seconds to make it."""
    assert Path.cwd() == project
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    store.initialise()


def with_a_server() -> dict[str, str]:
    """The environment of a person, in which a study starts a server for its stages."""
    return {name: value for name, value in os.environ.items() if name != warm.ADDRESS}


def program(code: str) -> list[str]:
    """A process whose server imports nothing in advance, since no stage here needs torch."""
    head = "from ecgforge.pipeline import cells; cells.SLOW = ()\n"
    return [sys.executable, "-c", head + code]


def ecgforge(*arguments: str) -> list[str]:
    """As the command line starts it."""
    return program(
        f"import sys; sys.argv = ['ecgforge', *{arguments}]\n"
        "from ecgforge.__main__ import main; main()"
    )


def test_a_failure_lets_what_runs_finish_and_starts_no_more(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say = cells.console.err.print

    def noticed(words: str, **how: str) -> None:
        say(words, **how)
        if words.startswith("wrong failed"):
            Path("noticed").touch()

    monkeypatch.setattr(cells.console.err, "print", noticed)
    assert cells.repro([], 2) == 1
    assert (project / "slow").exists(), "it ran when the other failed, and was waited for"
    assert not (project / "after_slow").exists()
    assert not (project / "after_wrong").exists()
    output = capfd.readouterr().err
    assert output.count("wrong failed, its error is above") == 1
    assert "Traceback" not in output

    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("exit 3", "echo right > wrong"))
    assert cells.repro(["after_wrong"], 2) == 0
    assert (project / "after_wrong").read_text() == "right\n"
    assert not (project / "after_slow").exists(), "it was not asked for"
    assert cells.repro([], 2) == 0
    assert (project / "after_slow").read_text() == "slow\n"
    assert cells.repro([], 2) == 0
    assert "up to date" in capfd.readouterr().err


def test_an_unknown_target_is_reported_with_the_known_ones(project: Path) -> None:
    stages = {
        "train": {
            "matrix": {"data": ["a", "b"]},
            "cmd": "echo ${item.data} > ${item.data}",
            "outs": ["${item.data}"],
        }
    }
    (project / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": stages | {"report": {"cmd": "touch report", "outs": ["report"]}}})
    )
    with pytest.raises(
        EcgforgeError,
        match=("'tarin' is not a stage or cell .* are report, train, and cells such as train@a$"),
    ):
        cells.repro(["report", "tarin"], 1)
    with pytest.raises(
        EcgforgeError, match="'train@c' is not a stage or cell .* are train@a, train@b$"
    ):
        cells.repro(["train@c"], 1)
    assert not (project / "report").exists()
    assert cells.repro(["train@a", "report"], 1) == 0
    assert [(project / name).exists() for name in ("a", "b", "report")] == [True, False, True]


def test_a_section_of_the_parameters_that_is_null_is_named(project: Path) -> None:
    stage = {"cmd": "touch seeded", "params": ["profiles.demo.study.seeds"], "outs": ["seeded"]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"seeded": stage}}))
    assert cells.repro([], 1) == 0
    tree = yaml.safe_load((project / "params.yaml").read_text())
    tree["profiles"]["demo"]["study"] = None
    (project / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(EcgforgeError, match=r"params.yaml: profiles\.demo\.study = None"):
        cells.repro([], 1)


@pytest.mark.timeout(120)
def test_cells_that_wait_for_a_worker_when_one_fails_do_not_start(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stages = {
        f"wrong{i}": {"cmd": f"touch ran{i}; exit 3", "outs": [f"wrong{i}"]} for i in range(6)
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    assert cells.repro([], 1) == 1
    assert len(list(project.glob("ran*"))) == 1
    assert capfd.readouterr().err.count("failed, its error is above") == 1


@pytest.mark.timeout(120)
def on_gpus(project: Path, accelerator: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run four cells on two made-up GPUs; a cell fails if another one uses its GPU at the same
    time. Return the GPU of each cell.
    """
    stages = {
        f"s{i}": {
            "cmd": f"mkdir busy-$CUDA_VISIBLE_DEVICES && echo $CUDA_VISIBLE_DEVICES > s{i} && "
            "sleep 0.5 && rmdir busy-$CUDA_VISIBLE_DEVICES",
            "outs": [f"s{i}"],
        }
        for i in range(4)
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    text = (project / "params.yaml").read_text()
    changed = text.replace("compute: {accelerator: cpu", f"compute: {{accelerator: {accelerator}")
    (project / "params.yaml").write_text(changed)
    monkeypatch.setenv(workers.VISIBLE, "GPU-a,GPU-b")
    assert cells.repro([]) == 0
    return [(project / name).read_text().strip() for name in stages]


def test_cells_in_parallel_have_a_gpu_each(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 1)
    assert set(on_gpus(project, "auto", monkeypatch)) == {"GPU-a", "GPU-b"}


def test_a_study_on_the_cpu_has_no_gpus_to_deal_out(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 1)
    assert set(on_gpus(project, "cpu", monkeypatch)) == {"GPU-a,GPU-b"}


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,2", ["0", "2"]),
        ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]),
        ("", []),
        ("-1", []),
        ("1,-1,2", ["1"]),
    ],
)
def test_gpus_are_those_that_cuda_would_see(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    monkeypatch.setenv(workers.VISIBLE, visible)
    assert workers.gpus() == expected


def test_without_a_list_the_driver_names_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(workers.VISIBLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert workers.gpus() == [], "no driver"
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho GPU-1\necho GPU-2\n")
    driver.chmod(0o755)
    assert workers.gpus() == ["GPU-1", "GPU-2"]


def test_cores_are_those_that_the_process_may_use() -> None:
    one = min(os.sched_getaffinity(0))
    code = "from ecgforge import workers; print(workers.cores())"
    pinned = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{one}]); {code}"]
    assert subprocess.run(pinned, capture_output=True, text=True, check=True).stdout == "1\n"


def test_an_interruption_starts_no_more_cells_and_reports_the_running_ones(project: Path) -> None:
    stages = {
        f"long{i}": {
            "cmd": f"touch ran{i}; until test -e interrupted; do sleep 0.1; done",
            "outs": [f"long{i}"],
        }
        for i in range(4)
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    code = (
        "from pathlib import Path; pool = cells.local.LocalPool; pass_on = pool.interrupt\n"
        "pool.interrupt = lambda self: (pass_on(self), Path('interrupted').touch())\n"
        "cells.repro([], 1)"
    )
    command = subprocess.Popen(
        program(code),
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        env=with_a_server(),
    )
    while not list(project.glob("ran*")):
        time.sleep(0.1)
    with pytest.raises(EcgforgeError, match=r"is busy.*PID"):
        cells.repro([], 1)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    assert "KeyboardInterrupt" in command.communicate()[1]
    assert len(list(project.glob("ran*"))) == 1


@pytest.mark.timeout(240)
def test_when_it_is_killed_its_cells_end_too_and_the_next_run_goes_on(project: Path) -> None:
    stages = {
        "long": {
            "cmd": "test -e ran && echo done > long || (touch ran; sleep 60)",
            "outs": ["long"],
        }
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    command = subprocess.Popen(program("cells.repro([], 1)"), env=with_a_server())
    while not (project / "ran").exists():
        time.sleep(0.1)
    started = psutil.Process(command.pid).children(recursive=True)
    command.kill()
    command.wait()
    # until the test's time is over
    while any(one.is_running() for one in started):  # for DVC, a zombie runs too
        time.sleep(0.1)
    assert cells.repro([], 1) == 0
    assert (project / "long").read_text() == "done\n"


@pytest.mark.parametrize("left", ["", '{"long": {"write": {"pid"'])
def test_a_kill_while_dvc_wrote_its_lock_does_not_stop_the_next_run(
    project: Path, left: str
) -> None:
    (project / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"one": {"cmd": "touch one", "outs": ["one"]}}})
    )
    lock = project / ".dvc/tmp/rwlock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(left)
    assert cells.repro([], 1) == 0
    assert (project / "one").exists()


def test_a_torn_lock_is_restored_and_nothing_runs_again(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stages = {
        name: {"cmd": f"echo x >> ran; touch {name}", "outs": [name]}
        for name in ("one", "two", "three")
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    assert cells.repro([], 1) == 0
    whole = (project / "dvc.lock").read_text()
    # no YAML, valid YAML with fewer stages, nothing
    for left in (whole[:90], whole[: whole.rindex("  t")], ""):
        (project / "dvc.lock").write_text(left)
        assert cells.repro([], 1) == 0
        assert "dvc.lock was damaged" in capfd.readouterr().err
        assert (project / "dvc.lock").read_text() == whole
    assert (project / "ran").read_text().count("x") == 3


def test_a_run_without_changes_is_fast(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {name: {"cmd": f"touch {name}", "outs": [name]} for name in ("one", "two", "three")}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    opened, edit = [], rwlock._edit_rwlock
    monkeypatch.setattr(rwlock, "_edit_rwlock", lambda *place: opened.append(1) or edit(*place))
    assert set(cells._stale_cells([], missing=False)) == set(stages)
    assert len(opened) == 1, "DVC's list of readers and writers is read once"
    for name in stages:
        assert cells.local.repro_one(name)
    code = (
        "import sys; from ecgforge.report import answers; assert cells.repro([]) == 0\n"
        "print({name for name in ('torch', 'mlflow', 'pandas', 'scipy') if name in sys.modules})"
    )
    found = subprocess.run(program(code), capture_output=True, text=True, check=True)
    assert "up to date" in found.stderr
    assert found.stdout == "set()\n"


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("database")
def test_a_worker_that_is_killed_ends_all_in_one_line_and_takes_its_stage_along(
    project: Path,
) -> None:
    stage = {
        "cmd": "echo $PPID > worker; echo $$ > stage; echo $TMPDIR > place; sleep 60; touch long",
        "outs": ["long"],
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"long": stage}}))
    command = subprocess.Popen(
        ecgforge("repro", "--jobs", "1"),
        stderr=subprocess.PIPE,
        text=True,
        env=with_a_server(),
    )
    while not (project / "place").exists() or not (project / "place").read_text():
        time.sleep(0.1)
    process = psutil.Process(int((project / "stage").read_text()))
    os.kill(int((project / "worker").read_text()), signal.SIGKILL)
    _, output = command.communicate()
    assert command.returncode == 1
    assert "Traceback" not in output
    assert (
        "a worker process was killed, perhaps for lack of memory, while these ran: long"
        in output.strip().split("\n")[-1]
    )
    # until the test's time is over
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.1)
    assert not (project / "long").exists()
    assert not Path((project / "place").read_text().strip()).exists(), (
        "its temporary files are gone"
    )


def test_temporary_files_of_a_killed_study_are_removed_by_its_next_run(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with cells._temporary_files():
        (own,) = place.iterdir()
        assert os.environ["TMPDIR"] == str(own)
    key = own.name.split("-")[1]
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = {
        f"ecgforge-{key}-{dead.pid}-abc": False,
        f"ecgforge-{key}-{os.getppid()}-abc": True,
        f"ecgforge-00000000-{dead.pid}-abc": True,
    }
    for name in left:
        (place / name / "model").mkdir(parents=True)
    with cells._temporary_files():
        assert {name: (place / name).exists() for name in left} == left


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("database")
def test_two_runs_at_once_lose_nothing(project: Path) -> None:
    """One that wants a stage of the other ends and says so, or both do."""
    stages = {
        f"s{i}": {"cmd": f"echo x >> ran{i}; sleep 1; touch s{i}", "outs": [f"s{i}"]}
        for i in range(4)
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    command = ecgforge("repro", "--jobs", "2")
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=with_a_server())
        for _ in range(2)
    ]
    output = [one.communicate()[1] for one in both]
    assert "Traceback" not in "".join(output)
    for line, one in zip(output, both, strict=True):
        assert one.returncode == 0 or "busy" in line or "Unable to acquire lock" in line, line
    assert cells.repro([], 1) == 0
    assert sorted(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == sorted(stages)
    assert all((project / name).exists() for name in stages)
    assert all((project / f"ran{i}").read_text() == "x\n" for i in range(4)), "each stage ran once"


def test_a_kill_while_dvc_wrote_its_run_cache_does_not_stop_the_next_run(project: Path) -> None:
    (project / "dvc.yaml").write_text(
        yaml.safe_dump(
            {"stages": {"one": {"cmd": "touch one", "deps": ["params.yaml"], "outs": ["one"]}}}
        )
    )
    assert cells.repro([], 1) == 0
    (project / "dvc.lock").unlink()
    (record,) = (project / ".dvc/cache/runs").glob("*/*/*")
    for left in (None, f".{record.name}.partial"):
        record.unlink()
        if left:
            (record.parent / left).write_text("cmd: to")
        assert cells.repro([], 1) == 0
        assert [path.name for path in record.parent.iterdir()] == [record.name]
        (project / "dvc.lock").unlink()
