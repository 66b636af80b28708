"""What `make bench` runs: each benchmark exists, takes what it is given, and is in the docs."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = shlex.split(
    re.findall(r"^BENCHMARKS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
)


@pytest.mark.parametrize("command", NAMED)
def test_each_benchmark_of_make_bench_exists_and_takes_its_arguments(command: str) -> None:
    name, *given = command.split()
    described = ast.get_docstring(ast.parse((ROOT / "benchmarks" / name).read_text())) or ""
    usage = [line for line in described.splitlines() if f"python benchmarks/{name}" in line]
    options = {one for one in given if one.startswith("--")}
    assert options <= {word.strip("[]") for line in usage for word in line.split()}
    assert len(given) - len(options) <= max(len(re.findall(r"\[[a-zA-Z]", one)) for one in usage)


def test_the_docs_list_what_make_bench_runs() -> None:
    page = (ROOT / "docs/measurements/cpu.md").read_text()
    listed = re.findall(r"^\| `([\w.]+\.py[^`]*)` \|", page, re.MULTILINE)
    assert listed == NAMED
