"""Train a generator."""

from __future__ import annotations

from pathlib import Path

from ecgforge.generators import train as training
from ecgforge.generators.common import registry
from ecgforge.model_versions import models
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.common.generator_run import described_run
from ecgforge.stages.common.tracked import tracked


def train(params: Params, dataset: str, name: str, real: Path, out: Path) -> None:
    """Train the generator `name` on the record set `real`, write it to `out`, and register it.

    Generators of cross-fitting are evidence, and are not registered.
    """
    settings, records = params.generator(name), RecordSet.open(real)
    stage, key, tree = described_run(params, dataset, name, settings, records)
    with tracked(stage, key, tree, [("training", records)]) as opened:
        run, compute = opened.run, params.active.compute
        generator = training.train(name, settings, records, compute, opened.checkpoints, run.log)
        registry.save(generator, out)
        weights = sum(parameter.numel() for parameter in generator.parameters())
        run.summary({"training/weights": weights})
        if not key.fold:
            about = records.about
            described = models.sampling_file(settings.sampling, about.rhythms, about.units)
            network, example = generator.exportable()
            models.log_generator(
                run,
                network,
                example,
                out,
                name=key.model_name,
                described=described,
                facts={
                    "data": f"{len(records.split('train'))} of {dataset}",
                    "origin": about.origin,
                },
            )
    opened.remove_checkpoints()
