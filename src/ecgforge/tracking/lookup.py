"""Find the runs behind results: by the identity of a cell, or by the weights that a run registered."""

from __future__ import annotations

from dataclasses import dataclass

from ecgforge.tracking import store
from ecgforge.tracking.models import WEIGHTS
from ecgforge.tracking.runs import CELL


@dataclass(frozen=True)
class Found:
    """A run as a reader finds it in MLflow's UI; `experiment_id` is part of its address there."""

    id: str
    name: str
    experiment_id: str


def runs_by_cell() -> dict[str, Found]:
    """Return all finished runs by the identity of their cell; empty where the tracking store is new."""
    client = store.client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: dict[str, Found] = {}
    token = None
    while True:
        page = client.search_runs(experiments, "attributes.status = 'FINISHED'", max_results=1000, page_token=token)
        for run in page:
            if CELL in run.data.tags:
                found[run.data.tags[CELL]] = Found(run.info.run_id, run.info.run_name, run.info.experiment_id)
        token = page.token
        if not token:
            return found


def cells_by_weights(model: str) -> dict[str, str]:
    """Return the identity of the cell behind each version of a registered model, by the md5 of its weights."""
    versions = store.client().search_model_versions(f"name = '{model}'")
    return {version.tags[WEIGHTS]: version.tags[CELL] for version in versions if WEIGHTS in version.tags and CELL in version.tags}
