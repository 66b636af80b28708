"""DVC's command line in the process of the tests: to start one costs more than most commands."""

from __future__ import annotations

from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path


def dvc(folder: Path, *arguments: str) -> str:
    """Run a command of DVC that succeeds, and return what it prints."""
    from dvc.cli import main

    with chdir(folder), redirect_stdout(StringIO()) as output:
        assert main(list(arguments)) == 0, output.getvalue()
    return output.getvalue()
