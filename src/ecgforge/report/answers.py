"""reports/answers.json: the answers in words and numbers, and their metrics for MLflow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ecgforge.files import damaged

if TYPE_CHECKING:  # the analysis imports scipy.stats, which takes longer than the sentences
    from ecgforge.analysis.answers import Answer, Gain
    from ecgforge.analysis.verdicts import Verdict

NAME = "answers.json"
# a claim that was not tested has no number
VALUES = {"supported": 1.0, "undecided": 0.0, "contradicted": -1.0}


def text(answers: Iterable[Answer]) -> str:
    """Return the content of answers.json: a row for each dataset."""
    return json.dumps([answer.row() for answer in answers], indent=2, allow_nan=False) + "\n"


def write(answers: Iterable[Answer], file: Path) -> None:
    """Write answers.json."""
    file.write_text(text(answers), encoding="utf-8")


def sentences(file: Path) -> list[str]:
    """Return the sentences in an answers.json; none where there is no file.

    Raises:
        EcgforgeError: the file is damaged.
    """
    if not file.exists():
        return []
    try:
        return [str(row["sentence"]) for row in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(file, "its answers cannot be read") from error


def metrics(answers: Iterable[Answer], verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Return the gains on each dataset, and a number for the verdict on each tested claim."""
    found: dict[str, float] = {}
    for answer in answers:
        for what, gain in (("synthetic", answer.gain), ("augmentation", answer.augmentation)):
            if gain:
                found |= dict(_gain(f"{answer.dataset}/{what}", gain))
    for verdict in verdicts:
        if verdict.word in VALUES:
            found[f"claim/{_key(verdict.claim.text)}"] = VALUES[verdict.word]
    return found


def _gain(name: str, gain: Gain) -> Iterator[tuple[str, float]]:
    yield name, gain.estimate
    if gain.low == gain.low:  # not NaN
        yield f"{name}_low", gain.low
        yield f"{name}_high", gain.high


def _key(text: str) -> str:
    """Return the text of a claim without what MLflow refuses in names of metrics."""
    return re.sub(r"[^\w \-]", "", text, flags=re.ASCII)[:200]
