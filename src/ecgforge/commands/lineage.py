"""Print, draw and verify where a model version or a record set comes from."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import networkx
from rich.text import Text
from rich.tree import Tree

from ecgforge import console, outputs
from ecgforge.errors import EcgforgeError
from ecgforge.files import whole
from ecgforge.tracking import history, lineage, signing, store, versions
from ecgforge.tracking.content import Content
from ecgforge.tracking.lineage import Node

WIDTH, HEIGHT, ACROSS, DOWN, ARC = 250, 62, 340, 82, 80  # px: of a box, from box to box, and of a line below them


def show(reference: str, out: Path | None) -> None:
    """Print the lineage of a version, run, file or folder as a tree, and draw it to the SVG `out`."""
    if out:
        outputs.check_file(out, ".svg", re.compile(rb"<svg [^>]*>\s*<title>Lineage of "))
    store.ensure_reachable()
    node = lineage.trace(reference, Content())
    console.out.print(_branch(Tree(_words("", node), guide_style="dim"), node, {id(node)}))
    if out:
        with whole(out) as scratch:
            scratch.write_text(svg(node))
        console.out.print(f"Drawn to {out}")


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


def svg(node: Node) -> str:
    """Return a drawing of the lineage: what a thing was made from stands to its right, and the part that it played on the line."""
    graph = networkx.DiGraph([(id(one), id(other)) for one in node.all() for _, other in one.made_from])
    graph.add_node(id(node))
    depth = {place: column for column, row in enumerate(networkx.topological_generations(graph)) for place in row}
    places: dict[int, tuple[int, int]] = {}
    rows: dict[int, int] = {}
    for other in node.all():
        column = depth[id(other)]
        places[id(other)] = (20 + ACROSS * column, 20 + DOWN * rows.get(column, 0))
        rows[column] = rows.get(column, 0) + 1
    lines, boxes = [], []
    for one in node.all():
        x, y = places[id(one)]
        boxes.append(_box(x, y, one))
        lines += [_line(x, y, *places[id(other)], role) for role, other in one.made_from]
    width, height = ACROSS * len(rows) - ACROSS + WIDTH + 40, DOWN * max(rows.values()) + ARC
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
    title = f"<title>Lineage of {escape(node.name)}</title>"
    return "\n".join([head, title, f'<rect width="{width}" height="{height}" fill="white"/>', *lines, *boxes, "</svg>"]) + "\n"


def _line(x: int, y: int, right: int, down: int, role: str) -> str:
    """A line from box to box; one that passes others goes below them."""
    if right - x == ACROSS:
        way = f"M{x + WIDTH} {y + HEIGHT / 2} L{right} {down + HEIGHT / 2}"
        place = f'x="{right - 6}" y="{down + HEIGHT / 2 - 6}" text-anchor="end"'
    else:
        low = max(y, down) + HEIGHT + ARC
        way = f"M{x + WIDTH / 2} {y + HEIGHT} C{x + WIDTH / 2} {low} {right + WIDTH / 2} {low} {right + WIDTH / 2} {down + HEIGHT}"
        place = f'x="{(x + right + WIDTH) / 2}" y="{low - ARC / 3}" text-anchor="middle"'
    return f'<path d="{way}" stroke="#888" fill="none"/><text {place} font-style="italic" fill="#555">{escape(role)}</text>'


def _box(x: int, y: int, node: Node) -> str:
    facts = [node.facts.get(name, "") for name in ("alias", "setting", "origin", "commit", "version", "content")]
    texts = [
        f"{node.kind} {node.name}"[:44],
        f"md5 {node.digest[:12]}" if node.digest else "",
        ", ".join(fact for fact in facts if fact)[:46],
    ]
    colour = "#c00" if node.lost else "#357"
    rows = "".join(
        f'<text x="{x + 8}" y="{y + 18 + 17 * row}"{" font-weight=" + chr(34) + "bold" + chr(34) if not row else ""}>{escape(text)}</text>'
        for row, text in enumerate(texts)
    )
    whole_text = escape("\n".join(f"{key}: {value}" for key, value in node.facts.items()))
    rect = f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#f4f7fa" stroke="{colour}"/>'
    return f"<g><title>{whole_text}</title>{rect}{rows}</g>"


def verify(references: list[str]) -> None:
    """Recompute every digest in the lineage of each reference, or of each aliased version, and print what is where.

    Raises:
        EcgforgeError: something no longer matches, or is no longer available.
    """
    store.ensure_reachable()
    content = Content()
    walker = lineage.Walker(content)
    chosen = [lineage.trace(one, content) for one in references] or [walker.version(one) for one in lineage.aliased()]
    if not chosen:
        raise EcgforgeError("no version has an alias yet: name a version, run, file or folder to verify")
    for name in sorted({one.version.name for one in chosen if one.version and history.CHAMPION in one.version.aliases}):
        history.warn(name)
    seen, lost = set(), []
    for node in (node for one in chosen for node in one.all()):
        key = (node.kind, node.name, node.digest)
        if key not in seen:
            seen.add(key)
            found, fine = _found(node, content)
            lost += [] if fine else [node.name]
            digest = f" {node.digest}" if node.digest else ""
            line = f"{'ok   ' if fine else 'LOST '}{node.kind} {node.name}{digest}: {found}"
            console.out.print(line, style=None if fine else "red")
    if lost:
        raise EcgforgeError(f"{len(lost)} of {len(seen)} do not match or are no longer available: {', '.join(lost)}")


def _found(node: Node, content: Content) -> tuple[str, bool]:
    if node.version:
        try:
            signed = signing.asked(node.version)
            with signing.files(node.version) if signed else versions.files(node.version):
                return f"in the registry, as registered{' and signed' if signed else ''}", True
        except EcgforgeError as error:
            return str(error), False
    if node.kind in ("run", "generator"):
        facts = [node.facts[name] for name in ("run", "commit", "version") if name in node.facts]
        return "; ".join(facts), not node.lost
    if not node.digest:
        return "named by the stage's record", True
    return content.place(node.digest, node.path)
