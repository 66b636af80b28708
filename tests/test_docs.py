"""The documentation builds without a warning, and names only what exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
import yaml
from pydantic import BaseModel

from ecgforge import grid
from ecgforge.analysis.claims import claims
from ecgforge.cli import app
from ecgforge.params import Params, Profile

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
WIDTH = 100
WORDS = 1300  # of the README
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
FILE = re.compile(r"\.(csv|db|json|md|py|yaml)$")
CODE = re.compile(r"`([^`\n]+)`")
UNCLEAR = "anew|beside|bench|diet|meal|retrained|told|whoever"  # words of the code's past


def test_every_claim_is_documented() -> None:
    page = read(ROOT / "docs/explanation/claims.md")
    texts = [claim.text for claim in claims(grid.table(Params.read(ROOT / "params.yaml")), "")]
    assert len(texts) == len(set(texts)) > 30
    assert [text for text in texts if text not in page] == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="MkDocs is not installed")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = read(tmp_path / "reference" / "command_line.html")
    assert {name for name in COMMANDS if f'id="ecgforge-{name}"' in commands} == COMMANDS
    parameters = read(tmp_path / "reference" / "parameters.html")
    assert all(f"<code>{field}</code>" in parameters for field in Params.model_fields)
    table = read(tmp_path / "reference" / "stages.html")
    assert all(f"<code>{name}</code>" in table for name in stages())
    assert "<math" in read(tmp_path / "explanation" / "quality.html")


def test_the_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").split()) <= WORDS


def test_lines_are_short() -> None:
    """Except for tables, code, and words that cannot be broken."""

    def long(page: Path) -> list[str]:
        lines = [line for line in FENCE.sub("", read(page)).splitlines() if line[:1] != "|"]
        return [line for line in lines if len(line) > WIDTH and " " in line.strip(" -")]

    assert wrong(long) == {}


def test_commands_exist() -> None:
    def unknown(page: Path) -> set[str]:
        named = [re.match(r"(?:\$ )?ecgforge ([a-z-]+)", line) for line in code(page)]
        return {found[1] for found in named if found} - COMMANDS

    assert wrong(unknown) == {}


def test_parameters_exist() -> None:
    def unknown(page: Path) -> list[str]:
        keys = [span for span in spans(page) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span)]
        return [key for key in keys if not (FILE.search(key) or known(key.split(".")))]

    def known(key: list[str]) -> bool:
        roots = [root for root in (Params, Profile) if key[0] in root.model_fields]
        return not roots or any(exists(root, key) for root in roots)

    assert wrong(unknown) == {}


def test_overrides_name_keys_of_the_parameters() -> None:
    """DVC refuses `-S key=value` for a key that is not in params.yaml."""
    tree = yaml.safe_load(read(ROOT / "params.yaml"))

    def unknown(page: Path) -> list[str]:
        keys = re.findall(r"-S '?([a-z][\w.]*)=", read(page))
        return [key for key in keys if key != "key" and not given(tree, key.split("."))]

    assert wrong(unknown) == {}


def test_stages_exist() -> None:
    def unknown(page: Path) -> set[str]:
        command = r"(?:dvc|ecgforge) repro(?: --force)? ([a-z_]+)"
        return set(re.findall(command, "\n".join(code(page)))) - stages()

    assert wrong(unknown) == {}


def test_paths_of_the_repository_exist() -> None:
    def missing(page: Path) -> list[str]:
        paths = [span for span in spans(page) if re.match(r"(src|docs|benchmarks)/\S+$", span)]
        return [path for path in paths if "<" not in path and not (ROOT / path).exists()]

    assert wrong(missing) == {}


def test_words_are_those_of_the_field() -> None:
    def unclear(page: Path) -> list[str]:
        return re.findall(rf"\b({UNCLEAR})\b", CODE.sub("", FENCE.sub("", read(page))), re.I)

    assert wrong(unclear) == {}


def wrong(check: Callable[[Path], Collection[str]]) -> dict[str, Collection[str]]:
    """What a check finds, by page."""
    found = {page.relative_to(ROOT).as_posix(): check(page) for page in PAGES}
    return {page: faults for page, faults in found.items() if faults}


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def spans(page: Path) -> list[str]:
    """Code within lines of text."""
    return CODE.findall(FENCE.sub("", read(page)))


def code(page: Path) -> Iterator[str]:
    """Code within lines of text, and lines of code blocks."""
    yield from spans(page)
    for _, block in FENCE.findall(read(page)):
        yield from (line.strip() for line in block.splitlines())


def stages() -> set[str]:
    return set(yaml.safe_load(read(ROOT / "dvc.yaml"))["stages"])


def exists(kind: Any, key: list[str]) -> bool:
    """Whether a type of the schema has a key; any key fits where the schema leaves it open."""
    if not key or kind is Any:
        return True
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(key[0])
        return field is not None and exists(field.annotation, key[1:])
    if get_origin(kind) is dict:
        return exists(get_args(kind)[1], key[1:])
    return any(exists(inner, key) for inner in get_args(kind))


def given(tree: Any, key: list[str]) -> bool:
    """Whether a tree of mappings has a key."""
    return not key or (isinstance(tree, dict) and key[0] in tree and given(tree[key[0]], key[1:]))
