"""MkDocs hooks: generate the reference pages during the build, and turn formulas into MathML.

The parameters come from the typed schema, the command line from the Typer app, the Python API from
the source files, and the stages from dvc.yaml. So these pages always agree with the code.
"""

from __future__ import annotations

import ast
import html
import inspect
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)
WORDS = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "`null`",
}
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}
FUNCTIONS = (
    *("load_params", "load_records", "simulate_records", "train_generator", "synthesize", "draw"),
    *("score", "train_classifier", "classify", "evaluate", "compare", "save", "load"),
)
API = {  # names, or module.name where several modules define the name: files may move
    "Functions": [f"api.{name}" for name in FUNCTIONS],
    "Record sets": ["RecordSet", "About", "write_record_set"],
    "Generators": ["base.Generator"],
    "Classifiers": ["base.Classifier"],
    "Quality scores": ["assess.assess", "assess.overall"],
    "Metrics and intervals": ["metrics", "interval", "difference"],
    "Parameters": ["params.Params"],
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    pages = {
        "parameters": parameters,
        "command_line": command_line,
        "python": python_api,
        "stages": stages,
    }
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Replace LaTeX formulas by MathML: a browser shows it without a script."""
    content = INLINE.sub(lambda found: _formula(found[1], "inline"), content)
    return BLOCK.sub(lambda found: _formula(found[1], "block"), content)


def _formula(latex: str, display: str) -> str:
    return convert(html.unescape(latex).strip(), display=display)


# Parameters


def parameters() -> str:
    """Return the page of all parameters: a table for each section of the schema."""
    from ecgforge.params import Params

    tables = [line for model, used in _places(Params, "").items() for line in _section(model, used)]
    return "\n".join([PARAMETERS, *tables, *_in_own_files()])


PARAMETERS = """# Parameters

This page is generated from the typed schema. `params.yaml` is the only source of parameters.
`ecgforge check` validates the file, and `ecgforge params` prints all values with their defaults.
Unknown keys and values out of range are errors.

Each section below lists the places where it is used. `<name>` stands for a name from `params.yaml`,
and `[]` for an entry of a list. A name starts with a lower-case letter and has lower-case letters,
digits and `_`.
"""


def _places(model: type[BaseModel], place: str) -> dict[type[BaseModel], list[str]]:
    """Return the places of a section and of all sections in it, by section."""
    places: dict[type[BaseModel], list[str]] = {}
    for key, found in _sections(model, place):
        places.setdefault(found, []).append(key)
    return places


def _sections(model: type[BaseModel], place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the place and the class of a section and of all sections in it."""
    yield place, model
    for name, field in model.model_fields.items():
        for inner, suffix in _models(field.annotation, ""):
            yield from _sections(inner, f"{place}.{name}".lstrip(".") + suffix)


def _models(annotation: Any, suffix: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the sections in a type, each with the end of its key."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation, suffix
    added = {dict: ".<name>", list: "[]"}.get(getattr(annotation, "__origin__", None), "")
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument, suffix + added)


def _section(model: type[BaseModel], places: list[str], title: str = "") -> list[str]:
    used = ", ".join(f"`{place}`" for place in dict.fromkeys(places) if place)
    head = [title or f"## {model.__name__}", "", *([f"Used at {used}.", ""] if used else [])]
    schema, comments = model.model_json_schema(), _comments(model)
    rows = [
        _row(
            f"`{key}`",
            _type(found),
            _default(found, key in schema.get("required", [])),
            found.get("description") or comments.get(key, ""),
        )
        for key, found in schema.get("properties", {}).items()
    ]
    table = [*_header("key", "value", "default", "meaning"), *rows, ""] if rows else []
    return [*head, inspect.getdoc(model) or "", "", *table]


def _header(*names: str) -> list[str]:
    return [_row(*names), _row(*("---" for _ in names))]


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"


def _default(found: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    default = found.get("default")
    if isinstance(default, dict) and default:
        return "the defaults of the section"
    return "none" if default in (None, {}, []) else f"`{default}`"


def _type(found: dict[str, Any]) -> str:
    """Describe a JSON schema in words."""
    if "$ref" in found:
        name = found["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if options := found.get("anyOf") or found.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(option) for option in options))
    if "const" in found or "enum" in found:
        return ", ".join(f"`{value}`" for value in found.get("enum", [found.get("const")]))
    if found.get("type") == "array":
        parts = found.get("prefixItems") or [found.get("items", {})]
        return re.sub(r"(name|integer|number)", r"\1s", f"list of {', '.join(map(_type, parts))}")
    if found.get("type") == "object":
        named = found.get("patternProperties", {}).values()
        inner = next(iter(named), found.get("additionalProperties"))
        return f"names, each with {_type(inner)}" if isinstance(inner, dict) else "keys and values"
    if "pattern" in found:
        return "name"
    limits = [text.format(found[name]) for name, text in BOUNDS.items() if name in found]
    return f"{WORDS.get(found.get('type', ''), 'any value')} {', '.join(limits)}".strip()


def _comments(model: type[BaseModel]) -> dict[str, str]:
    """Return the comment at the end of each field's line, or on the lines above it, by field."""
    found: dict[str, str] = {}
    bases = [one for one in model.__mro__ if issubclass(one, BaseModel) and one is not BaseModel]
    for base in reversed(bases):
        source = inspect.cleandoc(f"\n{inspect.getsource(base)}")
        tokens = tokenize.generate_tokens(StringIO(source).readline)
        comments = {one.start[0]: one.string for one in tokens if one.type == tokenize.COMMENT}
        for field in ast.walk(ast.parse(source)):
            if not isinstance(field, ast.AnnAssign):
                continue
            lines, above = [field.end_lineno or 0], field.lineno - 1
            while above in comments and source.splitlines()[above - 1].strip().startswith("#"):
                lines.insert(-1, above)
                above -= 1
            words = [comments[line].lstrip("# ") for line in sorted(lines) if line in comments]
            if words:
                found[ast.unparse(field.target)] = " ".join(words)
    return found


def _in_own_files() -> list[str]:
    """Describe the sections that a generator, backbone or sweep declares in its own file."""
    from ecgforge.classifiers.common.registry import CLASSIFIERS, classifier_class
    from ecgforge.generators.common.registry import GENERATORS, generator_class
    from ecgforge.sweeps.common.registry import SWEEPS, get

    lines = ["## Sections of generators, backbones and sweeps", "", OWN_FILES, ""]
    for name in GENERATORS:
        kind = generator_class(name)
        own = {"network": kind.Network, "sampling": kind.Sampling}
        lines += _own_sections(name, own, f"profiles.<name>.generators.{name}")
    for name in CLASSIFIERS:
        own = {"network": classifier_class(name).Network}
        lines += _own_sections(name, own, f"profiles.<name>.classifiers.{name}")
    for name in SWEEPS:
        model = get(name).Parameters
        if model.model_fields:
            lines += _own_sections(name, {name: model}, "profiles.<name>.sweeps")
    return lines


OWN_FILES = "Each generator, backbone and sweep declares these sections in its own file."


def _own_sections(name: str, own: dict[str, type[BaseModel]], place: str) -> list[str]:
    lines = [f"### {name}", ""]
    for key, model in own.items():
        for found, places in _places(model, f"{place}.{key}").items():
            title = f"#### {found.__name__} {{#{found.__name__.lower()}}}"
            if found is model:
                title = f"#### {place}.{key} {{#{name}-{key}}}".replace("profiles.<name>.", "")
            lines += _section(found, places, title)
    return lines


# Command line


def command_line() -> str:
    """Return the page of all commands."""
    import typer

    from ecgforge.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    pages = [line for name, command in commands.items() for line in _command(name, command)]
    return "\n".join([COMMANDS, *pages])


COMMANDS = """# Command line

This page is generated from the program. `ecgforge COMMAND --help` prints the same text.
"""


def _command(name: str, command: Any) -> list[str]:
    params = [param for param in command.params if param.name != "help"]
    usage = " ".join(["ecgforge", name, *map(_usage, params)])
    help_text = inspect.cleandoc(command.help or "")
    rows = [
        _row(
            ", ".join(f"`{name}`" for name in _names(param)),
            _shown_default(param),
            param.help or "",
        )
        for param in params
    ]
    table = [*_header("argument or option", "default", "meaning"), *rows] if rows else []
    return [f"## ecgforge {name}", "", help_text, "", "```", usage, "```", "", *table, ""]


def _shown_default(param: Any) -> str:
    if isinstance(param.show_default, str):
        return param.show_default
    unset = param.default is False or param.default == ""
    return _default({"default": None if unset else param.default}, param.required)


def _is_argument(param: Any) -> bool:
    return param.param_type_name == "argument"


def _names(param: Any) -> list[str]:
    return [param.metavar or param.name.upper()] if _is_argument(param) else param.opts


def _usage(param: Any) -> str:
    if _is_argument(param):
        text = _names(param)[0] + ("..." if param.nargs == -1 and not param.metavar else "")
    else:
        longest = max(param.opts, key=len)
        text = longest if param.is_flag else f"{longest} {param.name.upper()}"
    return text if param.required else f"[{text}]"


# Python API


def python_api() -> str:
    """Return the page of the public Python API; mkdocstrings fills it from the source files."""
    lines = [PYTHON]
    for heading, names in API.items():
        lines += [f"## {heading}", ""]
        for name in names:
            lines += [f"::: {_path(name)}", ""]
    return "\n".join(lines)


PYTHON = """# Python API

These classes and functions work without DVC and MLflow. Arrays are NumPy arrays or torch tensors.

The functions of the first section are names of `ecgforge`, such as `ecgforge.load_records`. So are
`ecgforge.RecordSet` and `ecgforge.EcgforgeError`. The first use of a name loads PyTorch. The
notebook `docs/notebooks/first_study.ipynb` shows the functions in a small study of some minutes. A
shorter example:

```python
import ecgforge

records = ecgforge.load_records("/path/to/records")
generator = ecgforge.train_generator(records, "diffwave")
synthetic = ecgforge.synthesize(generator, records, 100)
scores = ecgforge.score(records, synthetic)
real_only = [ecgforge.train_classifier(records, seed=seed) for seed in (0, 1, 2)]
mixed = [ecgforge.train_classifier(records, synthetic, seed=seed) for seed in (0, 1, 2)]
gain = ecgforge.compare(real_only, mixed, records)  # on test records, with intervals
```
"""


def _path(name: str) -> str:
    """Return the import path of a public class or function of the package."""
    found = [path for path in _defined() if path.endswith(f".{name}")]
    if not found:
        raise LookupError(f"docs/hooks.py: no file of the package defines {name}")
    return found[0]


@cache
def _defined() -> list[str]:
    """Return the import paths of all public classes and functions of the package."""
    paths = []
    for file in sorted((SOURCE / "ecgforge").rglob("*.py")):
        module = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                paths.append(f"{module}.{node.name}")
    return paths


# Stages


def stages() -> str:
    """Return the page of all stages in dvc.yaml."""
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    rows = [
        _row(
            f"`{name}`",
            stage.get("do", stage).get("desc", ""),
            "round" if "foreach" in stage else ", ".join(stage.get("matrix", {})) or "-",
            ", ".join(f"`{path}`" for path in _outputs(stage.get("do", stage))),
        )
        for name, stage in tree.items()
    ]
    return "\n".join([STAGES, *_header("stage", "result", "a cell for each", "writes"), *rows])


STAGES = """# Stages

This page is generated from `dvc.yaml`. A stage has a cell for each entry of its matrix. DVC runs a
cell again only if something that it depends on changed.
`dvc repro classify@ptbxl-diffwave` runs one cell with its dependencies.

The first stage writes the parameters of the profile in use with all defaults. The other stages
depend on single parameters. So a changed default in the code runs only the stages that use it.

A stage reads paths and writes paths. An output appears only when it is complete. The command of
each stage is on the page [Command line](command_line.md).
"""


def _outputs(stage: dict[str, Any]) -> Iterator[str]:
    """Yield the outputs of a stage, with `<name>` for the values of its matrix."""
    for entry in (one for key in ("outs", "metrics", "plots") for one in stage.get(key, [])):
        path = entry if isinstance(entry, str) else next(iter(entry))
        path = path.replace("${key}", "<round>")
        yield re.sub(r"\$\{(?:item\.)?(?:\w+\.)*(\w+)\}", r"<\1>", path)
