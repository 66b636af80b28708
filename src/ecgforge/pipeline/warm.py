"""Stages that start at once, forked from a server that has imported torch, Lightning and MLflow.

These imports take 12 s for each stage otherwise. `ecgforge repro` starts the server and puts its
address into the environment. The command of a stage sends its arguments, folder, environment and
terminal to the server, waits, and passes signals on. Without a server, the command does the work
itself.
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
LONGEST = 80  # longest folder name, in bytes, that leaves room in a socket's address
KILLED = 137  # a shell's exit code for a command that was killed with SIGKILL


@contextmanager
def server(modules: Sequence[str], entry: str) -> Iterator[None]:
    """Run a server during the block for this process and its children, unless they have one.

    Linux only.

    Args:
        modules: to import in advance; "module:function" is also called.
        entry: "module:function" of the command line.
    """
    if ADDRESS in os.environ or not sys.platform.startswith("linux"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ecgforge-", dir=_short_folder()) as folder:
        address = str(Path(folder) / "socket")
        command = [sys.executable, "-m", "ecgforge.pipeline.warm", address, entry, *modules]
        # A separate session: an interruption at the terminal reaches each stage once, through its
        # command.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        os.environ[ADDRESS] = address
        try:
            yield
        finally:
            del os.environ[ADDRESS]
            process.kill()
            process.communicate()


def _short_folder() -> str:
    """Return a temporary folder with a short name: a socket's address has at most 107 bytes."""
    here = tempfile.gettempdir()
    return here if len(os.fsencode(here)) <= LONGEST else "/tmp"


def run(arguments: Sequence[str]) -> int | None:
    """Run `ecgforge` with these arguments in a child of the server, and return its exit code.

    None if there is no server.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        with _deferred(PASSED_ON):  # until the child's process id is known
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
def _deferred(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Delay signals that arrive during the block until its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(address: str, entry: str, modules: Sequence[str]) -> None:
    """Load `modules`, then fork a child for every command, until the parent process ends."""
    load(modules)
    main = _function(entry)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # children need no wait: they send their exit codes
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
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


def load(modules: Iterable[str]) -> None:
    """Import `modules`, and call the function of each "module:function"."""
    for name in modules:
        if ":" in name:
            _function(name)()
        else:
            importlib.import_module(name)


def _function(name: str) -> Callable[[], object]:
    module, function = name.split(":")
    found: Callable[[], object] = getattr(importlib.import_module(module), function)
    return found


def _work(connection: socket.socket, main: Callable[[], object]) -> NoReturn:
    """Run the command that `connection` describes, and exit."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 20)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # The server's own streams have cached properties of its files, such as seekable.
    sys.stdout, sys.stderr = (_stream(number) for number in (1, 2))
    request = json.loads(data)
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # modules may have cached the server's folder
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
    """End this process and its children when the command that it works for is killed."""
    # the command was killed before it read its answer
    with suppress(ConnectionResetError):
        connection.recv(1)
    os.killpg(os.getpid(), signal.SIGKILL)


def _exit_code(main: Callable[[], object]) -> int:
    """Run the command line, and treat its exceptions as the interpreter does."""
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
