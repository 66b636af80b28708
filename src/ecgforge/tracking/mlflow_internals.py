"""The only file that uses private names of MLflow: those outside of its documented API.

`tests/test_private_names.py` checks that the installed MLflow has them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ecgforge.private_names import private

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

# Modules that MLflow imports at the first use of a store; imported early, stages start faster.
STORES = (
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
)
# the value that MLflow writes into a model's description
PICKLE_MODULE = "mlflow.pytorch.pickle_module"
# Loggers of errors that are raised as well, with SQL statements of up to 1000 lines.
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
    """Create MLflow's tables in the database at `uri`, or upgrade them to the installed schema.

    Args:
        artifacts: the artifact folder to record in the store.
    """
    engine = private("mlflow.store.db.utils:create_sqlalchemy_engine")(uri)
    if not private("mlflow.store.db.utils:_is_empty_database")(engine):
        private("mlflow.store.db.utils:_upgrade_db")(engine)
    engine.dispose()
    store = private("mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore")
    store(uri, str(artifacts)).engine.dispose()


def version_note() -> str:
    """Return the name of the file with a version's name and number that MLflow adds to a download.

    This file allows comparing a model that MLflow loaded with the registry.
    """
    return str(
        private("mlflow.store.artifact.models_artifact_repo:REGISTERED_MODEL_META_FILE_NAME")
    )


def local_folder(location: str) -> Path | None:
    """Return the local folder of an artifact location; None if it is not on this machine."""
    found = private("mlflow.store.artifact.artifact_repository_registry:get_artifact_repository")
    local = private("mlflow.store.artifact.local_artifact_repo:LocalArtifactRepository")
    repository = found(location)
    return Path(repository.artifact_dir) if isinstance(repository, local) else None


def save_example(model: Model, example: Any, folder: Path) -> None:
    """Write an input example of `model` to `folder`, and add it to the model's description."""
    private("mlflow.models.utils:_save_example")(model, example, str(folder))


def save_environment(packages: list[str], folder: Path) -> None:
    """Write the files that state a model's packages, as MLflow does for a saved model.

    Args:
        packages: with their versions.
    """
    conda = private("mlflow.utils.environment:_mlflow_conda_env")
    environment = conda(additional_pip_deps=packages, install_mlflow=False)
    (folder / "conda.yaml").write_text(yaml.safe_dump(environment, default_flow_style=False))
    (folder / "requirements.txt").write_text("\n".join(packages))
    python = private("mlflow.utils.environment:_PythonEnv").current()
    python.to_yaml(str(folder / "python_env.yaml"))


def monitor(run_id: str, every: float) -> Any:
    """Return MLflow's monitor of CPU, memory and GPU for a run, which `start` and `finish` control.

    Args:
        every: s, the interval of its samples.
    """
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    made = private("mlflow.system_metrics.system_metrics_monitor:SystemMetricsMonitor")
    return made(run_id, every, resume_logging=True)


def leave_checks_to_model(signature: ModelSignature) -> None:
    """Make MLflow pass requests unchecked to the model, which has one-line error messages."""
    # checks that the name exists
    private("mlflow.models.signature:ModelSignature._is_signature_from_type_hint")
    signature._is_signature_from_type_hint = True
