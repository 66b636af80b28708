"""Published datasets, fetched from PhysioNet or from any mirror."""

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
# Optional files of a mirror: the terms of use, and the mark of simulated records.
SIMULATED = "SIMULATED.txt"
NOTICES = ("LICENSE.txt", SIMULATED)


def fetch(
    folder: Path, settings: PhysionetSource, sampling_rate: int, downloads: Path = DOWNLOADS
) -> None:
    """Fetch a dataset from a mirror to `folder`, atomically.

    It fetches the metadata, and then all records, or `limit_per_rhythm` records of each rhythm (see
    `choose`). The metadata in `folder` list only the chosen records. `acquired.json` has the
    numbers of published and chosen records, and the records that the mirror does not have;
    preparation excludes these.

    Each file is checked against SHA256SUMS.txt if the mirror has it. Links out of a folder on this
    machine are followed only to records and tables, see `sources.links`. Files from another machine
    are kept in `downloads`, so that an interrupted run can resume, although DVC clears `folder`
    before each run. Delete the folder in `downloads` to fetch all files again.

    Args:
        folder: the new folder; an existing one is replaced.
        settings: the source, from the parameters.
        sampling_rate: Hz, of the prepared records; selects between published forms of a record.
        downloads: folder for downloads; on the disk of `folder`, files become hard links.

    Raises:
        EcgforgeError: the mirror cannot be reached, lacks the metadata or all records, or a
            checksum does not match.
    """
    layout, mirror = PUBLISHED[settings.layout], Mirror.at(settings.mirror)
    landing = (
        downloads / f"{settings.layout}-{hashlib.sha256(settings.mirror.encode()).hexdigest()[:12]}"
    )
    if mirror.local:
        remove(landing)  # a folder on this machine can change, and is fast to read
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
        reason_words = (
            "are links out of the mirror's folder and left out, since their targets cannot be "
            "verified as records"
        )
        console.err.print(f"{len(linked)} files {reason_words}; the first is {linked[0]}")
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
    """Return the links out of a folder on this machine whose targets are not verified: by the
    dataset's checksums, by the checksums of a record's header, or by reading a table.
    """
    home, unknown = Path(mirror.root), []
    for path, files in wanted.items():
        if links.lead_out(
            home, [name for name in files if name not in mirror.sums]
        ) and links.refusal(landing, path):
            unknown += files
    return unknown


def choose(table: pd.DataFrame, rhythms: pd.Series, limit: int) -> pd.DataFrame:
    """Choose up to `limit` records of each rhythm, in the order of the SHA-256 of their ids.

    A larger limit thus contains the choice of a smaller one.

    Args:
        table: a catalogue.
        rhythms: the rhythm of each row, or None; records without a rhythm and withdrawn records are
            not chosen.
        limit: records per rhythm.

    Returns:
        The chosen rows, in the catalogue's order.
    """
    candidates = table[rhythms.notna() & ~table["withdrawn"]]
    ranks = candidates["id"].map(lambda name: hashlib.sha256(name.encode()).hexdigest())
    first = ranks.sort_values().groupby(rhythms.loc[candidates.index]).head(limit)
    return table[table.index.isin(first.index)]


def _rhythm(codes: list[str], layout: PublishedLayout) -> str | None:
    """Return the only rhythm of `codes`, or None if there is no rhythm, several, or one outside the
    vocabulary.
    """
    found = {layout.RHYTHM_CODES[code] for code in codes if code in layout.RHYTHM_CODES}
    return found.pop() if len(found) == 1 and layout.OTHER_RHYTHMS.isdisjoint(codes) else None


def _counts(rhythms: pd.Series) -> dict[str, int]:
    found = rhythms.fillna("none or contradictory").value_counts().sort_index()
    return {"records": len(rhythms), **{str(rhythm): int(count) for rhythm, count in found.items()}}


def _fetch_metadata(
    layout: PublishedLayout, mirror: Mirror, landing: Path, settings: PhysionetSource
) -> list[str]:
    """Download all files that the catalogue needs to `landing`, and return their names."""

    def bring(names: Iterable[str], what: str) -> set[str]:
        return download(mirror, names, landing, settings.connections, f"{settings.layout}: {what}")

    lacking = bring(layout.TABLES, "tables")
    if lacking:
        raise EcgforgeError(
            f"the mirror {mirror.url} has no {', '.join(sorted(lacking))}, which the layout "
            f"{settings.layout} needs; {ADVICE}"
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
    """Link the downloaded files of `names` into `folder`; copy those in `copied`, since they can be
    rewritten.
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
        except OSError:  # another disk, or no support for hard links
            shutil.copyfile(origin, target)
