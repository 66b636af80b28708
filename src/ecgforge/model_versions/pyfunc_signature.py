"""Files and pyfunc signature of a version: MLflow serves classifiers on raw records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecgforge.files import md5
from ecgforge.tracking import mlflow_internals

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

# tag of a version: md5 of all its files; also an entry of MLmodel: md5 of the files in `FILES`
DIGEST = "files.md5"
FILES = "extra_files"  # MLflow's folder for the files that ecgforge reads
# file of a generator's version: sampling parameters, rhythms and units
SAMPLING = "sampling.json"
WEIGHTS = "weights.md5"  # tag of a version: md5 of its file `WEIGHTS_FILE`
WEIGHTS_FILE = "weights.safetensors"
# tag of a generator's version: the sampling parameters, the same as in its sampling.json
SAMPLED = "sampling"
VALIDATED = "validation_f1_macro"  # tag of a classifier's version: of the weights that it keeps
GRAPH = "data/model.pt2"  # the file that MLflow's own loader reads
LOADER = "ecgforge.registry.serving"  # the only loader module that ecgforge allows in a version


@dataclass(frozen=True)
class Service:
    """What MLflow needs to serve a version.

    Attributes:
        loader: module of the installed package whose `_load_pyfunc` loads the model; the version
            itself holds no code.
        example: `inputs` of a request, not data of a patient.
        files: JSON files that the loader reads in addition to the weights, by name.
    """

    loader: str
    example: list[dict[str, Any]]
    files: dict[str, Any]


def canonical_json(sampling: Mapping[str, Any]) -> str:
    """Return sampling parameters as canonical JSON, for comparison."""
    return json.dumps(sampling, sort_keys=True)


ENVIRONMENT = {"conda_env": "conda.yaml", "python_env": "python_env.yaml"}


def describe(service: Service, model: Model, folder: Path) -> None:
    """Add the pyfunc flavour to the description `model` of the files in `folder`.

    The PyTorch flavour does not change.
    """
    from mlflow import pyfunc

    mlflow_internals.save_example(model, service.example, folder)
    model.signature = _signature()
    model.metadata = {DIGEST: md5(folder / FILES)}
    pyfunc.add_to_model(model, loader_module=service.loader, **ENVIRONMENT)


def describe_graph(example: np.ndarray, model: Model, folder: Path) -> None:
    """Add the pyfunc flavour of MLflow's own loader, which takes the inputs of the graph.

    Args:
        example: inputs, stored with the model.
    """
    from mlflow import pyfunc

    mlflow_internals.save_example(model, example, folder)
    pyfunc.add_to_model(
        model,
        loader_module="mlflow.pytorch",
        data=Path(GRAPH).parent.name,
        model_config={"device": None},
        pickle_module_name=mlflow_internals.PICKLE_MODULE,
        **ENVIRONMENT,
    )


def _signature() -> ModelSignature:
    """Return the signature: a list of records in, a list of answers out."""
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
