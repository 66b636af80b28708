"""Print, draw and verify the lineage of a model version or a record set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rich.text import Text
from rich.tree import Tree

from ecgforge import console, outputs
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.model_versions import history, signing, versions
from ecgforge.provenance import lineage
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.provenance.lineage import Node
from ecgforge.tracking import store

ITEM = ("kind", "name", "digest", "found", "verified")  # what `verify` says of each artefact
SUFFIX, WRITTEN = ".mmd", re.compile(rb"%% Lineage of ")  # of a flowchart file, and its first bytes


def show(reference: str, out: Path | None, crate: Path | None = None) -> None:
    """Print the lineage of a version, run, file or folder as a tree.

    Args:
        reference: the version, run, file or folder.
        out: a file for the lineage as a Mermaid flowchart.
        crate: a new folder for the provenance of a version as an RO-Crate.

    Raises:
        EcgforgeError: there is no such thing, or an output cannot be written; see `sharing.crate`.
    """
    if out:
        outputs.check_file(out, SUFFIX, WRITTEN)
    if crate:
        outputs.refuse(crate)
    if crate and crate.exists():
        raise EcgforgeError(f"{crate} exists already: name a new folder")
    store.ensure_reachable()
    content = DvcStore()
    node = lineage.trace(reference, content)
    if crate and not node.version:
        raise EcgforgeError(
            f"{reference} is not a version, and --crate describes one: name@alias or name/number"
        )
    console.out.print(_branch(Tree(_words("", node), guide_style="dim"), node, {id(node)}))
    console.report(reference=reference, nodes=_nodes(node))
    if out:
        with atomic_write(out) as scratch:
            scratch.write_text(mermaid(node), encoding="utf-8")
        console.out.print(f"Flowchart written to {out}")
    if crate:
        from ecgforge.sharing import crate as ro_crate

        with atomic_write(crate) as scratch:
            ro_crate.write(node, content.root, mermaid(node), scratch)
        console.out.print(f"RO-Crate written to {crate}")


def _branch(tree: Tree, node: Node, shown: set[int]) -> Tree:
    for key, value in node.facts.items():
        tree.add(Text.assemble((f"{key}:", "dim"), f" {console.shown(value)}"))
    for role, other in node.made_from:
        if id(other) in shown:
            tree.add(_title(role, other).append(" (above)"))
        else:
            shown.add(id(other))
            _branch(tree.add(_words(role, other)), other, shown)
    return tree


def _words(role: str, node: Node) -> Text:
    title = _title(role, node)
    return title.append(f"\nmd5: {node.digest}", "dim") if node.digest else title


def _title(role: str, node: Node) -> Text:
    name = (f"{node.kind} {console.shown(node.name)}", "red" if node.lost else "bold")
    return Text.assemble((role, "italic"), ": ", name) if role else Text.assemble(name)


def _nodes(node: Node) -> list[dict[str, Any]]:
    """Return the node and all behind it; `made_from` has their positions in the list, and roles."""
    nodes = list(node.all())
    places = {id(one): place for place, one in enumerate(nodes)}
    return [
        {
            "kind": one.kind,
            "name": one.name,
            "digest": one.digest,
            "path": one.path,
            "lost": one.lost,
            "facts": one.facts,
            "made_from": [
                {"role": role, "node": places[id(other)]} for role, other in one.made_from
            ],
        }
        for one in nodes
    ]


def mermaid(node: Node) -> str:
    """Return the lineage as a Mermaid flowchart.

    Each arrow points from an artefact to one of its inputs; its label is the input's role.
    """
    lines = [
        f"%% Lineage of {' '.join(node.name.split())}",
        "flowchart LR",
        "    classDef lost stroke:#c00,color:#c00",
    ]
    ids = {id(one): f"n{number}" for number, one in enumerate(node.all())}
    for one in node.all():
        lines.append(f'    {ids[id(one)]}["{_label(one)}"]{":::lost" if one.lost else ""}')
    for one in node.all():
        for role, other in one.made_from:
            lines.append(f'    {ids[id(one)]} -- "{_escaped(role)}" --> {ids[id(other)]}')
    return "\n".join(lines) + "\n"


def _label(node: Node) -> str:
    shown = ("alias", "setting", "origin", "commit", "version", "content")
    facts = [node.facts.get(name, "") for name in shown]
    digest = f"md5 {node.digest[:12]}" if node.digest else ""
    lines = [f"{node.kind} {node.name}", digest, ", ".join(fact for fact in facts if fact)]
    return "<br>".join(_escaped(line) for line in lines if line)


def _escaped(text: str) -> str:
    """Return text on one line, with special characters of Mermaid and HTML as entities."""
    entities = {ord(character): f"#{ord(character)};" for character in '#"<>&;`'}
    return " ".join(text.split()).translate(entities)


def verify(references: list[str]) -> None:
    """Check every digest in the lineage of each reference, and print the results.

    Args:
        references: versions, runs, files or folders; all versions with an alias if empty.

    Raises:
        EcgforgeError: an artefact does not match its digest, or is no longer available.
    """
    store.ensure_reachable()
    content = DvcStore()
    walker = lineage.Walker(content)
    chosen = [lineage.trace(one, content) for one in references] or [
        walker.version(one) for one in lineage.aliased()
    ]
    if not chosen:
        raise EcgforgeError(
            "no version has an alias yet: give a version, run, file or folder to verify"
        )
    for name in sorted(
        {
            one.version.name
            for one in chosen
            if one.version and history.CHAMPION in one.version.aliases
        }
    ):
        history.warn(name)
    seen, lost, items = set(), [], []
    for node in (node for one in chosen for node in one.all()):
        key = (node.kind, node.name, node.digest)
        if key not in seen:
            seen.add(key)
            found, fine = _found(node, content)
            lost += [] if fine else [node.name]
            items.append(dict(zip(ITEM, (*key, found, fine), strict=True)))
            digest = f" {node.digest}" if node.digest else ""
            line = f"{'ok   ' if fine else 'LOST '}{node.kind} {node.name}{digest}: {found}"
            console.out.print(line, style=None if fine else "red")
    console.report(items=items, verified=not lost)
    if lost:
        raise EcgforgeError(
            f"{len(lost)} of {len(seen)} do not match or are no longer available: {', '.join(lost)}"
        )
    console.out.print(f"All {len(seen)} match.")


def _found(node: Node, content: DvcStore) -> tuple[str, bool]:
    if node.version:
        try:
            signed = signing.required(node.version)
            with signing.files(node.version) if signed else versions.files(node.version):
                return f"in the registry, as registered{' and signed' if signed else ''}", True
        except EcgforgeError as error:
            return str(error), False
    if node.kind in ("run", "generator"):
        facts = [node.facts[name] for name in ("run", "commit", "version") if name in node.facts]
        return "; ".join(facts), not node.lost
    if not node.digest:
        return "listed in the stage's record", True
    return content.place(node.digest, node.path)
