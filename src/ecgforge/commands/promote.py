"""Promote a version to champion, roll back, and print the champion history."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import history, signing, versions
from ecgforge.params import Params
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.registry import promotion
from ecgforge.tracking import store


def promote(
    params: Params,
    name: str,
    number: str | None,
    best: bool,
    dry_run: bool,
    force: bool,
    reason: str,
) -> None:
    """Check a version by the gates, print the results, and make it champion if it passes.

    Args:
        params: the parameters.
        name: the registered model.
        number: the version, or None to choose it.
        best: choose the best version.
        dry_run: only print; write nothing.
        force: promote a version that fails gates.
        reason: kept in the history; required with `force`.

    Raises:
        EcgforgeError: the version fails, or cannot be checked; see `registry.promotion`.
    """
    if force and not reason.strip():
        raise EcgforgeError("--force needs a --reason, which the history keeps")
    store.ensure_reachable()
    if not dry_run:
        signing.ready()
    content = DvcStore()
    version = promotion.choose(name, number, best, content)
    history.warn(name)
    verdict = promotion.judge(params, version, content)
    label = verdict.version.label
    _print(verdict)
    console.report(
        version=label,
        against=verdict.against,
        test=verdict.test,
        gates=[asdict(gate) for gate in verdict.gates],
        passed=verdict.passed,
        failed=verdict.failed,
        dry_run=dry_run,
        promoted=False,
    )
    if dry_run:
        console.out.print(
            f"{label} would {'' if verdict.passed else 'not '}be made champion; "
            "nothing was written."
        )
        return
    verdict = promotion.promote(verdict, content, force, reason)
    console.out.print(
        f"{label} is "
        f"champion{' by force' if 'forced' in verdict.version.tags and not verdict.passed else ''}."
    )
    card = promotion.card_path(content.root, verdict.version).relative_to(content.root)
    console.report(promoted=True, forced="forced" in verdict.version.tags, card=card)
    console.out.print(f"Model card: {card}")


def _print(verdict: promotion.Verdict) -> None:
    table = Table(title=f"{verdict.version.label} against {verdict.against}", title_justify="left")
    for heading in ("gate", "value", "bound", "passed"):
        table.add_column(heading, overflow="fold")
    for gate in verdict.gates:
        cells = (gate.name, gate.value, gate.bound, "yes" if gate.passed else "NO")
        table.add_row(
            *(console.shown(cell) for cell in cells), style=None if gate.passed else "red"
        )
    console.out.print(table)
    for gate in verdict.gates:
        if gate.detail and not gate.passed:
            console.out.print(f"{gate.name}: {gate.detail}")


def rollback(name: str, reason: str) -> None:
    """Make the former champion of `name` champion again."""
    store.ensure_reachable()
    signing.ready()
    if versions.versions(name):
        history.warn(name)
    gone, back = promotion.rollback(name, reason)
    console.out.print(f"{name}: version {back} is champion again, version {gone} no longer.")


def show(name: str) -> None:
    """Print the champion history of `name`: time, user, version, reason and evidence of each entry,
    and its faults.
    """
    if not versions.versions(name):
        raise EcgforgeError(f"no model is registered as '{name}'")
    entries, faults = history.entries(name), history.faults(name)
    console.report(
        name=name,
        champion=history.champion(name),
        entries=[asdict(entry) for entry in entries],
        faults=faults,
    )
    for entry in entries:
        former = f"version {entry.former}" if entry.former else "nobody"
        why = f": {entry.reason}" if entry.reason else ""
        console.out.print(
            f"{entry.when} UTC, {entry.who}: version {entry.version} {entry.action}, after "
            f"{former}{why}"
        )
        console.out.print(f"    {entry.evidence}", style="dim")
    if not entries:
        console.out.print(f"No version of {name} has been promoted.")
    for fault in faults:
        console.out.print(fault, style="red")
