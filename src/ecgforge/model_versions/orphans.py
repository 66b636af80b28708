"""Logged models without a version.

MLflow creates the logged model before the version. A process that is killed in between leaves a
logged model without a version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ecgforge.model_versions.versions import Version
from ecgforge.tracking import home, runs, store
from ecgforge.tracking.runs import FINGERPRINT
from ecgforge.tracking.store import client, with_retry


def without_version(known: Iterable[Version]) -> list[Any]:
    """Return the logged models that belong to no version and whose run is not active.

    Args:
        known: all versions of all models.
    """
    registered = {version.source.rsplit("/", 1)[-1] for version in known}
    found = [
        model
        for model in _models()
        if FINGERPRINT in model.tags and model.model_id not in registered
    ]
    return [model for model in found if not _at_work(model.source_run_id)]


def _at_work(run_id: str | None) -> bool:
    """Return whether a process works on a run; a shared store only has the run's status."""
    if not run_id or store.is_own():
        return bool(run_id) and runs.at_work(str(run_id))
    found = store.run(run_id)
    return found is not None and found.info.status == "RUNNING"


def _models() -> Iterator[Any]:
    for experiment in with_retry(client().search_experiments):
        token = None
        while True:
            page = with_retry(
                client().search_logged_models, [experiment.experiment_id], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                break


def take_up(experiment: str, name: str, tags: dict[str, str]) -> Any:
    """Return the logged model with these tags that a killed process of the same run left.

    The model is returned without files; None if there is none.
    """
    registry = client()
    words = f"name = '{name}' and tags.`{FINGERPRINT}` = '{tags.get(FINGERPRINT)}'"
    left = with_retry(registry.search_logged_models, [experiment], words)
    registered = (
        {one.source.rsplit("/", 1)[-1] for one in with_retry(registry.search_model_versions, words)}
        if left
        else set()
    )
    decided = {
        key: value for key, value in tags.items() if not key.startswith(("git.", "dvc.", "mlflow."))
    }
    for model in left:
        if model.model_id not in registered and decided.items() <= model.tags.items():
            with_retry(registry.set_logged_model_tags, model.model_id, tags)
            home.free(store.local_database(), model.artifact_location, model.model_id)
            return model
    return None
