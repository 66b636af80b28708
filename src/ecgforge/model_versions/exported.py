"""Export networks as `pt2` graphs, once for each architecture.

`torch.export` takes half a second or more to trace a network. The graph depends on the architecture
and on the shapes of the inputs, but not on the values of the weights. So a process keeps graphs
without weights, and writes further networks of an architecture as such a graph with their weights.
Stages that were forked from one server have the same code, and share their graphs through a folder
of the server.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from hashlib import md5
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SERVER = "ECGFORGE_WARM"  # the address of the server, see `pipeline.warm`
GRAPHS = "graphs"
WEIGHTS = "model/data/weights/"
CONFIG = f"{WEIGHTS}model_weights_config.json"
SUFFIX = ".pt2"  # torch asks for it

Members = dict[str, bytes]  # of an archive, by name

_graphs: dict[str, Members] = {}  # without weights, by `_key`


def write(network: nn.Module, example: Sequence[Tensor], file: Path) -> None:
    """Write a network as a graph for batches of any size.

    Args:
        network: in evaluation mode, on the CPU, with contiguous weights.
        example: the inputs; their first axis is the batch, with at least 2 entries.
        file: the archive, with the suffix `.pt2`.
    """
    key = _key(network, example)
    graph = (_graphs.get(key) or _shared(key)) if key else None
    if graph is None:
        members = _traced(network, example)
        graph = {name: content for name, content in members.items() if not _is_weight(name)}
        if members != graph | _weights(graph, network):  # views and shared memory
            _pack(members, file)
            return
        if key:
            _share(key, graph)
    if key:
        _graphs[key] = graph
    _pack(graph | _weights(graph, network), file)


def _traced(network: nn.Module, example: Sequence[Tensor]) -> Members:
    batches = [{0: torch.export.Dim.AUTO} for _ in example]
    program = torch.export.export(network, tuple(example), dynamic_shapes=batches)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"model{SUFFIX}"
        torch.export.save(program, file)
        return _unpacked(file)


def _is_weight(name: str) -> bool:
    return name.startswith(WEIGHTS) and name != CONFIG


def _weights(graph: Members, network: nn.Module) -> Members:
    """Return the weights of `network` as members of an archive with this graph."""
    state = network.state_dict()
    return {
        WEIGHTS + entry["path_name"]: _bytes(state[name])
        for name, entry in json.loads(graph[CONFIG])["config"].items()
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _unpacked(file: Path) -> Members:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pack(members: Members, file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


class _Structure(pickle.Pickler):
    """Pickles all of a network and its inputs, apart from the values of the weights."""

    def __init__(self, file: io.BytesIO, network: nn.Module) -> None:
        super().__init__(file)
        state = network.state_dict(keep_vars=True)
        self._weights = {id(tensor): name for name, tensor in state.items()}

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return None
        value = self._weights.get(id(obj)) or md5(_bytes(obj)).hexdigest()
        form = (obj.dtype, obj.stride(), type(obj), obj.requires_grad)
        return value, tuple(obj.shape), str(form)


def _key(network: nn.Module, example: Sequence[Tensor]) -> str:
    """Return a digest of all that decides the graph; empty if the network cannot be pickled."""
    pickled = io.BytesIO()
    try:
        _Structure(pickled, network).dump((network, tuple(example)))
    except (pickle.PicklingError, AttributeError, TypeError):  # such as a class in a function
        return ""
    return md5(pickled.getvalue()).hexdigest()


@cache
def _folder(server: str) -> Path | None:
    folder = Path(server).parent / GRAPHS
    return folder if server and folder.parent.is_dir() else None


def _shared(key: str) -> Members | None:
    """Return a graph that another process of the server has traced."""
    folder = _folder(os.environ.get(SERVER, ""))
    file = folder / f"{key}{SUFFIX}" if folder else None
    return _unpacked(file) if file and file.exists() else None


def _share(key: str, graph: Members) -> None:
    folder = _folder(os.environ.get(SERVER, ""))
    if folder:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _pack(graph, Path(scratch) / key)
            (Path(scratch) / key).replace(folder / f"{key}{SUFFIX}")
