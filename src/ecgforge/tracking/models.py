"""Registered model versions: `pt2` graphs that load without pickle, beside the files that ecgforge itself reads back.

Every function imports MLflow's PyTorch flavour, which brings pytorch_lightning: some seconds, paid by trainings already.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from ecgforge.files import md5
from ecgforge.tracking.runs import CELL, Run
from ecgforge.tracking.served import DIGEST, Service, describe
from ecgforge.tracking.store import client, patiently

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model, ModelSignature

WEIGHTS = "weights.md5"


def log_classifier(
    run: Run,
    model: nn.Module,
    example: np.ndarray,
    rhythms: Sequence[str],
    *,
    name: str,
    files: Sequence[Path] = (),
    service: Service | None = None,
) -> str:
    """Register a classifier, and return its version; weights that this cell has registered already keep their version.

    Args:
        model: `[batch, 8, samples]` -> logits `[batch, rhythms]`.
        example: `[2, 8, samples]` float32, or more; stored with the model as it is, so no patient's. torch.export takes a batch
            of one for a constant.
        rhythms: the classes, in order.
        name: the registered model's.
        files: kept beside the model, in its folder extra_files.
        service: how MLflow serves it; without, on what `model` takes.
    """
    if len(example) < 2:
        raise ValueError(f"an example of {len(example)} record: torch.export would serve batches of that size alone")
    network = _for_export(model)
    with torch.no_grad():
        logits = network(torch.from_numpy(example))
    weights = hashlib.md5(safetensors.torch.save({key: value.contiguous() for key, value in network.state_dict().items()})).hexdigest()
    save = partial(_save, network, example, _signature([example], [None], logits), files, service.files if service else {}, service)
    return _register(run, save, name, weights, {"rhythms": ", ".join(rhythms)})


def log_generator(
    run: Run,
    network: nn.Module,
    example: tuple[Tensor, ...],
    folder: Path,
    *,
    name: str,
    described: Mapping[str, Any] | None = None,
) -> str:
    """Register a generator, and return its version; weights that this cell has registered already keep their version.

    What MLflow loads is the network that sampling calls step by step. The loop around it is no graph; it stays in ecgforge, which
    draws records from the version's `extra_files`, that is `folder`.

    Args:
        network, example: as `Generator.exportable` returns them, batch of 2.
        folder: weights.safetensors and generator.json, as `ecgforge.generators.base.save` writes them.
        described: JSON files to keep beside these, by name.
    """
    network = _for_export(network)
    with torch.no_grad():
        output = network(*example)
    arguments = list(inspect.signature(network.forward).parameters)[: len(example)]
    signature = _signature([tensor.numpy() for tensor in example], arguments, output)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    save = partial(_save, network, example, signature, files, described or {}, None)
    return _register(run, save, name, md5(folder / "weights.safetensors"), {})


def find_version(name: str, identity: str) -> ModelVersion | None:
    """Return the newest version of the model `name` that the cell with this identity has registered, if any."""
    found = patiently(client().search_model_versions, f"name = '{name}' and tags.`{CELL}` = '{identity}'")
    return max(found, key=lambda version: int(version.version), default=None)


def _for_export(module: nn.Module) -> nn.Module:
    # An exported graph stays on the device that it was exported from, and archives of weights that are laid out otherwise warn.
    return copy.deepcopy(module).cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def _signature(example: list[np.ndarray], names: Sequence[str | None], output: Any) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(array: np.ndarray, name: str | None) -> TensorSpec:
        return TensorSpec(array.dtype, (-1, *array.shape[1:]), name)

    inputs = Schema([spec(array, name) for array, name in zip(example, names, strict=True)])
    return ModelSignature(inputs, Schema([spec(output.numpy(), None)]))


def _save(
    network: nn.Module,
    example: Any,
    signature: ModelSignature,
    files: Sequence[Path],
    described: Mapping[str, Any],
    service: Service | None,
    description: Model,
    folder: Path,
) -> None:
    """Write all files of a version to `folder`, but for its description."""
    import mlflow.pytorch

    with tempfile.TemporaryDirectory() as scratch:
        beside = [Path(scratch) / name for name in described]
        for file in beside:
            file.write_text(json.dumps(described[file.name], indent=2) + "\n")
        mlflow.pytorch.save_model(
            network,
            str(folder),
            mlflow_model=description,
            signature=signature,
            input_example=example,
            pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in ("mlflow", "numpy", "torch")],
            extra_files=[str(file) for file in [*files, *beside]] or None,
        )
    if service:
        describe(description, service, folder)


def _register(run: Run, save: Callable[[Model, Path], None], name: str, weights: str, tags: dict[str, str]) -> str:
    existing = find_version(name, run.identity)
    if existing is not None and existing.tags.get(WEIGHTS) == weights:
        return str(existing.version)
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    tags = {**run.provenance, WEIGHTS: weights, **tags}
    with tempfile.TemporaryDirectory() as scratch:
        # Saved before MLflow hears of it: a model that does not export leaves nothing behind.
        saved, description = Path(scratch) / "model", Model(run_id=run.id)
        save(description, saved)
        model = run.client.create_logged_model(run.experiment_id, name, run.id, tags)
        description.model_id = model.model_id
        description.save(str(saved / "MLmodel"))
        tags |= {DIGEST: md5(saved)}
        patiently(run.client.log_model_artifacts, model.model_id, str(saved))
    patiently(run.client.finalize_logged_model, model.model_id, LoggedModelStatus.READY)
    patiently(run.client.log_outputs, run.id, [LoggedModelOutput(model.model_id, 0)])
    _ensure_registered(run, name)
    made = patiently(run.client.create_model_version, name, f"models:/{model.model_id}", run.id, tags, model_id=model.model_id)
    return str(made.version)


def _ensure_registered(run: Run, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        run.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
