"""Generate WFDB records of a rhythm with a registered generator."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.generators import synthesis
from ecgforge.generators.common import registry
from ecgforge.model_versions import history, signing, versions
from ecgforge.model_versions.pyfunc_signature import SAMPLING
from ecgforge.params import Compute, StrictConfig, checked
from ecgforge.sources.folder import SYNTHETIC, TABLE
from ecgforge.wfdb_io import synthetic as wfdb_files

CHUNK = 32  # records generated at a time
# One thread, so that the order of sums, and thus the bytes, do not depend on the number of cores.
COMPUTE = Compute(accelerator="auto", devices=1, precision="auto", threads=1)


class Drawing(StrictConfig):
    """The content of a version's sampling.json: sampling parameters, rhythms and units."""

    sampling: dict[str, Any]
    rhythms: Annotated[list[str], Field(min_length=1)]
    units: Literal["mV", "per_lead_std"]


def generate(
    reference: str, rhythm: str, count: int, seed: int, out: Path, rate: float | None = None
) -> None:
    """Write `count` synthetic records of `rhythm` to the new folder `out`.

    With `rate`, the records have this mean heart rate, in beats/min.

    The records are WFDB files with headers that say that they are synthetic, and records.csv, so
    that a source of the kind `folder` can read them. They have the twelve standard leads in mV. If
    the version was trained on leads in `per_lead_std`, they have the eight leads in these units.
    The sampling parameters are those of the version.

    Raises:
        EcgforgeError: the version or the rhythm is unknown, the version's files differ from the
            registered ones, the rhythm cannot have the rate, `out` exists, or the signals exceed
            the range of a WFDB file.
    """
    if out.exists():
        raise EcgforgeError(f"{out} exists already: name a new folder")
    version = versions.find(reference)
    if history.CHAMPION in version.aliases:
        history.warn(version.name)
    with signing.files(version) as folder:
        if not (folder / registry.DESCRIPTION).exists():
            raise EcgforgeError(f"{version.label} is not a generator")
        if not (folder / SAMPLING).exists():
            raise EcgforgeError(
                f"{version.label} has no sampling parameters, since an older ecgforge registered "
                "it: train it again"
            )
        generator = registry.load(folder, version.label)
        kept = checked(
            Drawing,
            versions.read_json(folder, SAMPLING, version.label),
            f"{version.label}, {SAMPLING}",
        )
    if rhythm not in kept.rhythms:
        raise EcgforgeError(
            f"{version.label} was not trained on the rhythm '{rhythm}': use one of "
            f"{', '.join(kept.rhythms)}"
        )
    sampling = checked(type(generator).Sampling, kept.sampling, f"{version.label}, {SAMPLING}")
    asked = rhythm
    if rate is not None:
        asked = f"{rhythm} at {rate:g} beats/min"
        synthesis.check_rate(generator, version.label, kept.rhythms, [rhythm], rate)
        sampling = sampling.model_copy(update={"heart_rate": rate})
    sampler = synthesis.Sampler(generator, sampling, COMPUTE, 0)
    rows = synthesis.plan(tuple(kept.rhythms), {"train": {rhythm: count}}, seed)
    names = [f"synthetic_{rhythm}_{number:05d}" for number in rows["number"]]
    starts = range(0, count, CHUNK)
    simulated = version.tags.get("simulated") == "true"
    notes = partial(wfdb_files.comments, version.label, simulated, asked, kept.units, seed)
    rate = generator.shape.sampling_rate
    with atomic_write(out) as scratch:
        scratch.mkdir()
        for start in console.track(starts, f"generating {rhythm}"):
            chunk = rows.iloc[start : start + CHUNK]
            for name, record_seed, signals in zip(
                names[start:], chunk["seed"], sampler.sample(chunk), strict=False
            ):
                wfdb_files.write(scratch, name, signals, kept.units, rate, notes(record_seed))
        (scratch / TABLE).write_text(
            "record,patient,rhythm\n" + "".join(f"{name},{name},{rhythm}\n" for name in names)
        )
        (scratch / SYNTHETIC).write_text(
            f"These records are synthetic, generated with {version.label} by ecgforge. They are "
            "not recordings of patients.\n"
        )
    console.out.print(
        f"{out}: {console.counted(count, 'synthetic record')} of {asked}, generated with "
        f"{version.label} and seed {seed}."
    )
