"""The files and the pyfunc signature by which MLflow serves a classifier on raw records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgforge.files import md5
from ecgforge.tracking import mlflow_internals

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

# a tag, of all files of a version; and in a model's own description, of those in `FILES`
DIGEST = "files.md5"
FILES = "extra_files"  # MLflow's folder of what ecgforge reads back
# of a generator's: how records are drawn from it, their rhythms and units
SAMPLING = "sampling.json"
WEIGHTS = "weights.md5"  # a tag, of the file `WEIGHTS_FILE` of a version
WEIGHTS_FILE = "weights.safetensors"
GRAPH = "data/model.pt2"  # what MLflow's own loader reads
LOADER = "ecgforge.registry.serving"  # the only module that MLflow may open a version by


@dataclass(frozen=True)
class Service:
    """What MLflow needs to serve a version.

    Attributes:
        loader: the module of the installed package whose `_load_pyfunc` opens the model; the
            version itself holds no code.
        example: a request's `inputs`, of no patient.
        files: JSON files that the loader reads beside the weights, by name.
    """

    loader: str
    example: list[dict[str, Any]]
    files: dict[str, Any]


def describe(model: Model, service: Service, folder: Path) -> None:
    """Write into the description `model` of the files in `folder` how MLflow serves them; the
    PyTorch flavour stays as it is.
    """
    from mlflow import pyfunc

    mlflow_internals.save_example(model, service.example, folder)
    model.signature = _signature()
    model.metadata = {DIGEST: md5(folder / FILES)}
    pyfunc.add_to_model(
        model, loader_module=service.loader, conda_env="conda.yaml", python_env="python_env.yaml"
    )


def _signature() -> ModelSignature:
    """A list of records in, a list of answers out."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Map, Object, Property, Schema

    record = {
        "signals": Array(Array(DataType.double)),
        "sampling_rate": DataType.double,
        "leads": Array(DataType.string),
        "units": DataType.string,
    }
    answer = {"rhythm": DataType.string, "probabilities": Map(DataType.double)}
    inputs, outputs = (
        Schema([ColSpec(Object([Property(*one) for one in form.items()]))])
        for form in (record, answer)
    )
    signature = ModelSignature(inputs, outputs)
    mlflow_internals.leave_checks_to_model(signature)
    return signature
