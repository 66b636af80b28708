"""What a version's folder may hold: all that ecgforge writes, and nothing that others could add
to it.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow.models import Model
from torch import nn

from champions import PARAMS, Bomb
from ecgforge.classifiers.common import registry
from ecgforge.errors import EcgforgeError
from ecgforge.generators.common import registry as generators
from ecgforge.generators.common.base import Shape
from ecgforge.model_versions import allowed, models
from ecgforge.model_versions.pyfunc_signature import SAMPLING, describe
from ecgforge.records.record_set import About
from ecgforge.registry import serving

RHYTHMS = ("SR", "AFIB")
CODE = "__import__('pathlib').Path('exploded').touch()"


class Small(nn.Module):
    """Has a constant, a condition on sizes and a size that is computed: all that graphs of ours
    have in addition to operators.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        weights = torch.tensor([1.0, 2.0])
        return self.head(signals.mean(2)) * weights + signals.new_zeros(
            signals.shape[0] * 2, 1
        ).view(-1, 2)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier as it is registered."""
    place, network, example = (
        tmp_path_factory.mktemp("version"),
        Small().eval(),
        np.zeros((2, 8, 200), np.float32),
    )
    preprocessing = {"sampling_rate": 100, "duration": 2, "band": [0.5, 40], "max_amplitude": 20}
    service = serving.service(
        About(100, 200, "mV", RHYTHMS, "simulated", {"preprocessing": preprocessing})
    )
    registry.save(
        registry.create(PARAMS.classifier, RHYTHMS, torch.ones(8), 0),
        PARAMS.classifier.backbone,
        place / "classifier",
    )
    signature = models._signature([example], [None], network(torch.from_numpy(example)).detach())
    files, description = sorted((place / "classifier").iterdir()), Model(run_id="0" * 32)
    inputs, serve = [torch.from_numpy(example)], partial(describe, service)
    models._save(
        network, inputs, signature, files, service.files, serve, description, place / "model"
    )
    description.save(str(place / "model/MLmodel"))
    return place / "model"


@pytest.fixture
def folder(version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(version, tmp_path / "model"))


def test_what_ecgforge_writes_is_allowed(folder: Path) -> None:
    allowed.check("a version", folder)


def test_a_generator_is_allowed(tmp_path: Path) -> None:
    settings = PARAMS.generator("diffwave")
    network = settings.network | {"layers": 2, "channels": 8}
    made = generators.create("diffwave", Shape(8, 200, 2, 100), network, torch.ones(8), 0)
    generators.save(made, tmp_path / "made")
    graph, example = made.exportable()
    graph.eval()
    signature = models._signature(
        [one.numpy() for one in example], ["noisy", "times", "labels"], graph(*example).detach()
    )
    files = sorted((tmp_path / "made").iterdir())
    described = {SAMPLING: {"sampling": settings.sampling, "rhythms": RHYTHMS, "units": "mV"}}
    description, folder = Model(run_id="0" * 32), tmp_path / "model"
    models._save(graph, example, signature, files, described, None, description, folder)
    description.save(str(folder / "MLmodel"))
    allowed.check("a version", folder)


def described(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change MLmodel."""

    def apply(folder: Path) -> None:
        tree = yaml.safe_load((folder / "MLmodel").read_text())
        change(tree)
        (folder / "MLmodel").write_text(yaml.safe_dump(tree))

    return apply


def pyfunc(**keys: Any) -> Callable[[Path], None]:
    return described(lambda tree: tree["flavors"]["python_function"].update(keys))


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return apply


def linked(name: str) -> Callable[[Path], None]:
    """Put a link to the same content in place of a file or folder."""

    def apply(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return apply


def packages(*lines: str) -> Callable[[Path], None]:
    """Name these packages in both places."""

    def apply(folder: Path) -> None:
        tree = yaml.safe_load((folder / "conda.yaml").read_text())
        tree["dependencies"][2] = {"pip": " ".join(lines).split()}
        (folder / "conda.yaml").write_text(yaml.safe_dump(tree))
        (folder / "requirements.txt").write_text("\n".join(lines))

    return apply


def python_model(folder: Path) -> None:
    pyfunc(
        loader_module="mlflow.pyfunc.model",
        python_model="extra_files/weights.safetensors",
        cloudpickle_version="3",
    )(folder)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "another loader": (pyfunc(loader_module="evil"), "MLmodel, .*another flavour python_function"),
    "a loader in the standard library": (
        pyfunc(loader_module="pdb"),
        "another flavour python_function",
    ),
    "a code path": (pyfunc(code="code"), "another flavour python_function"),
    "a code path of PyTorch's": (
        described(lambda tree: tree["flavors"]["pytorch"].update(code="data")),
        "another flavour pytorch",
    ),
    "a folder of data": (pyfunc(data="extra_files"), "another flavour python_function"),
    "a model in Python": (python_model, "another flavour python_function"),
    "another environment": (
        pyfunc(env={"conda": "conda.yaml", "virtualenv": "../env.yaml"}),
        "another flavour python_function",
    ),
    "a flavour more": (
        described(lambda tree: tree["flavors"].update(sklearn={"pickled_model": "data"})),
        "the flavour sklearn",
    ),
    "no flavour of ours": (
        described(lambda tree: tree["flavors"].pop("pytorch")),
        "another flavour pytorch",
    ),
    "an unknown entry": (
        described(lambda tree: tree.update(resources={"api": "1"})),
        "the entry resources",
    ),
    "other metadata": (
        described(lambda tree: tree.update(metadata={"code": "a"})),
        "other metadata",
    ),
    "an example in another folder": (
        described(lambda tree: tree["saved_input_example_info"].update(artifact_path="../a.json")),
        "another example",
    ),
    "files that are not there": (
        described(
            lambda tree: tree["flavors"]["pytorch"]["extra_files"].append(
                {"path": "extra_files/a.json"}
            )
        ),
        "another flavour pytorch",
    ),
    "no YAML": (written("MLmodel", b"flavors: [\n"), "MLmodel"),
    "YAML that makes objects": (
        written("MLmodel", b"a: !!python/object/apply:os.system [touch exploded]\n"),
        "MLmodel",
    ),
    "no mapping": (written("MLmodel", b"- a\n"), "MLmodel"),
    "compiled code": (
        written("code/evil.pyc", b"\xa7\r\r\n"),
        "holds code, which ecgforge does not write",
    ),
    "compiled code next to it": (
        written("extra_files/evil.pyc", b"\xa7\r\r\n"),
        "holds extra_files/evil.pyc",
    ),
    "an empty folder": (lambda folder: (folder / "code").mkdir(), "holds code"),
    "another file of known kind": (
        written("extra_files/more.json", b"{}"),
        "holds extra_files/more.json",
    ),
    "a model that was pickled": (written("data/model.pth", b"PK\x03\x04"), "holds data/model.pth"),
    "constraints for pip": (written("constraints.txt", b"evil"), "holds constraints.txt"),
    "a link to a file": (
        linked("extra_files/weights.safetensors"),
        "holds extra_files/weights.safetensors",
    ),
    "a link to a folder": (linked("extra_files"), "holds extra_files, which"),
    "a package more": (packages("mlflow==3.1", "evil==1"), "requirements.txt, .*evil==1"),
    "a package from another address": (
        packages("mlflow @ http://evil"),
        "requirements.txt, .*http://evil",
    ),
    "a package index": (
        packages("--index-url=http://evil", "mlflow==3.1"),
        "requirements.txt, .*--index-url",
    ),
    "other packages for conda": (
        written("requirements.txt", b"mlflow==3.1\n"),
        "conda.yaml, .*other packages",
    ),
    "a channel more": (
        written("conda.yaml", b"channels: [evil]\ndependencies: []\nname: mlflow-env\n"),
        "conda.yaml, .*other packages",
    ),
    "something to build": (
        written(
            "python_env.yaml",
            b"python: 3.11.1\nbuild_dependencies: [evil]\ndependencies: [-r requirements.txt]\n",
        ),
        "python_env.yaml, .*other packages",
    ),
    "pickled weights": (
        written("extra_files/weights.safetensors", pickle.dumps(Bomb())),
        "whose content does not match its name",
    ),
    "weights that are none": (
        written("extra_files/weights.safetensors", b"\x09" + b"\0" * 7 + b"{"),
        "weights.safetensors, .*no tensors",
    ),
    "a description that is none": (
        written("extra_files/classifier.json", b"{"),
        "classifier.json, .*no JSON",
    ),
    "a description without end": (
        written("extra_files/classifier.json", b"[" * 100_000),
        "classifier.json, .*no JSON",
    ),
    "a file gone": (lambda folder: (folder / "conda.yaml").unlink(), "lacks conda.yaml"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_ecgforge_does_not_write_is_refused(folder: Path, what: str) -> None:
    assert_refused(folder, *HOSTILE[what])


def assert_refused(folder: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    with pytest.raises(EcgforgeError, match=message) as refusal:
        allowed.check("a version", folder)
    assert "\n" not in str(refusal.value)
    assert not Path("exploded").exists()


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EcgforgeError, match="no longer available"):
        allowed.check("a version", tmp_path)


# The exported graph


def rewritten(
    change: Callable[[str, bytes], bytes | None], **added: bytes
) -> Callable[[Path], None]:
    """Change members of the archive."""

    def apply(folder: Path) -> None:
        graph, before = folder / "data/model.pt2", folder.parent / "before.pt2"
        graph.rename(before)
        with zipfile.ZipFile(before) as kept, zipfile.ZipFile(graph, "w") as archive:
            for name in kept.namelist():
                archive.writestr(name, change(name, kept.read(name)) or kept.read(name))
            for name, content in added.items():
                archive.writestr(f"model/data/{name.replace('__', '/')}", content)

    return apply


def graph_with(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the graph's description."""

    def apply(name: str, content: bytes) -> bytes | None:
        if not name.endswith("/model.json"):
            return None
        tree = json.loads(content)
        change(tree)
        return json.dumps(tree).encode()

    return rewritten(apply)


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a key of the graph's description, wherever it stands."""

    def walk(tree: Any) -> None:
        for name, one in list(tree.items()) if isinstance(tree, dict) else []:
            if name == key:
                tree[name] = value
            else:
                walk(one)
        for one in tree if isinstance(tree, list) else []:
            walk(one)

    return walk


def member(ending: str, content: bytes) -> Callable[[Path], None]:
    return rewritten(lambda name, _: content if name.endswith(ending) else None)


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def structure(**keys: Any) -> str:
    return json.dumps(
        [1, {"type": "builtins.tuple", "context": "null", "children_spec": [], **keys}]
    )


def twice(folder: Path) -> None:
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(folder / "data/model.pt2", "a") as archive,
    ):
        archive.writestr(archive.namelist()[0], b"")


def compressed(folder: Path) -> None:
    with zipfile.ZipFile(folder / "data/model.pt2", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/constants/tensor_99", b"0" * 99)


GRAPHS: dict[str, tuple[Callable[[Path], None], str]] = {
    "code for a size": (graph_with(put("expr_str", CODE)), "expr_str"),
    "code in the name of a symbol": (graph_with(put("expr_str", f'Symbol("{CODE}")')), "expr_str"),
    "a text among sizes": (graph_with(put("expr_str", f'Add(Integer(1), "{CODE}")')), "expr_str"),
    "a function for a size": (graph_with(put("expr_str", "exec('1')")), "expr_str"),
    "an attribute of a symbol": (graph_with(put("expr_str", "s1.__class__")), "expr_str"),
    "code for a guard": (graph_with(put("guards_code", [f"{CODE} is None"])), "guards_code"),
    "a guard that calls": (
        graph_with(put("guards_code", ["L['signals'].size(exit())"])),
        "guards_code",
    ),
    "code for an argument's name": (
        graph_with(put("forward_arg_names", [f"signals={CODE}"])),
        "forward_arg_names",
    ),
    "code for a node's name": (
        graph_with(lambda tree: tree["graph_module"]["graph"]["nodes"][0].update(name=f"a;{CODE}")),
        "name =",
    ),
    "an operator of another module": (
        graph_with(put("target", "torch.os.system")),
        "target = 'torch.os.system'",
    ),
    "an operator that loads": (graph_with(put("target", "torch.hub.load")), "target"),
    "an operator that reads files": (
        graph_with(put("target", "torch.ops.aten.from_file.default")),
        "target",
    ),
    "an operator on graphs": (graph_with(put("target", "torch.ops.higher_order.wrap")), "target"),
    "a class in the structure": (
        graph_with(put("in_spec", structure(type="evil.Class"))),
        "in_spec",
    ),
    "an import in the structure": (
        graph_with(put("in_spec", structure(context='{"__enum__": true, "fqn": "evil:A"}'))),
        "in_spec",
    ),
    "a key that is code": (
        graph_with(lambda tree: tree["range_constraints"].update({CODE: {}})),
        "the key",
    ),
    "a pickled example": (member("sample_inputs/model.pt", saved(Bomb())), "a pickle that calls"),
    "an example without tensors": (
        member("sample_inputs/model.pt", pickle.dumps(Bomb())),
        "model.pt2, .*cannot be read",
    ),
    "pickled weights": (
        rewritten(
            lambda name, held: (
                held.replace(b'"use_pickle": false', b'"use_pickle": true')
                if name.endswith(".json")
                else None
            )
        ),
        "a pickled weight_0",
    ),
    "an object for a constant": (
        rewritten(
            lambda name, held: (
                held.replace(b'"tensor_0"', b'"opaque_0"') if name.endswith(".json") else None
            )
        ),
        "a pickled opaque_0",
    ),
    "compiled code": (
        rewritten(lambda *_: None, aotinductor__model__evil=b"\x7fELF"),
        "the member model/data/aotinductor",
    ),
    "a file more": (
        rewritten(lambda *_: None, extra__evil=b"1"),
        "the member model/data/extra/evil",
    ),
    "a duplicate member": (twice, "a duplicate member"),
    "a member that is compressed": (compressed, "tensor_99 is compressed"),
    "no JSON": (member("/model.json", b"{"), "model.pt2, .*cannot be read"),
    "no archive": (written("data/model.pt2", b"PK\x03\x04"), "model.pt2, .*cannot be read"),
}


@pytest.mark.parametrize("what", GRAPHS)
def test_a_graph_that_could_execute_is_refused(folder: Path, what: str) -> None:
    """Torch evaluates sizes and guards, builds code from names, and takes operators from
    everywhere.
    """
    assert_refused(folder, *GRAPHS[what])
