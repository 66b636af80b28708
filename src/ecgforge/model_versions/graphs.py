"""Check archives of exported graphs (`pt2`) without loading them.

`torch.export.load` unpickles what the archive's configuration names, evaluates tensor sizes and
guards as Python, and looks up operators in all of torch. So an archive may only have the forms that
the export of an ecgforge network has.
"""

from __future__ import annotations

import ast
import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEMBER = re.compile(
    r"(model|archive)/(data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json|archive_format|archive_version|\.data/version|byteorder|\.data/serialization_id)"
)
TENSORS = re.compile(
    r"\w+/(data\.pkl|data/\d+|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
PICKLED = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)"
)
# opcodes that reach a class in another way than GLOBAL
OPCODES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
WORD = re.compile(r"[\w.+]*")
# texts that torch only displays, or passes to an operator unchanged
FREE = {"stack_trace", "nn_module_stack", "torch_fn", "as_string"}
OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.sym_\w+|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|getitem)"
)
SYMBOL = re.compile(r"Symbol\('[a-z]+\d+'(, [a-z]+=(True|False))*\)")
SIZES = {
    "Integer",
    "Float",
    "Rational",
    "Mul",
    "Add",
    "Pow",
    "Mod",
    "FloorDiv",
    "CeilDiv",
    "Max",
    "Min",
    "ModularIndexing",
}
ARITHMETIC = (
    ast.Expression,
    ast.Load,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.BoolOp,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.boolop,
)


def faults(file: Path) -> Iterator[str]:
    """Yield the parts of the archive that no export of an ecgforge network has, without loading it.

    An archive that cannot be read is a fault.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            yield from _members(archive, MEMBER)
            for name in archive.namelist():
                yield from (f"{fault} in {name}" for fault in _member(name, archive.read(name)))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        zipfile.BadZipFile,
    ) as error:
        yield f"it cannot be read ({' '.join(str(error).split())[:100]})"


def _members(archive: zipfile.ZipFile, allowed: re.Pattern[str]) -> Iterator[str]:
    names = archive.namelist()
    yield from (f"the member {name}" for name in names if not allowed.fullmatch(name))
    # Readers of zip files disagree about duplicate members and comments.
    if len({name.lower() for name in names}) < len(names) or archive.comment:
        yield "a duplicate member, or a comment"
    yield from (
        f"{info.filename} is compressed"
        for info in archive.infolist()
        if info.compress_type != zipfile.ZIP_STORED
    )


def _member(name: str, content: bytes) -> Iterator[str]:
    if name.endswith("/model.pt"):
        yield from _tensors(content)
    elif name.endswith("/model.json"):
        yield from _graph(json.loads(content), "")
    elif name.endswith("_config.json"):
        for entry in json.loads(content)["config"].values():
            if entry["use_pickle"] is not False or not re.fullmatch(
                r"(weight|tensor)_\d+", entry["path_name"]
            ):
                yield f"a pickled {str(entry['path_name'])[:60]}"


def _tensors(content: bytes) -> Iterator[str]:
    """Yield what a `torch.save` file holds besides tensors; its pickle is parsed, not executed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        yield from _members(archive, TENSORS)
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            yield "no pickle of tensors, or several"
        for opcode, argument, _ in (
            step for name in pickles for step in pickletools.genops(archive.read(name))
        ):
            if opcode.name in OPCODES or (
                opcode.name == "GLOBAL" and not PICKLED.fullmatch(str(argument))
            ):
                yield f"a pickle that calls {argument or opcode.name}"


def _graph(tree: Any, key: str) -> Iterator[str]:
    """Yield the parts of a graph's description that are not names, numbers or known operators.

    Args:
        key: the key of `tree` in its parent.
    """
    if isinstance(tree, dict):
        yield from (f"the key {str(name)[:60]!r}" for name in tree if not WORD.fullmatch(name))
        for name, value in tree.items():
            yield from _graph(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from _graph(value, key)
    elif isinstance(tree, str) and not _fits(tree, key):
        yield f"{key} = {tree[:60]!r}"


def _fits(text: str, key: str) -> bool:
    if key in FREE:
        return True
    if key in ("target", "as_operator"):
        return bool(OPERATOR.fullmatch(text))
    if key == "expr_str":
        return _computes(SYMBOL.sub("s0", text), _is_size)
    if key == "guards_code":
        return _computes(text, _is_guard)
    if key in ("in_spec", "out_spec"):
        return _is_structure(json.loads(text))
    return bool(WORD.fullmatch(text))


def _computes(text: str, allowed: Any) -> bool:
    """Return whether `text` is arithmetic of constants, names and nodes that `allowed` accepts."""
    try:
        return all(
            isinstance(node, ARITHMETIC) or allowed(node)
            for node in ast.walk(ast.parse(text, mode="eval"))
        )
    except SyntaxError:
        return False


def _is_size(node: ast.AST) -> bool:
    """Return whether a node is a tensor size: SymPy functions by name, of numbers and symbols.

    A node with text would be rejected: SymPy could evaluate the text.
    """
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in SIZES and not node.keywords
    if isinstance(node, ast.Name):
        return node.id in SIZES or re.fullmatch(r"[a-z]+\d+", node.id) is not None
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _is_guard(node: ast.AST) -> bool:
    """Return whether a node reads the size of an input: `L['signals'].size()[0]`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and not node.args and not node.keywords
    if isinstance(node, ast.Attribute):
        return node.attr == "size"
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or node.value.isidentifier()
    return isinstance(node, ast.Subscript) or (isinstance(node, ast.Name) and node.id == "L")


def _is_structure(tree: Any) -> bool:
    """Return whether inputs nest in tuples, lists and dictionaries only, in torch's notation."""
    if isinstance(tree, list):
        return all(_is_structure(one) for one in tree)
    if not isinstance(tree, dict):
        return isinstance(tree, int)
    context = json.loads(tree["context"] or "null") or []  # the keys of a dictionary
    named = isinstance(context, list) and all(
        isinstance(name, str) and name.isidentifier() for name in context
    )
    known = tree["type"] in (None, "builtins.tuple", "builtins.list", "builtins.dict")
    return named and known and _is_structure(tree["children_spec"])
