"""Train the generators of a sweep: with fewer records, other seeds, or other networks."""

from __future__ import annotations

from pathlib import Path

from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.generators import train as training
from ecgforge.generators.common import registry
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.common import variation_run
from ecgforge.stages.common.tracked import TrackedRun, tracked
from ecgforge.sweeps.common import registry as sweeps
from ecgforge.sweeps.common.base import Item


def train(params: Params, item: Item, real: Path, out: Path) -> None:
    """Train the generators of a sweep on the record set `real`, and write them to `out`.

    They show how the results of the study's generator vary, and are not registered.

    Args:
        item: sweep, dataset and generator, and perhaps a part.
        out: gets a folder for each generator, see `variation_run.folder`.

    Raises:
        EcgforgeError: the sweep trains no generators.
    """
    if item["sweep"] not in sweeps.WITH_VARIATIONS:
        raise EcgforgeError(
            f"the sweep '{item['sweep']}' trains no generators; these do: "
            f"{', '.join(sweeps.WITH_VARIATIONS)}"
        )
    records, done = RecordSet.open(real), list[TrackedRun]()
    with atomic_write(out) as scratch:
        scratch.mkdir()
        for source in sweeps.get(item["sweep"]).variations(params, item):
            assert source.settings is not None
            with tracked(*variation_run.described(params, item, source, records)) as opened:
                generator = training.train(
                    source.generator,
                    source.settings,
                    variation_run.learned_from(source, records),
                    params.active.compute,
                    opened.checkpoints,
                    opened.run.log,
                )
                registry.save(generator, scratch / variation_run.folder(source))
            done.append(opened)
    for opened in done:
        opened.remove_checkpoints()
