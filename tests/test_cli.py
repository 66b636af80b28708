"""What a person sees: help, and for every mistake one clear line, a non-zero exit, and nothing
half-written.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import getpass
import io
import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from rich.table import Table

from ecgforge import __version__, cli, console
from ecgforge.errors import explained
from ecgforge.params import SimulatedSource
from ecgforge.sources import simulated

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@dataclass
class Found:
    """How a command ended: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def ecgforge(folder: Path, *arguments: str) -> Found:
    """Run the command line in this process, since starting one and loading torch takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    before, code = signal.getsignal(signal.SIGTERM), 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["ecgforge", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            err.write(end.code + "\n" if isinstance(end.code, str) else "")
    signal.signal(signal.SIGTERM, before)
    return Found(code, out.getvalue(), err.getvalue())


def last_line(found: Found) -> str:
    """Return what the error says; a progress bar may stand before it, a traceback may not."""
    assert found.returncode != 0
    assert "Traceback" not in found.stderr
    return found.stderr.strip().split("\n")[-1]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "ptbxl"
    simulated.write(folder, SimulatedSource(kind="simulated", layout="ptbxl", records=20, seed=3))
    return folder


@pytest.fixture
def project(tmp_path: Path, raw: Path) -> Path:
    tree = yaml.load((ROOT / "params.yaml").read_text(), yaml.CSafeLoader)
    tree["profiles"]["demo"]["preparation"]["min_records"] = 1
    (tmp_path / "params.yaml").write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper))
    subprocess.run(["cp", "-r", str(raw), str(tmp_path / "ptbxl")], check=True)
    return tmp_path


def edit(project: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tree = yaml.load((project / "params.yaml").read_text(), yaml.CSafeLoader)
    change(tree)
    (project / "params.yaml").write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper))


def test_help_names_every_stage(tmp_path: Path) -> None:
    found = ecgforge(tmp_path, "--help")
    assert found.returncode == 0
    for command in (
        "acquire",
        "prepare",
        "train-generator",
        "synthesize",
        "train-classifier",
        "sweep",
        "quality",
        "report",
        "repro",
    ):
        assert command in found.stdout


def test_a_lineage_and_a_withdrawal_do_not_load_torch() -> None:
    """It takes two seconds, a third of the time of these commands."""
    code = (
        "import sys, ecgforge.commands.lineage, ecgforge.commands.withdraw; "
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_help_loads_no_heavy_package() -> None:
    code = (
        "import sys, ecgforge.cli; print([name for name in ('torch', 'mlflow', 'pandas', 'scipy', "
        "'dvc') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promte",), "No such command 'promte'. Did you mean 'promote'? (see 'ecgforge --help')"),
        (("promote",), "Missing argument 'name' (see 'ecgforge promote --help')"),
        (("prepare", "--raw", "ptbxl"), "Missing option '--out' (see 'ecgforge prepare --help')"),
        (("ui", "--port", "abc"), "Invalid value for '--port': Input should be a valid integer"),
        (
            ("repro", "--jobs", "0"),
            "Invalid value for '--jobs': Input should be greater than or equal to 1",
        ),
        (
            ("gc", "--yse"),
            "No such option: --yse (Possible options: --yes) (see 'ecgforge gc --help')",
        ),
        (("check", "a", "[b]"), "Got unexpected extra argument(s) (a [b])"),
        (("--frobnicate",), "No such option: --frobnicate"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    found = ecgforge(tmp_path, *arguments)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith(f"ecgforge: {message}")


def test_a_check_is_a_json_document(project: Path) -> None:
    found = ecgforge(project, "check", "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["profile"] == "demo"
    assert json.loads(found.stdout)["valid"]
    edit(project, lambda tree: tree.update(backbone="nothing"))
    found = ecgforge(project, "check", "--json")
    tree = json.loads(found.stdout)
    assert (found.returncode, tree["valid"]) == (1, False)
    assert tree["error"] in last_line(found)
    assert "'nothing' is listed in backbone but not defined" in tree["error"]


def test_a_document_has_no_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    with console.document(True):
        print("a message")
        console.report(a=np.float32("nan"), b=np.arange(2), c=Path("x"), d=float("inf"), e=(1, "ä"))
        console.out.print("another")
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"a": None, "b": [0, 1], "c": "x", "d": None, "e": [1, "ä"]}
    assert printed.err.split() == ["a", "message", "another"]
    with console.document(False):
        console.report(a=1)
    assert capsys.readouterr().out == ""


def test_a_wide_table_in_a_file_is_not_truncated_and_changes_no_other_width(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, before = Table("name"), console.out.width
    table.add_row("x" * 300)
    console.print_table(table)
    assert "x" * 300 in capsys.readouterr().out
    assert console.out.width == before


def test_version_is_shown(tmp_path: Path) -> None:
    assert ecgforge(tmp_path, "--version").stdout == f"ecgforge {__version__}\n"


def test_the_shell_can_complete_commands() -> None:
    environment = {
        **os.environ,
        "_ECGFORGE_COMPLETE": "complete_bash",
        "COMP_WORDS": "ecgforge pro",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-m", "ecgforge"]
    assert subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    ).stdout.split() == ["promote"]


@pytest.mark.parametrize(
    ("error", "message"),
    [  # the last one is a pattern
        (
            OSError(errno.ENOSPC, "No space left on device", "mlflow.db"),
            "No space left on device (mlflow.db): free some space and run",
        ),
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("a\nb \x1b[31m"),
            r"unexpected RuntimeError in test_cli.py, line \d+: a b \\x1b\[31m; .* with "
            r".ecgforge/traceback.txt$",
        ),
    ],
)
def test_an_unexpected_error_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ecgforge.stages.parameters.read", fail)
    found = ecgforge(project, "check")
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert re.search(message if "unexpected" in message else re.escape(message), found.stderr)
    if "unexpected" in message:
        assert "RuntimeError: a\nb" in (project / ".ecgforge/traceback.txt").read_text()
    monkeypatch.setenv("ECGFORGE_DEBUG", "1")
    with pytest.raises(type(error)):
        ecgforge(project, "check")


@pytest.mark.parametrize("command", ["check", "repro"])
def test_a_git_that_does_not_answer_is_named_before_any_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(
        "ecgforge.tracking.store.git_problem",
        lambda *_: "git refuses to work in here: fatal: detected dubious ownership",
    )
    found = ecgforge(project, command)
    assert (found.returncode, found.stderr) == (
        1,
        "ecgforge: git refuses to work in here: fatal: detected dubious ownership\n",
    )
    assert not (project / "mlflow.db").exists()


def test_an_error_of_any_kind_on_a_full_disk_is_named_as_such(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr("ecgforge.stages.parameters.read", fail)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    found = ecgforge(project, "check")
    assert found.stderr == (
        f"ecgforge: No space left on device ({project}): free some space and run this again; "
        "finished stages are kept\n"
    )


def test_a_user_without_a_name_has_one_for_what_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    for name in ("LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert ecgforge(tmp_path, "--version").returncode == 0
    assert getpass.getuser() == f"uid {os.getuid()}"


def set_rate(tree: dict[str, Any]) -> None:
    tree["profiles"]["demo"]["classifiers"]["resnet1d"]["training"]["learning_rate"] = 7


def unknown_key(tree: dict[str, Any]) -> None:
    tree["profiles"]["demo"]["synthesis"]["trian"] = 7


def unknown_generator(tree: dict[str, Any]) -> None:
    tree["generators"].append("gan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_rate, "learning_rate = 7"),
        (unknown_key, "synthesis.trian: unknown key"),
        (unknown_generator, "'gan' is listed in generators"),
    ],
)
def test_bad_parameters_are_refused_before_any_work(
    project: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit(project, change)
    found = ecgforge(project, "acquire", "ptbxl", "--out", "data/raw/ptbxl")
    assert message in last_line(found)
    assert found.stderr.count("\n") == 1
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("acquire", "mitbih", "--out", "raw"), "'mitbih' is not a source"),
        (
            ("train-generator", "ptbxl", "gan", "--real", "nowhere", "--out", "model"),
            "'gan' is not a generator of the profile",
        ),
        (
            ("train-generator", "ptbxl", "diffwave", "--real", "nowhere", "--out", "model"),
            "nowhere is not a record set",
        ),
        (("prepare", "--raw", "nowhere/ptbxl", "--out", "set"), "ptbxl_database.csv"),
        (("check", "--params", "nowhere.yaml"), "nowhere.yaml does not exist"),
    ],
)
def test_a_wrong_word_is_one_line(project: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in last_line(ecgforge(project, *arguments))
    assert not (project / arguments[-1]).exists()


def dat_missing(record: Path) -> None:
    record.with_suffix(".dat").unlink()


def dat_truncated(record: Path) -> None:
    dat = record.with_suffix(".dat")
    dat.write_bytes(dat.read_bytes()[:-100])


def dat_corrupt(record: Path) -> None:
    dat = record.with_suffix(".dat")
    content = bytearray(dat.read_bytes())
    content[500] ^= 0x55
    dat.write_bytes(content)


def header_outside(record: Path) -> None:
    header = record.with_suffix(".hea")
    header.write_text(header.read_text().replace(f"{record.name}.dat", "../../x"))


def both_missing(record: Path) -> None:
    record.with_suffix(".dat").unlink()
    record.with_suffix(".hea").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (dat_missing, "missing file"),
        (dat_truncated, "truncated file"),
        (dat_corrupt, "checksum mismatch"),
        (header_outside, "outside its folder"),
        (both_missing, "missing file"),
    ],
)
def test_damaged_records_beyond_the_allowed_share_stop_preparation(
    project: Path, damage: Callable[[Path], None], message: str
) -> None:
    header = sorted((project / "ptbxl").rglob("*.hea"))[2]
    damage(header.with_suffix(""))
    line = last_line(ecgforge(project, "prepare", "--raw", "ptbxl", "--out", "set"))
    assert "1 of 20 records are damaged" in line
    assert header.stem in line
    assert message in line
    assert [path.name for path in project.iterdir() if "set" in path.name] == []


def test_a_damaged_record_within_the_allowed_share_is_set_aside_with_its_reason(
    project: Path,
) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["profiles"]["demo"]["preparation"]["max_damaged"] = 0.1

    edit(project, change)
    dat_truncated(sorted((project / "ptbxl").rglob("*.hea"))[2].with_suffix(""))
    assert ecgforge(project, "prepare", "--raw", "ptbxl", "--out", "set").returncode == 0
    assert (project / "set/excluded.csv").read_text().count("truncated file") == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(project: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("ecgforge")),
        "prepare",
        "--raw",
        "ptbxl",
        "--out",
        "set",
    ]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    ended = subprocess.run(
        command, cwd=project, capture_output=True, text=True, check=False, preexec_fn=limit
    )
    found = Found(ended.returncode, ended.stdout, ended.stderr)
    assert last_line(found) == "ecgforge: File too large"
    assert [path.name for path in project.iterdir() if "set" in path.name] == []


def forked(folder: Path, arguments: tuple[str, ...]) -> None:
    """Run the command line in a fork of this process, with its errors in the file `error`."""
    os.chdir(folder)
    os.dup2(os.open("error", os.O_CREAT | os.O_WRONLY), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["ecgforge", *arguments]
    cli.main()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stage_that_was_stopped_leaves_nothing_and_runs_again(
    project: Path, number: signal.Signals
) -> None:
    edit(project, lambda tree: tree["profiles"]["demo"]["sources"]["ptbxl"].update(records=3000))
    arguments = ("acquire", "ptbxl", "--out", "raw")
    process = multiprocessing.get_context("fork").Process(target=forked, args=(project, arguments))
    process.start()
    while not list(project.glob(".*.partial/records100")):
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode not in (None, 0)
    error = (project / "error").read_text()
    assert not (project / "raw").exists()
    if number != signal.SIGKILL:
        assert error.strip().split("\n")[-1].startswith("ecgforge: interrupted")
        assert not list(project.glob(".*.partial"))
    edit(project, lambda tree: tree["profiles"]["demo"]["sources"]["ptbxl"].update(records=10))
    assert ecgforge(project, "acquire", "ptbxl", "--out", "raw").returncode == 0
    assert not list(project.glob(".*.partial"))


@pytest.mark.parametrize(
    "command",
    [
        ("train-generator", "ptbxl", "diffwave", "--real", "x", "--out"),
        ("train-classifier", "ptbxl", "--real", "x", "--out", "new", "--models"),
        (
            "train-classifier",
            "ptbxl",
            "diffwave",
            "--real",
            "x",
            "--synthetic",
            "x",
            "--baseline",
            "x",
            "--models",
            "new",
            "--out",
        ),
        ("sweep", "size", "ptbxl", "diffwave", "--out"),
        ("sweep", "ablation", "ptbxl", "diffwave", "--out"),
        (
            "quality",
            "ptbxl",
            "diffwave",
            "--real",
            "x",
            "--synthetic",
            "x",
            "--classifiers",
            "x",
            "--out",
        ),
        ("report", "--out"),
    ],
    ids=" ".join,
)
def test_no_command_replaces_a_folder_of_others(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "documents/deep").mkdir(parents=True)
    (tmp_path / "documents/deep/mine.txt").write_text("the only copy")
    assert f"`ecgforge {command[0]}` does not write its file deep/mine.txt" in last_line(
        ecgforge(tmp_path, *command, "documents")
    )
    assert "name a new folder" in last_line(ecgforge(tmp_path, *command, "."))
    assert (tmp_path / "documents/deep/mine.txt").read_text() == "the only copy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("lineage", "data/prepared/ptbxl", "--out", "params.yaml"),
            "params.yaml cannot be written: name a file that ends in .mmd",
        ),
        (
            ("lineage", "data/prepared/ptbxl", "--out", "/"),
            "/ cannot be written: name a file that ends in .mmd",
        ),
        (
            ("lineage", "data/prepared/ptbxl", "--out", "mine.mmd"),
            "mine.mmd exists and was not written by this command: name another file",
        ),
        (("score", "a", "b", "--out", "."), ". cannot be written: name a file that ends in .csv"),
        (
            ("score", "ptbxl", "b", "--out", "ptbxl/s.csv"),
            "ptbxl/s.csv is in the input folder ptbxl: name a file elsewhere",
        ),
        (
            ("score", "a", "b", "--out", "mine.csv"),
            "mine.csv exists and was not written by this command: name another file",
        ),
        (
            ("classify", "ptbxl", "--out", "ptbxl/ptbxl_database.csv"),
            "ptbxl/ptbxl_database.csv exists and was not written by this",
        ),
        (
            ("classify", "ptbxl", "--out", "mine.csv"),
            "mine.csv exists and was not written by this command: name another file",
        ),
        (
            ("classify", "ptbxl", "--plot", "mine.svg"),
            "mine.svg exists and was not written by this command: name another file",
        ),
    ],
)
def test_no_command_writes_over_a_file_of_the_users(
    project: Path, arguments: tuple[str, ...], message: str
) -> None:
    (project / "mine.csv").write_text("record,patient,rhythm\na,1,SR\n")
    (project / "mine.svg").write_text("<svg><title>mine</title></svg>")
    (project / "mine.mmd").write_text("flowchart LR")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert last_line(ecgforge(project, *arguments)).startswith(f"ecgforge: {message}")
    assert {path: path.read_bytes() for path in before} == before
    assert not (project / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("port", "message"),
    [
        ("99999999", "Invalid value for '--port'"),
        ("0", "Invalid value for '--port'"),
        (None, "cannot be used"),
    ],
)
def test_a_port_that_cannot_be_used_is_one_line(
    project: Path, port: str | None, message: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = ecgforge(project, "ui", "--port", port or str(taken.getsockname()[1]))
    assert message in last_line(found)


def test_a_file_where_a_folder_is_needed_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as error:
        (tmp_path / "file/folder").mkdir(parents=True, exist_ok=True)
    assert "a part of this path is a file" in explained(error.value)
    with pytest.raises(OSError, match="file") as error:
        (tmp_path / "file").mkdir(exist_ok=True)
    assert explained(error.value) == f"File exists ({tmp_path}/file): name another path"


@pytest.mark.parametrize("name", ["", "[/]", "x:y", "../x", "a'b", "a b"])
@pytest.mark.parametrize("command", [("history",), ("rollback",), ("promote", "--best")])
def test_a_model_of_an_odd_name_is_not_registered(
    project: Path, command: tuple[str, ...], name: str
) -> None:
    found = ecgforge(project, command[0], name, *command[1:])
    assert last_line(found) == f"ecgforge: no model is registered as '{name}'"


@pytest.mark.parametrize(
    "command",
    [
        ("lineage", "ecg-classifier-merged@champion"),
        ("verify",),
        ("classify", "records"),
        ("history", "ecg-classifier-merged"),
        ("rollback", "ecg-classifier-merged"),
        ("reproduce", "ecg-classifier-merged/1"),
        ("generate", "--model", "ecg-generator-diffwave-ptbxl/1", "--rhythm", "SR", "--out", "a"),
        ("card", "ptbxl"),
        ("gc",),
    ],
)
def test_a_command_that_reads_runs_makes_no_database_outside_of_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = ecgforge(tmp_path, *command)
    assert "neither params.yaml nor mlflow.db: run this in the project's" in last_line(found)
    assert not list(tmp_path.iterdir())


def test_a_study_is_kept_with_all_files_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("dvc.lock", "matrix.yaml", "params.yaml")
    for name in files:
        (tmp_path / name).write_text("a")
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a"]
    subprocess.run(["git", "init", "-q"], check=True)
    assert cli._changed_files() == [*files]
    subprocess.run(["git", "add", *files], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    assert cli._changed_files() == []
    (tmp_path / "params.yaml").write_text("b")
    assert cli._changed_files() == ["params.yaml"]


@pytest.mark.parametrize("value", ["2026-13-45", "9" * 5000, "0x" + "f" * 5000])
def test_an_invalid_scalar_is_one_line(project: Path, value: str) -> None:
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("duration: 10", f"duration: {value}"))
    found = ecgforge(project, "check")
    assert "params.yaml" in last_line(found)
    assert "fault of ecgforge" not in found.stderr
    assert len(found.stderr) < 1000
