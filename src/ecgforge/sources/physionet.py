"""Published data sets, fetched from PhysioNet or from any mirror of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write, remove
from ecgforge.params import PhysionetSource
from ecgforge.sources import links
from ecgforge.sources.layouts import PUBLISHED, PublishedLayout
from ecgforge.sources.mirror import ADVICE, Mirror, download

DOWNLOADS = Path(".ecgforge/downloads")
ACQUIRED = "acquired.json"
# Taken along where a mirror has them: the terms of use, and the mark that simulated records carry.
SIMULATED = "SIMULATED.txt"
NOTICES = ("LICENSE.txt", SIMULATED)


def fetch(
    folder: Path, settings: PhysionetSource, sampling_rate: int, downloads: Path = DOWNLOADS
) -> None:
    """Fetch the data set in layout `settings.layout` from `settings.mirror` to `folder`, whole or
    not at all.

    First the metadata, then all records or, with `limit_per_rhythm`, that many of each rhythm (see
    `choose`); then the metadata in `folder` name the chosen ones alone. `acquired.json` beside them
    counts what was published and chosen, and lists the records that the mirror turned out not to
    have; preparation sets those aside.

    Every file is checked against SHA256SUMS.txt where the mirror has it. Links out of a folder on
    this machine are followed to records and tables alone: see `sources.links`. Files from another
    machine land in a folder of their own in `downloads` and stay there, so that a run after a cut
    goes on where it stopped although DVC clears `folder` before each run. They are taken to stay as
    they are, unless the mirror publishes other sums; to start anew, delete that folder.

    Args:
        folder: what to write; replaced if it is there.
        settings: the source, from the parameters.
        sampling_rate: Hz, what preparation will resample to; decides between published forms of a
            record.
        downloads: where files land; best on the disk of `folder`, since they are hard-linked into
            it.

    Raises:
        EcgforgeError: the mirror cannot be reached, lacks the metadata or all of the records, or a
            file is not what its sum says.
    """
    layout, mirror = PUBLISHED[settings.layout], Mirror.at(settings.mirror)
    landing = (
        downloads / f"{settings.layout}-{hashlib.sha256(settings.mirror.encode()).hexdigest()[:12]}"
    )
    if mirror.local:
        remove(landing)  # a folder on this machine may have changed, and is read quickly
    try:
        _fetch(folder, settings, sampling_rate, layout, mirror, landing)
    finally:
        if mirror.local:
            remove(landing)


def _fetch(
    folder: Path,
    settings: PhysionetSource,
    sampling_rate: int,
    layout: PublishedLayout,
    mirror: Mirror,
    landing: Path,
) -> None:
    metadata = _fetch_metadata(layout, mirror, landing, settings)
    table = layout.catalogue(landing)
    rhythms = pd.Series(
        [_rhythm(codes, layout) for codes in table["codes"]], index=table.index, dtype=object
    )
    limit = settings.limit_per_rhythm
    chosen = table if limit is None else choose(table, rhythms, limit)

    wanted = {path: layout.files(path, sampling_rate) for path in chosen["path"]}
    files = [file for record in wanted.values() for file in record]
    absent = download(mirror, files, landing, settings.connections, f"{settings.layout}: records")
    linked = _linked(mirror, landing, wanted) if mirror.local else []
    files = [file for file in files if file not in set(linked)]
    missing = [
        path for path, record in wanted.items() if not absent.union(linked).isdisjoint(record)
    ]
    if len(missing) == len(wanted):
        raise EcgforgeError(
            f"the mirror {mirror.url} has none of the {len(wanted)} records wanted for "
            f"{sampling_rate} Hz; {ADVICE}"
        )

    if linked:
        told = (
            "are links out of the mirror's folder and left out, since what these lead to is not "
            "known to be a record"
        )
        console.err.print(f"{len(linked)} files {told}; the first is {linked[0]}")
    with atomic_write(folder) as scratch:
        named = [
            *(metadata if limit is None else layout.TABLES),
            *layout.COMPANIONS,
            *NOTICES,
            *files,
        ]
        _place([name for name in named if name not in linked], landing, scratch, layout.TABLES)
        if limit is not None:
            layout.restrict(scratch, chosen)
        counts = {"published": _counts(rhythms), "chosen": _counts(rhythms.loc[chosen.index])}
        about = {"layout": settings.layout, "limit_per_rhythm": limit, **counts, "absent": missing}
        (scratch / ACQUIRED).write_text(json.dumps(about, indent=2) + "\n")
    if missing:
        console.err.print(
            f"{len(missing)} of {len(wanted)} records are not at {mirror.url}; {ACQUIRED} lists "
            "them"
        )


def _linked(mirror: Mirror, landing: Path, wanted: dict[str, list[str]]) -> list[str]:
    """Name the files that are links out of a folder on this machine and not known to be of a data
    set: by its sums, as a record by the header's checksums, or as a table by what was read from it.
    """
    home, unknown = Path(mirror.root), []
    for path, files in wanted.items():
        if links.lead_out(
            home, [name for name in files if name not in mirror.sums]
        ) and links.refusal(landing, path):
            unknown += files
    return unknown


def choose(table: pd.DataFrame, rhythms: pd.Series, limit: int) -> pd.DataFrame:
    """Choose up to `limit` records of each rhythm, the first by the SHA-256 of their ids, so that a
    larger limit adds to a smaller one.

    Args:
        table: a catalogue.
        rhythms: of each of its rows, the one rhythm or None; records with None and withdrawn ones
            are not chosen.
        limit: records per rhythm.

    Returns:
        The chosen rows, in the catalogue's order.
    """
    candidates = table[rhythms.notna() & ~table["withdrawn"]]
    ranks = candidates["id"].map(lambda name: hashlib.sha256(name.encode()).hexdigest())
    first = ranks.sort_values().groupby(rhythms.loc[candidates.index]).head(limit)
    return table[table.index.isin(first.index)]


def _rhythm(codes: list[str], layout: PublishedLayout) -> str | None:
    """Return the one rhythm of the vocabulary among `codes`;

    None if there are several, or one from outside the vocabulary.
    """
    found = {layout.RHYTHM_CODES[code] for code in codes if code in layout.RHYTHM_CODES}
    return found.pop() if len(found) == 1 and layout.OTHER_RHYTHMS.isdisjoint(codes) else None


def _counts(rhythms: pd.Series) -> dict[str, int]:
    found = rhythms.fillna("none or contradictory").value_counts().sort_index()
    return {"records": len(rhythms), **{str(rhythm): int(count) for rhythm, count in found.items()}}


def _fetch_metadata(
    layout: PublishedLayout, mirror: Mirror, landing: Path, settings: PhysionetSource
) -> list[str]:
    """Bring everything that the catalogue needs to `landing`, and name it."""

    def bring(names: Iterable[str], what: str) -> set[str]:
        return download(mirror, names, landing, settings.connections, f"{settings.layout}: {what}")

    lacking = bring(layout.TABLES, "tables")
    if lacking:
        raise EcgforgeError(
            f"the mirror {mirror.url} has no {', '.join(sorted(lacking))}, which {settings.layout} "
            f"is read by; {ADVICE}"
        )
    notes = [*layout.COMPANIONS, *NOTICES]
    private = [
        name
        for name in notes
        if mirror.local and name not in mirror.sums and links.lead_out(Path(mirror.root), [name])
    ]
    bring([name for name in notes if name not in private], "companions")
    if SIMULATED in private:
        (landing / SIMULATED).write_text(
            "No patient was recorded: the mirror's file of this name, a link out of its folder, "
            "says so.\n"
        )
    metadata = list(layout.TABLES)
    for names in layout.listed(landing):
        bring(names, "metadata")
        metadata += names
    return metadata


def _place(names: Iterable[str], landing: Path, folder: Path, copied: tuple[str, ...]) -> None:
    """Link those of `names` that landed into `folder`;

    `copied` ones become files of their own, since they may be rewritten.
    """
    folder.mkdir()
    for name in dict.fromkeys(names):
        origin, target = landing / name, folder / name
        if not origin.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in copied:
            shutil.copyfile(origin, target)
            continue
        try:
            os.link(origin, target)
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(origin, target)
