"""Classify WFDB records with a registered classifier."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from ecgforge import console, outputs
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.model_versions import history, signing, versions
from ecgforge.preparation.prepare import CHUNK, prepared_chunks, report_cut
from ecgforge.registry.serving import Predictor
from ecgforge.report.classified import Answer, page
from ecgforge.sources.own_table import headers
from ecgforge.wfdb_io.formats import ENDINGS
from ecgforge.workers import for_records

SHOWN = 40  # rows on the terminal
PLOTTED = 20  # records in a plot


def classify(named: Sequence[Path], reference: str, table: Path | None, plot: Path | None) -> None:
    """Classify WFDB records and print the first results.

    The table has a reason for each record that cannot be used. Only a few chunks of signals are in
    memory at a time.

    Args:
        named: records and folders of records.
        reference: the model version.
        table: CSV file for all results.
        plot: SVG file for the first ECGs.

    Raises:
        EcgforgeError: the version is unknown, its files differ from the registered ones, an output
            path is invalid, or no record can be classified.
    """
    if table:
        outputs.check_file(table, ".csv", re.compile(rb"record,rhythm,[^\r\n]*,reason\n"))
    if plot:
        outputs.check_file(plot, ".svg", re.compile(rb"<svg [^>]*mm[^>]*>"))
    files = records_in(named)
    try:
        version = versions.find(reference)
    except EcgforgeError as error:
        raise EcgforgeError(f"{error}; choose a classifier with --model") from None
    if history.CHAMPION in version.aliases:
        history.warn(version.name)
    with signing.files(version) as folder:
        predictor = Predictor.open(folder, version.label)
    rhythms = predictor.classifier.rhythms
    found: list[Answer] = []
    plotted: list[Answer] = []
    for answer in console.track(answers(predictor, files), "classifying", total=len(files)):
        if plot and answer.probabilities and len(plotted) < PLOTTED:
            plotted.append(answer)
        found.append(replace(answer, signals=None))
    if table:
        _write(found, rhythms, table)
    _show(found, rhythms, version.label)
    console.report(model=version.label, records=[_tree(answer, rhythms) for answer in found])
    report_cut([answer.seconds for answer in found], predictor.preprocessing.duration)
    if not any(answer.probabilities for answer in found):
        which = "the record" if len(found) == 1 else f"any of the {len(found)} records"
        raise EcgforgeError(f"cannot classify {which}; {found[0].record}: {found[0].reason}")
    if plot:
        with atomic_write(plot) as scratch:
            drawing = page(
                plotted,
                rhythms,
                predictor.preprocessing.sampling_rate,
                predictor.amplitude,
                version.label,
            )
            scratch.write_text(drawing, encoding="utf-8")


def _tree(answer: Answer, rhythms: Sequence[str]) -> dict[str, Any]:
    probabilities = answer.probabilities
    return {
        "record": answer.record,
        "rhythm": answer.rhythm(rhythms) or None,
        "probabilities": dict(zip(rhythms, probabilities, strict=True)) if probabilities else None,
        "reason": answer.reason or None,
        "seconds": answer.seconds,
    }


def records_in(named: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return each record as a folder and the record's path in it, without extension.

    Folders are searched recursively; their records are sorted by name. A record that is named
    twice, as by its header and its signals, counts once.

    Raises:
        EcgforgeError: a folder has no records.
    """
    found = []
    for path in named:
        if not path.is_dir():
            found.append((path.parent, path.name.removesuffix(_ending(path))))
            continue
        records = headers(path)
        if not records:
            raise EcgforgeError(
                f"the folder {path} has no records: it has no .hea, .edf or .dcm files"
            )
        found += [(path, record) for record in records]
    return list(dict.fromkeys(found))


def _ending(path: Path) -> str:
    """Return the ending of a record's file, which does not belong to the record's name."""
    if path.suffix == ".dat" and path.with_suffix(".hea").exists():
        return ".dat" if not path.with_name(f"{path.name}.hea").exists() else ""
    return next((one for one in (".hea", *ENDINGS) if path.name.endswith(one)), "")


def answers(
    predictor: Predictor, files: Sequence[tuple[Path, str]], workers: int | None = None
) -> Iterator[Answer]:
    """Classify records from `records_in`, in order; further processes prepare many records."""
    chunks = [list(files[start : start + CHUNK]) for start in range(0, len(files), CHUNK)]
    workers = workers or for_records(len(files))
    prepared = prepared_chunks(chunks, predictor.preprocessing, predictor.amplitude, workers)
    for chunk, (signals, verdicts) in zip(chunks, prepared, strict=True):
        good = (
            iter(zip(signals, predictor.probabilities(signals).tolist(), strict=True))
            if len(signals)
            else iter(())
        )
        for (folder, path), verdict in zip(chunk, verdicts, strict=True):
            name = console.shown(folder / path).replace("\n", "\\n").replace("\t", "\\t")
            if verdict.reason:
                yield Answer(name, None, None, f"{verdict.reason}: {verdict.detail}")
            else:
                yield Answer(name, *next(good), "", verdict.seconds)


def _show(found: Sequence[Answer], rhythms: Sequence[str], label: str) -> None:
    table = Table("record", "rhythm", *rhythms, "reason", title=label, title_justify="left")
    for answer in found[:SHOWN]:
        values = (
            [f"{one:.2f}" for one in answer.probabilities]
            if answer.probabilities
            else [""] * len(rhythms)
        )
        table.add_row(answer.record, answer.rhythm(rhythms), *values, answer.reason)
    console.print_table(table)
    counts = {
        rhythm: sum(answer.rhythm(rhythms) == rhythm for answer in found) for rhythm in rhythms
    }
    summary = ", ".join(f"{count} {rhythm}" for rhythm, count in counts.items() if count)
    bad = len(found) - sum(counts.values())
    console.out.print(
        f"{console.counted(len(found), 'record')}: {summary or 'none classified'}"
        + (f"; {bad} cannot be used" if bad else "")
    )
    if len(found) > SHOWN:
        console.out.print(f"The table shows the first {SHOWN}; --out writes all to a CSV file.")


def _write(found: Sequence[Answer], rhythms: Sequence[str], path: Path) -> None:
    with atomic_write(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["record", "rhythm", *rhythms, "reason"])
        for answer in found:
            values = (
                [f"{one:.6g}" for one in answer.probabilities]
                if answer.probabilities
                else [""] * len(rhythms)
            )
            writer.writerow([answer.record, answer.rhythm(rhythms), *values, answer.reason])
