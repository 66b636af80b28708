"""The only file that uses private names of MLflow: modules, functions and attributes outside its
documented API. `tests/test_private_names.py` checks that the installed MLflow has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgforge.private_names import private

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

# What MLflow loads when a store is first used; loaded in advance, stages start faster.
STORES = (
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
)
PICKLE_MODULE = "mlflow.pytorch.pickle_module"  # as MLflow writes it into a model's description
# Loggers that print errors which are raised as well, with SQL statements of up to 1000 lines.
LOGGERS = ("mlflow.store.db.utils", "alembic", "sqlalchemy")


def schema_known(revision: str) -> bool:
    """Return whether the installed MLflow knows the revision of a database's schema."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = private("mlflow.store.db.utils:_get_alembic_config")("")
    try:
        ScriptDirectory.from_config(config).get_revision(revision)
    except CommandError:
        return False
    return True


def create_or_upgrade(uri: str, artifacts: Path) -> None:
    """Create MLflow's tables in the database at `uri`, or bring older ones to the installed schema.

    Args:
        artifacts: folder of the artifacts, as the store notes it.
    """
    engine = private("mlflow.store.db.utils:create_sqlalchemy_engine")(uri)
    if not private("mlflow.store.db.utils:_is_empty_database")(engine):
        private("mlflow.store.db.utils:_upgrade_db")(engine)
    engine.dispose()
    store = private("mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore")
    store(uri, str(artifacts)).engine.dispose()


def version_note() -> str:
    """Return the name of the file with a version's name and number that MLflow adds to a download.

    Without it, a changed model that is loaded by MLflow would not be compared with the registry.
    """
    return str(
        private("mlflow.store.artifact.models_artifact_repo:REGISTERED_MODEL_META_FILE_NAME")
    )


def local_folder(location: str) -> Path | None:
    """Return the folder of an artifact location on this machine, None for one elsewhere."""
    found = private("mlflow.store.artifact.artifact_repository_registry:get_artifact_repository")
    local = private("mlflow.store.artifact.local_artifact_repo:LocalArtifactRepository")
    repository = found(location)
    return Path(repository.artifact_dir) if isinstance(repository, local) else None


def save_example(model: Model, example: Any, folder: Path) -> None:
    """Write an input example of `model` to `folder`, and name it in the model's description."""
    private("mlflow.models.utils:_save_example")(model, example, str(folder))


def leave_checks_to_model(signature: ModelSignature) -> None:
    """Let the model check requests itself: its errors say in one line what is wrong."""
    private("mlflow.models.signature:ModelSignature._is_signature_from_type_hint")  # is it there?
    signature._is_signature_from_type_hint = True
