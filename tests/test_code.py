"""The code that stages depend on: everything that they import, and nothing that others import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecgforge import plugins
from ecgforge.errors import EcgforgeError
from ecgforge.generators.common.registry import GENERATORS
from ecgforge.params import Params
from ecgforge.stages.common import code
from ecgforge.sweeps.common.registry import OF_GENERATORS, ON_REAL

ROOT = Path(__file__).parents[1]
PARAMS = Params.read(ROOT / "params.yaml")
VALUES = {"generator": "diffwave", "backbone": "transformer", "sweep": "transfer"}

# Loads the modules of each stage alone, and prints the files of ours that were loaded with them.
LOAD = """
import importlib, json, sys
loaded = {}
for stage, modules in json.loads(sys.argv[1]).items():
    for name in [name for name in sys.modules if name.split(".")[0] == "ecgforge"]:
        del sys.modules[name]
    for module in modules:
        importlib.import_module(f"ecgforge.{module}")
    loaded[stage] = [
        module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "ecgforge"
    ]
print(json.dumps(loaded))
"""


def excepted(name: str) -> bool:
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return any(module == one or module.startswith(f"{one}.") for one in code.EXCEPTIONS)


@pytest.mark.slow
def test_stages_depend_on_all_that_they_load() -> None:
    roots = {
        stage: [root.format(**VALUES) for root in roots] for stage, roots in code.ROOTS.items()
    }
    command = [sys.executable, "-W", "ignore", "-c", LOAD, json.dumps(roots)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loaded = json.loads(printed.splitlines()[-1])
    for stage in code.ROOTS:
        known = code.files(stage, PARAMS, VALUES)
        allowed = set(known)
        for name in (name for name in known if name.endswith(".py")):
            allowed |= {one.replace(".", "/") for one in code._imports(code.PACKAGE / name)}
        files = {Path(file).relative_to(code.PACKAGE).as_posix() for file in loaded[stage]}
        ours = {file for file in files if not excepted(file)}
        # Files that only excepted modules import are loaded, too: they are imported by none of the
        # known ones.
        missing = {
            file
            for file in ours - set(known) - {"__init__.py"}
            if file.removesuffix(".py").removesuffix("/__init__") in allowed
        }
        assert not missing, f"{stage} loads {missing} and does not depend on them"
        assert len(known) > 3


def test_stages_depend_on_what_is_found_by_name() -> None:
    for stage in ("train_generator", "synthesize", "sweep", "ablation"):
        for generator in GENERATORS:
            known = code.files(stage, PARAMS, VALUES | {"generator": generator})
            models = {name.split("/")[1] for name in known if name.startswith("generators/")}
            assert generator in models
            assert not models & (set(GENERATORS) - {generator}), "others are no matter"
    for sweep in OF_GENERATORS:
        assert f"sweeps/{sweep}.py" in code.files("sweep", PARAMS, VALUES | {"sweep": sweep})
    for sweep in ON_REAL:
        known = code.files("sweep_real", PARAMS, {"sweep": sweep})
        assert {f"sweeps/{sweep}.py", "classifiers/common/contrastive.py"} <= {*known}
    assert "classifiers/transformer.py" in code.files("backbones", PARAMS, VALUES)
    assert "classifiers/resnet1d.py" in code.files("classify", PARAMS, {})


def test_every_stage_of_dvc_names_its_code() -> None:
    resolved = code.resolved(PARAMS)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    used = set()
    for name, stage in stages.items():
        if name == "resolve":
            continue
        stage = stage.get("do", stage)
        files = [one for one in stage["params"] if isinstance(one, dict)]
        (key,) = next(one["resolved/code.json"] for one in files if "resolved/code.json" in one)
        used.add(key.split(".")[0])
        value = resolved[key.split(".")[0]]
        for _ in range(key.replace("item.", "").count(".")):
            assert isinstance(value, dict)
            value = next(iter(value.values()), "")
        assert isinstance(value, str), "one column of `dvc exp show`"
    assert used == set(code.ROOTS) == set(resolved)


def test_a_stage_parses_no_file_that_its_server_has_parsed() -> None:
    code._read.cache_clear()
    code.read_all()
    before = code._read.cache_info().misses
    code.resolved(PARAMS)
    assert code._read.cache_info().misses == before > 100


def test_a_digest_changes_with_each_file() -> None:
    before = code.digest("prepare", PARAMS, {})
    assert before == code.digest("prepare", PARAMS, {}) != code.digest("acquire", PARAMS, {})
    for name, digest in code.files("prepare", PARAMS, {}).items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                code,
                "_digest",
                lambda file, name=name, real=code._digest: (
                    "another" if file == code.PACKAGE / name else real(file)
                ),
            )
            assert code.digest("prepare", PARAMS, {}) != before, (name, digest)


def test_readers_of_catalogues_are_code_of_prepare() -> None:
    assert {"sources/ptbxl.py", "sources/chapman.py", "sources/folder.py"} <= set(
        code.files("prepare", PARAMS, {})
    )
    assert not [name for name in code.files("prepare", PARAMS, {}) if name.startswith("simulator")]
    assert {"simulator/heart.py", "simulator/population_quantiles.csv"} <= set(
        code.files("acquire", PARAMS, {})
    )


@pytest.mark.parametrize("name", code.EXCEPTIONS)
def test_exceptions_exist(name: str) -> None:
    path = code.PACKAGE.joinpath(*name.split("."))
    assert path.is_dir() or path.with_suffix(".py").is_file()


def test_imports_inside_functions_count(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "import ecgforge.records.leads\n"
        "def work():\n"
        "    from ecgforge.study import metrics\n"
        "    from ecgforge.training.fit import fit as train\n"
    )
    found = set(code._imports(file))
    assert {"records.leads", "study.metrics", "training.fit", "training"} <= found


def test_a_digest_is_of_code_and_not_of_words(tmp_path: Path) -> None:
    digests = []
    sources = (
        "def one():\n    return 1\n",
        '"""Words."""\n# More.\ndef one():\n    """It."""\n    return 1\n',
    )
    for number, source in enumerate((*sources, "def one():\n    return 2\n")):
        file = tmp_path / f"{number}.py"
        file.write_text(source)
        digests.append(code._digest(file))
    assert digests[0] == digests[1] != digests[2]


def test_a_module_without_its_class_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_written.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins.load("half_written:VALUE") == 1
    with pytest.raises(EcgforgeError, match="half_written has no SWEEP: end it with SWEEP = "):
        plugins.load("half_written:SWEEP")
