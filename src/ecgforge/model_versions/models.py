"""Register model versions: `pt2` graphs that load without pickle, and the files of ecgforge."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import shutil
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
from ecgforge.model_versions import allowed, exported, orphans, versions
from ecgforge.model_versions.pyfunc_signature import (
    DIGEST,
    FILES,
    GRAPH,
    SAMPLED,
    SAMPLING,
    VALIDATED,
    WEIGHTS,
    Service,
    canonical_json,
    describe,
    describe_graph,
)
from ecgforge.model_versions.versions import Version
from ecgforge.tracking import mlflow_internals, store
from ecgforge.tracking.runs import FINGERPRINT, Run
from ecgforge.tracking.store import client, tolerating, with_retry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model, ModelSignature

ABOUT = {  # descriptions of registered models
    "classifier": "Classifies the rhythm of a 10 s, 12-lead ECG. Trained on the dataset "
    "{dataset}. `ecgforge promote {name} --best` makes a version champion.",
    "generator": "Generates synthetic 10 s ECGs with {generator}. Trained on the dataset "
    "{dataset}. `ecgforge promote {name} --version N` makes a version champion.",
}
LISTED = "mlflow.modelVersions"  # MLflow's own tag of a logged model


def log_classifier(
    run: Run,
    model: nn.Module,
    example: np.ndarray,
    rhythms: Sequence[str],
    *,
    name: str,
    files: Sequence[Path] = (),
    service: Service | None = None,
    facts: Mapping[str, str] | None = None,
) -> str:
    """Register a classifier, and return its version.

    A version with the same weights that the same run registered before is reused.

    Args:
        model: `[batch, 8, samples]` -> logits `[batch, rhythms]`.
        example: `[n, 8, samples]` float32 with n at least 2, because torch.export treats a batch
            size of 1 as a constant; stored with the model, so not data of a patient.
        rhythms: the classes, in order.
        name: the registered model.
        files: stored with the model, in its folder extra_files.
        service: the pyfunc flavour; if None, MLflow serves `model` on its own inputs.
        facts: further tags for people, such as `VALIDATED`.
    """
    if len(example) < 2:
        raise ValueError(
            f"an example of {len(example)} record: torch.export would fix the batch size to it"
        )
    network = _for_export(model)
    with torch.no_grad():
        logits = network(torch.from_numpy(example))
    weights = hashlib.md5(
        safetensors.torch.save(
            {key: value.contiguous() for key, value in network.state_dict().items()}
        )
    ).hexdigest()
    save = partial(
        _save,
        network,
        [torch.from_numpy(example)],
        _signature([example], [None], logits),
        files,
        service.files if service else {},
        partial(describe, service) if service else partial(describe_graph, example),
    )
    return _register(run, save, name, weights, {"rhythms": ", ".join(rhythms)}, facts or {})


def log_generator(
    run: Run,
    network: nn.Module,
    example: tuple[Tensor, ...],
    folder: Path,
    *,
    name: str,
    described: Mapping[str, Any] | None = None,
    facts: Mapping[str, str] | None = None,
) -> str:
    """Register a generator, and return its version.

    A version with the same weights and sampling that the same run registered before is reused.
    MLflow loads the network that sampling evaluates in each step. The sampling loop cannot be
    exported as a graph. ecgforge runs it on the version's `extra_files`, which are the files of
    `folder`.

    Args:
        network, example: as returned by `Generator.exportable`, batch size 2.
        folder: weights.safetensors and generator.json, as written by
            `ecgforge.generators.common.base.save`.
        described: JSON files to store with them, by name.
        facts: further tags for people.
    """
    network = _for_export(network)
    with torch.no_grad():
        output = network(*example)
    arguments = list(inspect.signature(network.forward).parameters)[: len(example)]
    signature = _signature([tensor.numpy() for tensor in example], arguments, output)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    save = partial(_save, network, example, signature, files, described or {}, None)
    weights, sampled = md5(folder / "weights.safetensors"), _sampled(described or {})
    return _register(run, save, name, weights, sampled, facts or {})


def summary(tags: Mapping[str, str]) -> str:
    """Return a line about a version for people, from its tags."""
    seed = f"seed {tags.get('seed', '?')}"
    if tags.get("kind") == "generator":
        sampling = f", sampling {tags[SAMPLED]}" if SAMPLED in tags else ""
        return f"{tags.get('generator')} on {tags.get('dataset')}, {seed}{sampling}"
    parts = [
        f"{tags.get('setting')} on {tags.get('dataset')}",
        *([f"records of {tags['generator']}"] if "generator" in tags else []),
        tags.get("backbone", ""),
        seed,
        *(["augmented"] if tags.get("augmented") == "true" else []),
    ]
    value = f"{float(tags[VALIDATED]):.2f}".removeprefix("0") if VALIDATED in tags else ""
    on = " (of synthetic records)" if tags.get("setting", "").startswith("TrS") else ""
    return ", ".join(parts) + (f": validation macro-F1 {value}{on}" if value else "")


def sampling_file(
    sampling: Mapping[str, Any], rhythms: Sequence[str], units: str
) -> dict[str, Any]:
    """Return the JSON file of a generator's version that describes its sampling, by file name."""
    return {SAMPLING: {"sampling": sampling, "rhythms": rhythms, "units": units}}


def log_sampling(name: str, weights: str, described: Mapping[str, Any]) -> str | None:
    """Register a new version of a generator if no version with its weights has this sampling.

    A version is never changed. The new one copies files, run and provenance from the newest version
    with these weights.

    Args:
        name: the registered model.
        weights: md5 of the generator's weights.
        described: as returned by `sampling_file`.

    Returns:
        The new version; None if a version with this sampling exists, or none with these weights.
    """
    known = [one for one in versions.versions(name) if one.tags.get(WEIGHTS) == weights]
    tags = _sampled(described)
    if not known or any(one.tags.get(SAMPLED) == tags[SAMPLED] for one in known):
        return None
    return _again(known[-1], described, tags)


def run_of(name: str, weights: str) -> str | None:
    """Return the run that registered a generator's weights; None if there is none.

    Args:
        name: the registered model.
        weights: md5 of the generator's weights.
    """
    known = [one for one in versions.versions(name) if one.tags.get(WEIGHTS) == weights]
    found = store.run(known[-1].run_id) if known else None
    active = found is not None and found.info.lifecycle_stage == "active"
    return known[-1].run_id if active else None


def find_version(
    name: str, fingerprint: str, tags: Mapping[str, str] | None = None
) -> ModelVersion | None:
    """Return the newest version of the model `name` that the run with this fingerprint registered.

    Args:
        tags: further tags that the version must have.
    """
    found = with_retry(
        client().search_model_versions,
        f"name = '{name}' and tags.`{FINGERPRINT}` = '{fingerprint}'",
    )
    alike = [version for version in found if (tags or {}).items() <= dict(version.tags).items()]
    return max(alike, key=lambda version: int(version.version), default=None)


def _for_export(module: nn.Module) -> nn.Module:
    # An exported graph keeps the device of the module. Weights in another memory format cause
    # warnings when the archive is loaded.
    return copy.deepcopy(module).cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def _signature(
    example: list[np.ndarray], names: Sequence[str | None], output: Any
) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(array: np.ndarray, name: str | None) -> TensorSpec:
        return TensorSpec(array.dtype, (-1, *array.shape[1:]), name)

    inputs = Schema([spec(array, name) for array, name in zip(example, names, strict=True)])
    return ModelSignature(inputs, Schema([spec(output.numpy(), None)]))


def _save(
    network: nn.Module,
    example: Sequence[Tensor],
    signature: ModelSignature,
    files: Sequence[Path],
    described: Mapping[str, Any],
    serve: Callable[[Model, Path], None] | None,
    description: Model,
    folder: Path,
) -> None:
    """Write all files of a version to `folder`, except its description.

    They are the files of `mlflow.pytorch.save_model`, which would trace the network each time.

    Args:
        serve: adds the pyfunc flavour.
    """
    graph, extra = folder / GRAPH, folder / FILES
    for parent in (graph.parent, extra):
        parent.mkdir(parents=True)
    exported.write(network, example, graph)
    kept = [Path(shutil.copy(file, extra)) for file in files] + _describe(described, extra)
    packages = [f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "numpy", "torch")]
    mlflow_internals.save_environment(packages, folder)
    description.signature = signature
    description.add_flavor(
        "pytorch",
        model_data=graph.parent.name,
        pytorch_version=str(torch.__version__),
        code=None,
        **({"extra_files": [{"path": f"{FILES}/{file.name}"} for file in kept]} if kept else {}),
    )
    if serve:
        serve(description, folder)
    description.model_size_bytes = sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file()
    )


def _sampled(described: Mapping[str, Any]) -> dict[str, str]:
    return (
        {SAMPLED: canonical_json(described[SAMPLING]["sampling"])} if SAMPLING in described else {}
    )


def _register(
    run: Run,
    save: Callable[[Model, Path], None],
    name: str,
    weights: str,
    tags: dict[str, str],
    facts: Mapping[str, str],
) -> str:
    tags = {WEIGHTS: weights, **tags}
    existing = find_version(name, run.fingerprint, tags)
    if existing is not None:
        return str(existing.version)
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as scratch:
        # The files are saved before the model is logged: a failed export leaves nothing in MLflow.
        saved, description = Path(scratch) / "model", Model(run_id=run.id)
        save(description, saved)
        # MLflow shows tags in this order: those for people first, digests last.
        tags = {**facts, **run.provenance, **tags}
        run.check_attempt()
        return _add(run.client, run.experiment_id, name, tags, description, saved)


def _again(version: Version, described: Mapping[str, Any], tags: dict[str, str]) -> str:
    """Register the files of a version again, with other JSON files."""
    from mlflow.models import Model

    registry = client()
    with versions.files(version) as kept, tempfile.TemporaryDirectory() as scratch:
        saved = shutil.copytree(kept.parent, Path(scratch) / "model")
        _describe(described, saved / FILES)
        before = with_retry(registry.get_logged_model, version.source.rsplit("/", 1)[-1])
        provenance = {key: value for key, value in before.tags.items() if key != LISTED}
        return _add(
            registry,
            before.experiment_id,
            version.name,
            provenance | tags,
            Model.load(str(saved)),
            saved,
        )


def _describe(described: Mapping[str, Any], folder: Path) -> list[Path]:
    for name, content in described.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return [folder / name for name in described]


def _add(
    registry: MlflowClient,
    experiment: str,
    name: str,
    tags: dict[str, str],
    description: Model,
    saved: Path,
) -> str:
    """Log the model saved in a folder with its `description`, and return its new version."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run_id = description.run_id
    description.save(str(saved / "MLmodel"))
    allowed.check(f"the new version of {name}", saved)
    model = orphans.take_up(experiment, name, tags) or registry.create_logged_model(
        experiment, name, run_id, tags
    )
    description.model_id = model.model_id
    description.save(str(saved / "MLmodel"))
    tags = tags | {DIGEST: md5(saved)}
    with_retry(registry.log_model_artifacts, model.model_id, str(saved))
    with_retry(registry.finalize_logged_model, model.model_id, LoggedModelStatus.READY)
    # A deleted run cannot show the model.
    with tolerating("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
        outputs = with_retry(registry.get_run, run_id).outputs
        if model.model_id not in {
            one.model_id for one in (outputs.model_outputs if outputs else [])
        }:
            with_retry(registry.log_outputs, run_id, [LoggedModelOutput(model.model_id, 0)])
    with tolerating("RESOURCE_ALREADY_EXISTS"):
        about = ABOUT.get(tags.get("kind", ""), "").format_map({**tags, "name": name})
        registry.create_registered_model(name, description=about)
    made = with_retry(
        registry.create_model_version,
        name,
        f"models:/{model.model_id}",
        run_id,
        tags,
        description=summary(tags),
        model_id=model.model_id,
    )
    return str(made.version)
