"""Train a generator."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

from ecgforge.files import remove
from ecgforge.generators import train as training
from ecgforge.generators.beat_diffusion import beat_layout, rhythm_model
from ecgforge.generators.common import base, registry
from ecgforge.generators.diffusion import diffusion, unet
from ecgforge.params import Params
from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.inputs import checkpoints, curves, digests, record_inputs
from ecgforge.tracking import models, runs
from ecgforge.training import fit


def train(params: Params, dataset: str, name: str, real: Path, out: Path) -> None:
    """Train the generator `name` on the record set `real` as a tracked run, write it to `out`, and register it."""
    settings, records = params.generator(name), RecordSet.open(real)
    cell = runs.Cell("generator", dataset, settings.seed, records.about.origin == "simulated", generator=name)
    inputs = record_inputs([("training", records)])
    tree = settings.model_dump(exclude={"sampling", "ablations"})
    identity = runs.identity(cell, tree, digests(inputs), code_of(name))
    with runs.tracked(cell, identity=identity, params=tree, inputs=inputs, resume_file=curves(identity)) as run:
        generator = training.train(name, settings, records, params.active.compute, checkpoints(identity), run.log)
        registry.save(generator, out)
        run.summary({"weights": sum(parameter.numel() for parameter in generator.parameters())})
        described = models.drawing(settings.sampling, records.about.rhythms, records.about.units)
        models.log_generator(run, *generator.exportable(), out, name=cell.model_name, described=described)
    remove(checkpoints(identity))


def code_of(name: str) -> list[Path | ModuleType]:
    """Return what decides the weights of the generator `name`, beside parameters and records."""
    return [Path(inspect.getfile(registry.generator_class(name))), base, diffusion, unet, rhythm_model, beat_layout, training, fit, beats]
