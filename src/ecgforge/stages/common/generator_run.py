"""The run of a generator's training, for the stage that trains and for trials that train for it."""

from __future__ import annotations

from typing import Any

from ecgforge.params import GeneratorSettings, Params
from ecgforge.records.record_set import RecordSet
from ecgforge.stages.common.tracked import Stage
from ecgforge.tracking import runs


def described_run(
    params: Params, dataset: str, name: str, settings: GeneratorSettings, records: RecordSet
) -> tuple[Stage, runs.RunKey, dict[str, Any]]:
    """Return the stage, the key and the parameters of the run of a training."""
    simulated = records.about.origin == "simulated"
    return (
        Stage("train_generator", params, {"dataset": dataset, "generator": name}),
        runs.RunKey("generator", dataset, settings.seed, simulated, generator=name),
        settings.model_dump(exclude={"sampling", "ablations"}),
    )
