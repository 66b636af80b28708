"""Stages that start at once: forked from a server that has loaded torch, Lightning and MLflow,
which each would load for 12 s.

`ecgforge repro` starts the server and says in the environment where it listens. A stage's command
then hands its arguments, folder, environment and terminal over, waits, and passes signals on. Where
no server answers, the command does its work itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

ADDRESS = "ECGFORGE_WARM"
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
LONGEST = 80  # bytes of a folder's name that a socket's address has room for
KILLED = 137  # the exit code of a shell's command that was killed with SIGKILL


@contextmanager
def server(modules: Sequence[str], entry: str) -> Iterator[None]:
    """Keep a server running, for this process and those that it starts, unless they have one; on
    Linux alone.

    Args:
        modules: what it loads beforehand.
        entry: "module:function" of the command line.
    """
    if ADDRESS in os.environ or not sys.platform.startswith("linux"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ecgforge-", dir=_short_folder()) as folder:
        address = str(Path(folder) / "socket")
        command = [sys.executable, "-m", "ecgforge.pipeline.warm", address, entry, *modules]
        # A session of its own: an interruption at the terminal reaches the stages through their
        # commands alone, and once.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        os.environ[ADDRESS] = address
        try:
            yield
        finally:
            del os.environ[ADDRESS]
            process.kill()
            process.communicate()


def _short_folder() -> str:
    """Return a folder for temporary files whose name leaves room: the address of a socket has 107
    bytes at most.
    """
    here = tempfile.gettempdir()
    return here if len(os.fsencode(here)) <= LONGEST else "/tmp"


def run(arguments: Sequence[str]) -> int | None:
    """Run `ecgforge` with these arguments in the server's child and return its exit code;

    None where there is no server.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        with _held_back(PASSED_ON):  # until it is known to whom they go
            try:
                connection.connect(address)
                request = {
                    "arguments": list(arguments),
                    "folder": str(Path.cwd()),
                    "environment": dict(os.environ),
                }
                socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
                replies = connection.makefile()
                pid = replies.readline()
            except OSError:
                return None
            if not pid:
                return None

            def pass_on(number: int, _: FrameType | None) -> None:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), number)

            for number in PASSED_ON:
                signal.signal(number, pass_on)
        return int(replies.readline() or KILLED)


@contextmanager
def _held_back(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Let signals that arrive within the block wait for its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(address: str, entry: str, modules: Sequence[str]) -> None:
    """Load `modules`, then fork a child for every command that arrives, until whoever started this
    process has gone.
    """
    for module in modules:
        importlib.import_module(module)
    name, function = entry.split(":")
    main = getattr(importlib.import_module(name), function)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is waited for: they report themselves
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _work(connection, main)
            connection.close()


def _work(connection: socket.socket, main: Callable[[], object]) -> NoReturn:
    """Become the command that `connection` asks for."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 20)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # The server's own streams know what its files can do, such as seek.
    sys.stdout, sys.stderr = (_stream(number) for number in (1, 2))
    request = json.loads(data)
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # what a module found when it was loaded is the server's
    os.chdir(request["folder"])
    sys.argv = ["ecgforge", *request["arguments"]]
    threading.Thread(target=_end_with, args=[connection], daemon=True).start()
    connection.sendall(f"{os.getpid()}\n".encode())
    code = _exit_code(main)
    connection.sendall(f"{code}\n".encode())
    sys.exit(code)


def _stream(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


def _end_with(connection: socket.socket) -> None:
    """End this process, and those that it has started, when the command that it works for was
    killed.
    """
    # of one that was killed before it read what it had been told
    with suppress(ConnectionResetError):
        connection.recv(1)
    os.killpg(os.getpid(), signal.SIGKILL)


def _exit_code(main: Callable[[], object]) -> int:
    """Run the command line; do with what it raises what the interpreter does."""
    code: object = None
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3:])
