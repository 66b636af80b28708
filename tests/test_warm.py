"""Commands that run in children of a server which has loaded what they need."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ecgforge.pipeline import warm

ENTRY = """
import os, subprocess, sys, time
from pathlib import Path

LOADED_BY = os.getpid()


def main():
    what = sys.argv[1]
    if what == "tell":
        other = LOADED_BY != os.getpid()
        print(Path.cwd(), os.environ["COLOUR"], sys.argv, other, sys.stdin.read())
        print("to the error stream", file=sys.stderr)
    elif what == "seek":
        sys.stdout.reconfigure(errors="replace")
        print(sys.stdout.seekable())
    elif what == "exit":
        sys.exit(sys.argv[2] if len(sys.argv) > 2 else 3)
    elif what == "raise":
        raise ValueError("the reason")
    elif what == "start":
        child = subprocess.Popen(["sleep", "60"])
        Path(sys.argv[2]).write_text(str(child.pid))
        child.wait()
    elif what == "wait":
        Path(sys.argv[2]).write_text(str(os.getpid()))
        try:
            for _ in range(600):  # a signal that comes just before a sleep does not end it
                time.sleep(0.1)
        except KeyboardInterrupt:
            Path(sys.argv[2]).with_suffix(".interrupted").touch()
            sys.exit(130)
"""
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from ecgforge.pipeline import warm; code = warm.run(sys.argv[1:]); sys.exit(99 if "
    "code is "
    "None else code)",
]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are forked on Linux alone"
)


@pytest.fixture(scope="module", autouse=True)
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("entry")
    (folder / "warm_entry.py").write_text(ENTRY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.delenv(warm.ADDRESS, raising=False)
        with warm.server(["json"], "warm_entry:main"):
            _until(lambda: Path(os.environ[warm.ADDRESS]).exists())
            yield


def _until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def _gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_command_keeps_its_folder_environment_arguments_and_streams(tmp_path: Path) -> None:
    environment = {**os.environ, "COLOUR": "blue"}
    done = subprocess.run(
        [*COMMAND, "tell", "a b"],
        cwd=tmp_path,
        env=environment,
        input="typed",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{tmp_path} blue ['ecgforge', 'tell', 'a b'] True typed"
    assert done.stderr.strip() == "to the error stream"


def test_a_command_knows_its_own_streams_and_not_those_of_the_server() -> None:
    """The server was started while the output of tests went to a file, in which one can seek; the
    command's goes to a pipe.
    """
    assert (
        subprocess.run([*COMMAND, "seek"], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["exit"], 3, ""),
        (["exit", "one line"], 1, "one line"),
        (["raise"], 1, "ValueError: the reason"),
    ],
)
def test_a_command_ends_as_it_would_alone(arguments: list[str], code: int, message: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.strip().endswith(message)


def test_an_interruption_reaches_the_work_once(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    command = subprocess.Popen([*COMMAND, "wait", str(note)])
    _until(lambda: note.exists() and note.read_text())
    command.send_signal(signal.SIGINT)
    assert command.wait(20) == 130
    assert note.with_suffix(".interrupted").exists()


def test_an_interruption_waits_until_the_worker_is_known(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    work = subprocess.Popen(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    assert work.stdout
    work.stdout.readline()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        command = subprocess.Popen([*COMMAND, "wait"], env={**os.environ, warm.ADDRESS: address})
        connection, _ = listener.accept()
        with connection:
            socket.recv_fds(connection, 1 << 20, 3)
            command.send_signal(signal.SIGINT)
            time.sleep(0.3)
            connection.sendall(f"{work.pid}\n".encode())
            assert work.wait(20) == -signal.SIGINT
            connection.sendall(b"130\n")
            assert command.wait(20) == 130


def test_killing_the_command_kills_the_work(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    command = subprocess.Popen([*COMMAND, "wait", str(note)])
    _until(lambda: note.exists() and note.read_text())
    command.kill()
    command.wait()
    _until(lambda: not psutil.pid_exists(int(note.read_text())))


def test_killing_the_command_kills_the_children_of_the_work(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    command = subprocess.Popen([*COMMAND, "start", str(note)])
    _until(lambda: note.exists() and note.read_text())
    child = psutil.Process(int(note.read_text()))
    command.kill()
    command.wait()
    _until(lambda: _gone(child))


def test_killed_work_is_a_failed_command(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    command = subprocess.Popen([*COMMAND, "wait", str(note)])
    _until(lambda: note.exists() and note.read_text())
    os.kill(int(note.read_text()), signal.SIGKILL)
    assert command.wait(20) == warm.KILLED


def test_without_a_server_the_command_is_left_to_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(warm.ADDRESS, str(tmp_path / "nobody"))
    assert warm.run(["exit"]) is None
    monkeypatch.delenv(warm.ADDRESS)
    assert warm.run(["exit"]) is None


def test_the_server_ends_with_its_parent() -> None:
    program = """if True:
        import time
        from ecgforge.pipeline import warm
        with warm.server(["json"], "warm_entry:main"):
            print("up", flush=True)
            for _ in range(600):  # a signal that comes just before a sleep does not end it
                time.sleep(0.1)
    """
    alone = {key: value for key, value in os.environ.items() if key != warm.ADDRESS}
    starter = subprocess.Popen(
        [sys.executable, "-c", program], env=alone, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "up\n"
    (server,) = psutil.Process(starter.pid).children()
    starter.kill()
    starter.communicate()
    _until(lambda: _gone(server))


@pytest.mark.timeout(120)
def test_a_folder_for_temporary_files_with_a_long_name_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("a" * 90)
    long.mkdir()
    monkeypatch.delenv(warm.ADDRESS)
    monkeypatch.setattr("tempfile.tempdir", str(long))
    code = (
        "import os, sys, tempfile; from ecgforge.pipeline import warm; sys.exit(99 if "
        "warm.run(['exit', "
        "'7']) is None else 7)"
    )
    with warm.server([], "warm_entry:main"):
        deadline = time.monotonic() + 60
        while subprocess.run([sys.executable, "-c", code], check=False).returncode != 7:
            assert time.monotonic() < deadline
            time.sleep(0.2)
