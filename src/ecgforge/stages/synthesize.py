"""Draw synthetic records from a trained generator."""

from __future__ import annotations

from pathlib import Path

from ecgforge.files import md5
from ecgforge.generators import base, synthesis
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet


def synthesize(params: Params, dataset: str, name: str, model: Path, real: Path, out: Path) -> None:
    """Write synthetic records of the generator in `model`, shaped like those of `real`, to `out`."""
    profile, source = params.active, RecordSet.open(real)
    sampling = params.generator(name).sampling
    made = {
        "dataset": dataset,
        "generator": name,
        "generator_md5": md5(model),
        "weights_md5": md5(model / base.WEIGHTS),
        "learned_from_md5": md5(real),
        "learned_from_origin": source.about.origin,
        "sampling": sampling,
        "synthesis": profile.synthesis.model_dump(),
    }
    wanted = synthesis.counts(source.about.rhythms, profile.synthesis, len(source.split("train")))
    synthesis.synthesize(base.load(model), name, sampling, wanted, profile.synthesis, profile.compute, source, made, out)
