"""Networks on disk: weights as safetensors, and a JSON description to build the network from.

Neither file can execute code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as serialized
from torch import Tensor, nn

from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write

WEIGHTS = "weights.safetensors"
DAMAGE = (OSError, KeyError, TypeError, ValueError, RuntimeError, RecursionError, SafetensorError)

Network = TypeVar("Network", bound=nn.Module)
# builds a network from its weights, which may include constructor arguments
Build = Callable[[dict[str, Tensor]], Network]


def write(network: nn.Module, description: dict[str, Any], folder: Path, name: str) -> None:
    """Write weights and a description, `name`, to `folder` atomically and reproducibly."""
    with atomic_write(folder) as scratch:
        scratch.mkdir()
        tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        # written by Python, which reports a full disk
        (scratch / WEIGHTS).write_bytes(serialized(tensors))
        (scratch / name).write_text(json.dumps(description, indent=2) + "\n")


def read(
    folder: Path,
    name: str,
    kind: str,
    described: Callable[[Any, str], Build[Network]],
    label: str = "",
) -> Network:
    """Read a network that `write` wrote, on the CPU and in evaluation mode.

    Args:
        name: of the description.
        kind: generator or classifier, for messages.
        described: takes a description and its path, and returns a function that builds the network.
        label: of the version with these files, for messages.

    Raises:
        EcgforgeError: a file is missing or damaged.
    """
    where, advice = (
        (label, "train and register the model again")
        if label
        else (str(folder), "run `dvc repro` or `dvc pull`")
    )
    for one in (name, WEIGHTS):
        if not (folder / one).is_file():
            raise EcgforgeError(f"{where} is not a {kind}: {one} is missing; {advice}")
    try:
        build = described(json.loads((folder / name).read_bytes()), f"{where}, {name}")
    except DAMAGE:
        raise EcgforgeError(
            f"{where} is not a complete {kind}: {name} is damaged; {advice}"
        ) from None
    try:
        # not memory-mapped: a change of the file would end this process
        weights = load((folder / WEIGHTS).read_bytes())
        network = build(weights)
        network.load_state_dict(weights)
    except DAMAGE:
        reason = f"{WEIGHTS} is damaged or does not fit {name}"
        raise EcgforgeError(f"{where} is not a complete {kind}: {reason}; {advice}") from None
    return network.eval()
