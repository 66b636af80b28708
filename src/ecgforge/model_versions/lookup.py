"""Find the runs of results by their fingerprint, or by the weights that they registered."""

from __future__ import annotations

from typing import Any

from ecgforge.model_versions.pyfunc_signature import WEIGHTS
from ecgforge.tracking import store
from ecgforge.tracking.runs import FINGERPRINT, GPU, THREADS

BEST_F1 = "validation/f1_macro_best"  # metric of a classifier: of the weights that it keeps


def runs_by_fingerprint() -> dict[str, Any]:
    """Return MLflow's `RunInfo` of all finished runs by fingerprint; empty for a new store."""
    return {
        run.data.tags[FINGERPRINT]: run.info
        for run in store.runs("attributes.status = 'FINISHED'")
        if FINGERPRINT in run.data.tags
    }


def fingerprints_by_weights(model: str) -> dict[str, str]:
    """Return the fingerprint of each version of a registered model, by the md5 of its weights."""
    versions = store.client().search_model_versions(f"name = '{model}'")
    return {
        version.tags[WEIGHTS]: version.tags[FINGERPRINT]
        for version in versions
        if WEIGHTS in version.tags and FINGERPRINT in version.tags
    }


def metric(run_id: str, name: str) -> float | None:
    """Return a metric of a run; None if the run or the metric does not exist."""
    found = store.run(run_id)
    return found.data.metrics.get(name) if found else None


def metrics(run_id: str) -> dict[str, float]:
    """Return the last values of all metrics of a run; none if the run does not exist."""
    found = store.run(run_id)
    return dict(found.data.metrics) if found else {}


def gpu(run_id: str) -> str | None:
    """Return the name of the GPU of a run; None for a run on a CPU, or one that is gone."""
    found = store.run(run_id)
    return found.data.tags.get(GPU) if found else None


def threads(run_id: str) -> int | None:
    """Return the number of CPU threads of a run; None if the run or the tag does not exist."""
    found = store.run(run_id)
    threads = found.data.tags.get(THREADS) if found else None
    return int(threads) if threads else None
