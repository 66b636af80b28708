"""Generate synthetic records with a trained generator.

Training registers a version with the sampling parameters of that time. They can change without a
new training. Quality scores and later records of a version must use the same sampling parameters,
so this stage registers a version with the parameters of these records.
"""

from __future__ import annotations

from pathlib import Path

from ecgforge import artifacts
from ecgforge.files import md5
from ecgforge.generators import synthesis
from ecgforge.generators.common import registry
from ecgforge.model_versions import models
from ecgforge.model_versions.pyfunc_signature import canonical_json
from ecgforge.outputs import refuse
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.study import mixtures
from ecgforge.tracking import runs, store
from ecgforge.training import saved


def synthesize(params: Params, dataset: str, name: str, model: Path, real: Path, out: Path) -> None:
    """Write synthetic records of the generator in `model`, shaped like those of `real`, to `out`,
    and register a version of the generator with the same sampling parameters. The run of the
    generator's training gets a page with some of the records.
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
    described = models.sampling_file(sampling, source.about.rhythms, source.about.units)
    weights = md5(model / saved.WEIGHTS)
    version = models.log_sampling(key.model_name, weights, described)
    run_id = models.run_of(key.model_name, weights)
    if run_id:
        synthetic = RecordSet.open(out)
        store.log_files(run_id, artifacts.of_generator(dataset, name, source, synthetic))
    if version:
        print(
            f"{key.model_name}/{version} is the same generator with the sampling of these records: "
            f"{canonical_json(sampling)}"
        )
