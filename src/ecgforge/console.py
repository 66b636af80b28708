"""The two consoles of the command line, for stdout and stderr.

Text is printed literally: brackets are not markup, and control characters are escaped.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")

# Control characters other than tab and newline, and the surrogates by which Python represents bytes
# that are not UTF-8.
_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def shown(text: object) -> str:
    r"""Escape control characters and bytes that are not UTF-8, such as \x1b, for the terminal."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        return (
            f"\\x{code - 0xDC00:02x}"
            if 0xDC80 <= code <= 0xDCFF
            else f"\\x{code:02x}"
            if code < 256
            else f"\\u{code:04x}"
        )

    return _UNSHOWABLE.sub(escape, str(text))


class _PlainConsole(Console):
    """A console that prints strings literally and without line breaks.

    `style`, tables and trees still work.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        wrapped = not all(isinstance(one, str) for one in objects)
        plain = [shown(one) if isinstance(one, str) else one for one in objects]
        super().print(*plain, **{"soft_wrap": not wrapped} | options)


out = _PlainConsole()
err = _PlainConsole(stderr=True)
WIDEST = 10_000  # columns of a table in a file


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 record`, `2 records`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def print_table(table: Table) -> None:
    """Print a table to stdout; in a file, long cells are not truncated."""
    wide = _PlainConsole(width=WIDEST)
    target = out if out.is_terminal else _PlainConsole(width=wide.measure(table).maximum)
    target.print(table)


def progress(**options: Any) -> Progress:
    """Return a progress bar on stderr whose descriptions are plain text."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, **options)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` with a progress bar on stderr."""
    with progress() as bar:
        yield from bar.track(items, total=total, description=shown(description))


_document: dict[str, Any] | None = None


@contextmanager
def document(wanted: bool) -> Iterator[None]:
    """Print one JSON document at the end, with all facts of `report`, and all else to stderr.

    An error is in the document too. The block can still end with it.

    Args:
        wanted: whether to do this; otherwise nothing changes.
    """
    global _document
    if not wanted:
        yield
        return
    stdout, _document = sys.stdout, {}
    try:
        with redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        _document["error"] = " ".join(str(error).split())
        raise
    finally:
        facts, _document = _document, None
        print(json.dumps(_plain(facts), indent=2, allow_nan=False), file=stdout)


def report(**facts: Any) -> None:
    """Add facts to the JSON document, if one is wanted.

    Values are plain, arrays or numbers of NumPy, or paths. Numbers that are not finite become null.
    """
    if _document is not None:
        _document.update(facts)


def reporting() -> bool:
    """Return whether a JSON document is wanted."""
    return _document is not None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
