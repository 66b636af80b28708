"""The history of a model's champions: who changed it, when, why, and on what evidence.

Each change of champion is a tag of the registered model. Tags are added and never changed. MLflow
moves an alias without a record and without compare-and-set, so every change goes through `move`. It
writes the entry first. It sets the alias only if the champion is still the one that the decision
was based on, and if no other entry was written in the meantime. Of two simultaneous changes on a
server, at most one succeeds.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from filelock import FileLock

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import signing
from ecgforge.model_versions.versions import Version, find, versions
from ecgforge.tracking import store
from ecgforge.tracking.store import client, tolerating, with_retry

CHAMPION, FORMER, CHALLENGER = "champion", "former", "challenger"
# tag of a version that learned from a withdrawn patient; its value says from which record sets
WITHDRAWN = "withdrawn"
ENTRY = "history."
GATE = "gate."
PROMOTED, FORCED, ROLLED_BACK = "promoted", "forced", "rolled back"
# key of an entry: its number, and a random part that makes it unique
KEY = re.compile(r"history\.(\d{6})-[0-9a-f]{6}")


@dataclass(frozen=True)
class Entry:
    """One change of champion.

    Attributes:
        when: in UTC.
        who: the user name of git or of the operating system.
        action: `promoted`, `forced` or `rolled back`.
        version, former: the numbers of the new and the former champion; empty if there is none.
        reason: free text.
        evidence: path of the verdict, and its md5.
    """

    when: str
    who: str
    action: str
    version: str
    former: str
    reason: str
    evidence: str


def entries(name: str) -> list[Entry]:
    """Return all changes of champion of the model `name`, oldest first, without damaged entries."""
    return _entries(_model(name))


def _entries(model: Any) -> list[Entry]:
    return [entry for entry in map(_entry, _texts_of(model).values()) if entry]


def _entry(text: str) -> Entry | None:
    """Parse an entry; None if it is damaged."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict) or set(tree) != {field.name for field in fields(Entry)}:
        return None
    if not all(isinstance(value, str) for value in tree.values()):
        return None
    entry = Entry(**tree)
    return (
        entry
        if entry.version.isdecimal() and (entry.former.isdecimal() or not entry.former)
        else None
    )


def faults(name: str) -> list[str]:
    """Return messages about damaged entries, entries without effect, and unrecorded champions."""
    model = _model(name)
    found = _damaged(model)
    for entry, took_effect in _with_outcome(_entries(model), _champion(model)):
        if not took_effect:
            found.append(
                f"the entry of {entry.when} had no effect, version {entry.version} did not "
                "become champion: its process was killed, or another change came first"
            )
    return found + list(_manual_moves(model))


def damaged(name: str) -> list[str]:
    """Return messages about the entries that cannot be read; their versions are unknown."""
    return _damaged(_model(name))


def _damaged(model: Any) -> list[str]:
    found = [
        f"the tag {key} is not an entry: another program wrote it"
        for key in _tags(model)
        if not KEY.fullmatch(key)
    ]
    return found + [
        f"the entry {key.removeprefix(ENTRY)} is damaged and cannot be read"
        for key, text in _texts_of(model).items()
        if _entry(text) is None
    ]


def _manual_moves(model: Any) -> Iterator[str]:
    now, effective = _champion(model), ""
    for entry, took_effect in _with_outcome(_entries(model), now):
        effective = entry.version if took_effect else effective
    if now != effective:
        yield (
            f"champion is {now or 'not set'}, but the last entry does not say so: the alias "
            "was moved by other means"
        )


def ungated(name: str) -> bool:
    """Return whether the champion has no entry: it was set in MLflow's UI or by a client."""
    model = _model(name)
    return bool(_champion(model)) and any(_manual_moves(model))


def warn(name: str) -> None:
    """Print a one-line warning on stderr if the champion of `name` did not pass the gates."""
    import mlflow

    if mlflow.get_registry_uri() != store.configure():
        return  # MLflow loads the model in a process that uses another store
    if ungated(name):
        console.err.print(
            f"warning: version {champion(name)} of {name} was made champion by other means "
            f"than `ecgforge promote`, so no gate was checked: see `ecgforge history {name}`"
        )


def champion(name: str) -> str:
    """Return the number of the champion; empty if there is none."""
    return _champion(_model(name))


def _champion(model: Any) -> str:
    return str(dict(model.aliases).get(CHAMPION, ""))


def former(name: str) -> str:
    """Return the number of the champion before the present one; empty if there is none.

    Champions that were rolled back, and entries without effect, do not count.
    """
    line: list[str] = []
    model = _model(name)
    now = _champion(model)
    for entry, took_effect in _with_outcome(_entries(model), now):
        if not took_effect:
            continue
        # A champion that was set without `move` appears only in the next entry, or as the alias.
        line += [entry.former] if entry.former not in ("", *line[-1:]) else []
        if entry.action == ROLLED_BACK and line[-2:-1] == [entry.version]:
            line.pop()
        # A champion that is promoted again, to be signed, keeps its former champion.
        elif entry.version not in line[-1:]:
            line.append(entry.version)
    line += [now] if now not in line[-1:] else []
    return line[-2] if len(line) > 1 else ""


def _with_outcome(known: list[Entry], now: str) -> Iterator[tuple[Entry, bool]]:
    """Yield each entry with whether its version became champion.

    Consecutive entries with the same former champion were written concurrently, or follow an entry
    whose process was killed before it set the alias. So at most one of them took effect: the one
    with the champion that the next entry names as former, or, for the last entries, the present
    champion. If none of them has that version, the alias was moved by other means from an unknown
    version. The last of the entries then counts as the one that took effect.
    """
    rows = [list(row) for _, row in groupby(known, lambda entry: entry.former)]
    for row, after in zip(
        rows, [*(following[0].former for following in rows[1:]), now], strict=False
    ):
        by_them = [place for place, entry in enumerate(row) if entry.version == after]
        last = len(row) - 1 if after != row[0].former else None
        effective = by_them[-1] if by_them else last
        yield from ((entry, place == effective) for place, entry in enumerate(row))


def move(
    name: str,
    number: str,
    expected: str,
    action: str,
    reason: str,
    evidence: str,
    mark: Callable[[], None] | None = None,
) -> None:
    """Make version `number` champion, record the change, and sign the version if there are keys.

    Args:
        expected: the champion that the decision was based on; empty for none.
        mark: writes the tags of a champion; called just before the alias is set, if no other change
            came first.

    Raises:
        EcgforgeError: another version has become champion since, or another process moved the
            champion at the same time.
    """
    signing.ready()
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    entry = Entry(when, store.author(), action, number, expected, reason, evidence)
    with _alone(name):
        _check(name, expected)
        known = _texts(name)
        own = _write(name, known, entry)
        # This order is needed: a process that adds an entry after this check finds either our entry
        # or the champion that we set next.
        _check(name, expected)
        _check_undisturbed(name, {*known, own}, number)
        if mark:
            mark()
        signing.sign(find(f"{name}/{number}"), own)
        _set_aliases(name, number)
        _check(name, number)
        _check_undisturbed(name, {*known, own}, number)


def _write(name: str, known: Iterable[str], entry: Entry) -> str:
    """Add an entry after the `known` ones, and return its key, which is unique."""
    place = 1 + max((int(key.removeprefix(ENTRY).split("-")[0]) for key in known), default=0)
    key = f"{ENTRY}{place:06d}-{secrets.token_hex(3)}"
    with_retry(client().set_registered_model_tag, name, key, json.dumps(asdict(entry)))
    return key


def _set_aliases(name: str, number: str) -> None:
    """Make `number` champion, and give the alias `former` to the champion before, if it exists and
    did not learn from a withdrawn patient.

    The champion is no longer challenger.

    A process that is killed in between leaves no alias `former`, never a wrong one: `rollback` uses
    the entries.
    """
    registry = client()
    if CHALLENGER in find(f"{name}/{number}").aliases:
        with_retry(registry.delete_registered_model_alias, name, CHALLENGER)
    with_retry(registry.delete_registered_model_alias, name, FORMER)
    with_retry(registry.set_registered_model_alias, name, CHAMPION, number)
    before = former(name)
    marked = {version.number for version in versions(name) if WITHDRAWN in version.tags}
    if before and before not in marked:
        with tolerating("RESOURCE_DOES_NOT_EXIST"):
            with_retry(registry.set_registered_model_alias, name, FORMER, before)


def record(
    version: Version, tags: Mapping[str, str | None], description: str, files: Mapping[str, str]
) -> bool:
    """Show a verdict in MLflow's UI: tags and description of the version, and artifacts of its run.

    Args:
        tags: values by name; None removes a tag.
        files: texts of the artifacts by name.

    Returns:
        Whether the run still exists and has the artifacts.

    Raises:
        EcgforgeError: the artifacts of an existing run cannot be written; then nothing was written.
    """
    registry, run = client(), store.run(version.run_id)
    kept = run is not None and run.info.lifecycle_stage == "active"
    try:
        for name, text in files.items() if kept else ():
            with_retry(registry.log_text, version.run_id, text, name)
    except Exception as error:  # MLflow, its stores and the file system have many error classes
        raise EcgforgeError(
            f"the verdict on {version.label} cannot be written to run {version.run_id} "
            f"({' '.join(str(error).split())[:200]}): make its artifacts writable, and "
            "promote again"
        ) from error
    for key, value in tags.items():
        if value is None:
            with_retry(registry.delete_model_version_tag, version.name, version.number, key)
        else:
            with_retry(registry.set_model_version_tag, version.name, version.number, key, value)
    with_retry(registry.update_model_version, version.name, version.number, description)
    return kept


def _check(name: str, expected: str) -> None:
    now, before = _words(champion(name)), _words(expected)
    if now != before:
        raise EcgforgeError(
            f"{name}: champion is now {now}, but was {before} when this was decided; "
            f"look at `ecgforge history {name}` and decide again"
        )


def _check_undisturbed(name: str, known: Collection[str], number: str) -> None:
    """Check that entries other than the `known` ones all assume that `number` is champion."""
    others = [_entry(text) for key, text in _texts(name).items() if key not in known]
    for entry in others:
        if entry and entry.former != number:
            raise EcgforgeError(
                f"{name}: another promotion came first, of version {entry.version} by "
                f"{entry.who}; champion is now {_words(champion(name))}: look at `ecgforge "
                f"history {name}`, and promote again if another version should be champion"
            )


def _words(number: str) -> str:
    return f"version {number}" if number else "not set"


@contextmanager
def _alone(name: str) -> Iterator[None]:
    database = store.local_database()
    if database is None:
        yield
        return
    with FileLock(f"{database}.{name}.lock"):
        yield


def _texts(name: str) -> dict[str, str]:
    """Return the texts of the entries by key, oldest first."""
    return _texts_of(_model(name))


def _texts_of(model: Any) -> dict[str, str]:
    return {key: text for key, text in _tags(model).items() if KEY.fullmatch(key)}


def _tags(model: Any) -> dict[str, str]:
    """Return all tags with the key of an entry, sorted by key."""
    return {key: model.tags[key] for key in sorted(model.tags) if key.startswith(ENTRY)}


def _model(name: str) -> Any:
    """Return the registered model, read once: its aliases and tags are of the same moment."""
    return with_retry(client().get_registered_model, name)
