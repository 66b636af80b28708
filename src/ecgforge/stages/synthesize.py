"""Draw synthetic records from a trained generator.

A generator is trained once and drawn from in many ways, so training has registered a version that
may draw otherwise than the parameters now say. Who judges a version by its records, and who draws
from it later, must mean the same, so here it gets a version that draws as these records are drawn.
"""

from __future__ import annotations

from pathlib import Path

from ecgforge.files import md5
from ecgforge.generators import synthesis
from ecgforge.generators.common import registry
from ecgforge.model_versions import models
from ecgforge.outputs import refuse
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.tracking import runs, store
from ecgforge.training import saved


def synthesize(params: Params, dataset: str, name: str, model: Path, real: Path, out: Path) -> None:
    """Write synthetic records of the generator in `model`, shaped like those of `real`, to `out`,
    and have a registered version of it that draws alike.
    """
    refuse(out, (model, real))
    store.ensure_reachable()
    profile, source = params.active, RecordSet.open(real)
    settings = params.generator(name)
    sampling = settings.sampling
    made = {
        "dataset": dataset,
        "generator": name,
        "generator_md5": md5(model),
        "weights_md5": md5(model / saved.WEIGHTS),
        "learned_from_md5": md5(real),
        "learned_from_origin": source.about.origin,
        "sampling": sampling,
        "synthesis": profile.synthesis.model_dump(),
    }
    wanted = mixtures.requested(source.about.rhythms, profile.synthesis, len(source.split("train")))
    synthesis.synthesize(
        registry.load(model),
        name,
        sampling,
        wanted,
        profile.synthesis,
        profile.compute,
        source,
        made,
        out,
    )
    key = runs.RunKey(
        "generator", dataset, settings.seed, source.about.origin == "simulated", generator=name
    )
    described = models.drawing(sampling, source.about.rhythms, source.about.units)
    version = models.log_sampling(key.model_name, md5(model / saved.WEIGHTS), described)
    if version:
        print(
            f"{key.model_name}/{version} is the same generator, drawn from as these records are: "
            f"{models.canonical_json(sampling)}"
        )
