"""Who made which version champion, when, why, and on what evidence.

Each change of champion is a tag of the registered model; tags are added and never changed. MLflow
moves aliases without a record and without compare-and-set, so every change goes through `move`: it
writes the entry first, and sets the alias only if the champion is still the one that the change was
judged against and no other entry was written. Of two at once on a server, one at least gives up.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import groupby

from filelock import FileLock

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import signing
from ecgforge.model_versions.versions import Version, find
from ecgforge.tracking import store
from ecgforge.tracking.store import client, git, tolerating, with_retry

CHAMPION, FORMER = "champion", "former"
ENTRY = "history."
GATE = "gate."
PROMOTED, FORCED, ROLLED_BACK = "promoted", "forced", "rolled back"
# of an entry: its place among them, and what makes it unique
KEY = re.compile(r"history\.(\d{6})-[0-9a-f]{6}")


@dataclass(frozen=True)
class Entry:
    """One change of champion.

    Attributes:
        when: UTC.
        who: as git knows them, or the machine.
        action: `promoted`, `forced` or `rolled back`.
        version, former: the numbers of the new champion and the one before; empty where there is
            none.
        reason: in words.
        evidence: where the verdict is, and its md5.
    """

    when: str
    who: str
    action: str
    version: str
    former: str
    reason: str
    evidence: str


def entries(name: str) -> list[Entry]:
    """Return all changes of champion of the registered model `name`, oldest first; those that are
    damaged are left to `faults`.
    """
    return [entry for entry in map(_entry, _texts(name).values()) if entry]


def _entry(text: str) -> Entry | None:
    """Read an entry; None where it is damaged."""
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
    """Say which entries are damaged or had no effect, and whether the champion is one that no entry
    made.
    """
    found = damaged(name)
    for entry, took_effect in _with_outcome(entries(name), champion(name)):
        if not took_effect:
            found.append(
                f"the entry of {entry.when} had no effect, version {entry.version} did not become "
                "champion: "
                "its process was killed, or another came in between"
            )
    return found + list(_moved_by_hand(name))


def damaged(name: str) -> list[str]:
    """Say which entries cannot be read: which versions they name is not known."""
    found = [
        f"the tag {key} is no entry: something else wrote it"
        for key in _tags(name)
        if not KEY.fullmatch(key)
    ]
    texts = _texts(name).items()
    return found + [
        f"the entry {key.removeprefix(ENTRY)} is damaged and cannot be read"
        for key, text in texts
        if _entry(text) is None
    ]


def _moved_by_hand(name: str) -> Iterator[str]:
    now, effective = champion(name), ""
    for entry, took_effect in _with_outcome(entries(name), now):
        effective = entry.version if took_effect else effective
    if now != effective:
        yield (
            f"champion is {now or 'nobody'}, which the last entry does not say: the alias was "
            "moved by other means"
        )


def ungated(name: str) -> bool:
    """Whether there is a champion that no entry made: set in MLflow's UI or by a client, past the
    gates.
    """
    return bool(champion(name)) and any(_moved_by_hand(name))


def warn(name: str) -> None:
    """Say on stderr, in one line, that the champion of `name` was set past the gates, if it was."""
    import mlflow

    if mlflow.get_registry_uri() != store.configure():
        return  # a process that loads a model with MLflow, from a store of its own
    if ungated(name):
        console.err.print(
            f"warning: version {champion(name)} of {name} was made champion by other means than "
            "`ecgforge promote`, so no gate was asked: "
            f"see `ecgforge history {name}`"
        )


def author() -> str:
    """Return who acts: as git knows them, or the machine, or by number where the machine has no
    name for them.
    """
    try:
        return git(store.project_root(), "config", "user.name") or getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}"


def champion(name: str) -> str:
    """Return the number of the champion, empty where there is none."""
    return str(dict(with_retry(client().get_registered_model, name).aliases).get(CHAMPION, ""))


def former(name: str) -> str:
    """Return the number of the champion before the present one, empty where there is none;
    rolled-back ones do not count, nor do those that never were.
    """
    line: list[str] = []
    now = champion(name)
    for entry, took_effect in _with_outcome(entries(name), now):
        if not took_effect:
            continue
        # Whoever became champion by other means than `move` is known from the next entry alone, and
        # now from the alias.
        line += [entry.former] if entry.former not in ("", *line[-1:]) else []
        if entry.action == ROLLED_BACK and line[-2:-1] == [entry.version]:
            line.pop()
        # a champion that was promoted once more, to be signed, has the same one before it
        elif entry.version not in line[-1:]:
            line.append(entry.version)
    line += [now] if now not in line[-1:] else []
    return line[-2] if len(line) > 1 else ""


def _with_outcome(known: list[Entry], now: str) -> Iterator[tuple[Entry, bool]]:
    """Yield each entry with whether its version became champion.

    Entries in a row with one and the same former champion were decided against it all: by several
    at once, or after one that was killed between writing its entry and setting the alias. So at
    most one of them took effect, that of the champion after them: who the next entry says it was,
    or who it is now. If that is none of theirs, it is known that the alias was moved by other
    means, and not from whom: the last of them is taken for it.
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
    """Make version `number` champion, write it down, and sign it where the project has keys.

    Args:
        expected: the champion that this was decided against, empty for none.
        mark: writes what must be known of a version that is champion; called when nobody came in
            between, just before it is.

    Raises:
        EcgforgeError: another version has become champion since, or someone else moved the champion
            at the same time.
    """
    signing.ready()
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    entry = Entry(when, author(), action, number, expected, reason, evidence)
    with _alone(name):
        _check(name, expected)
        known = _texts(name)
        own = _write(name, known, entry)
        # In this order: whoever writes an entry after this look finds ours, or else the champion
        # that we are about to set.
        _check(name, expected)
        _check_undisturbed(name, {*known, own}, number)
        if mark:
            mark()
        signing.sign(find(f"{name}/{number}"), own)
        _set_aliases(name, number)
        _check(name, number)
        _check_undisturbed(name, {*known, own}, number)


def _write(name: str, known: Iterable[str], entry: Entry) -> str:
    """Add an entry behind those that are `known`, and return its key, which no other process
    writes.
    """
    place = 1 + max((int(key.removeprefix(ENTRY).split("-")[0]) for key in known), default=0)
    key = f"{ENTRY}{place:06d}-{secrets.token_hex(3)}"
    with_retry(client().set_registered_model_tag, name, key, json.dumps(asdict(entry)))
    return key


def _set_aliases(name: str, number: str) -> None:
    """Make `number` champion and the one before former, if that version is still there.

    Who is stopped within leaves no former, never a wrong one: `rollback` goes by the entries.
    """
    registry = client()
    with_retry(registry.delete_registered_model_alias, name, FORMER)
    with_retry(registry.set_registered_model_alias, name, CHAMPION, number)
    before = former(name)
    if before:
        with tolerating("RESOURCE_DOES_NOT_EXIST"):
            with_retry(registry.set_registered_model_alias, name, FORMER, before)


def record(
    version: Version, tags: Mapping[str, str | None], description: str, files: Mapping[str, str]
) -> bool:
    """Put a verdict where MLflow's UI shows it: tags and description of the version, and artifacts
    of its run, texts by name.

    Args:
        tags: None for one that goes.

    Returns:
        Whether the run is still there to keep the artifacts.

    Raises:
        EcgforgeError: it is, and they cannot be written; nothing else was then.
    """
    registry, run = client(), store.run(version.run_id)
    kept = run is not None and run.info.lifecycle_stage == "active"
    try:
        for name, text in files.items() if kept else ():
            with_retry(registry.log_text, version.run_id, text, name)
    except Exception as error:  # of MLflow, its stores and the file system
        raise EcgforgeError(
            f"what the gates said of {version.label} cannot be written to run {version.run_id} "
            f"({' '.join(str(error).split())[:200]}): "
            "see that its artifacts can be written, and promote again"
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
            f"{name}: champion is {now} by now and no longer {before}, since someone else moved "
            f"it; look at `ecgforge history {name}` and "
            "decide again"
        )


def _check_undisturbed(name: str, known: Collection[str], number: str) -> None:
    """Check that nobody wrote an entry beside those `known` but on the ground that version `number`
    is champion.
    """
    others = [_entry(text) for key, text in _texts(name).items() if key not in known]
    for entry in others:
        if entry and entry.former != number:
            raise EcgforgeError(
                f"{name}: another promotion came in between, of version {entry.version} by "
                f"{entry.who}; champion is "
                f"{_words(champion(name))} now: look at `ecgforge history {name}`, and promote "
                "again if that is not the one to stay"
            )


def _words(number: str) -> str:
    return f"version {number}" if number else "nobody"


@contextmanager
def _alone(name: str) -> Iterator[None]:
    database = store.local_database()
    if database is None:
        yield
        return
    with FileLock(f"{database}.{name}.lock"):
        yield


def _texts(name: str) -> dict[str, str]:
    """The entries by key, oldest first."""
    return {key: text for key, text in _tags(name).items() if KEY.fullmatch(key)}


def _tags(name: str) -> dict[str, str]:
    """All tags that are named as entries are, sorted."""
    tags = with_retry(client().get_registered_model, name).tags
    return {key: tags[key] for key in sorted(tags) if key.startswith(ENTRY)}
