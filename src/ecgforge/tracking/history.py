"""Who made which version champion, when, why, and on what evidence: tags of the registered model, to which entries are only added.

MLflow moves aliases silently, without history and without compare-and-set. So every move goes through `move`: one at a time where the store
is a file of this machine, and everywhere only as long as the champion is the one that the move was judged against.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from filelock import FileLock

from ecgforge.errors import EcgforgeError
from ecgforge.tracking import store
from ecgforge.tracking.content import git
from ecgforge.tracking.store import client, patiently
from ecgforge.tracking.versions import Version

CHAMPION, FORMER = "champion", "former"
ENTRY = "history."
GATE = "gate."
PROMOTED, FORCED, ROLLED_BACK = "promoted", "forced", "rolled back"
START = "start"


@dataclass(frozen=True)
class Entry:
    """One change of champion.

    Attributes:
        when: UTC.
        who: as git knows them, or the machine.
        action: `promoted`, `forced` or `rolled back`.
        version, former: the numbers of the new champion and the one before; empty where there is none.
        reason: in words.
        evidence: where the verdict is, and its md5.
        after: md5 of the entry before, so that one that was removed or changed shows.
    """

    when: str
    who: str
    action: str
    version: str
    former: str
    reason: str
    evidence: str
    after: str


def entries(name: str) -> list[Entry]:
    """Return all changes of champion of the registered model `name`, oldest first."""
    return [Entry(**json.loads(text)) for text in _texts(name)]


def faults(name: str) -> list[str]:
    """Say what does not fit: entries that were removed, changed or written at the same time, and a champion that none of them made."""
    found, last = [], START
    for text in _texts(name):
        entry = Entry(**json.loads(text))
        if entry.after != last:
            found.append(f"the entry of {entry.when} does not follow the one before it: one was removed, changed, or written at once")
        last = _digest(text)
    known, now = entries(name), champion(name)
    undone = [entry for entry, after in _with_outcome(known, now) if after == entry.former]
    for entry in undone:
        found.append(f"the entry of {entry.when} had no effect, version {entry.version} did not become champion: its process was killed")
    if now != ["", *(entry.version for entry in known if entry not in undone)][-1]:
        found.append(f"champion is {now or 'nobody'}, which the last entry does not say: the alias was moved by other means")
    return found


def champion(name: str) -> str:
    """Return the number of the champion, empty where there is none."""
    return str(dict(patiently(client().get_registered_model, name).aliases).get(CHAMPION, ""))


def former(name: str) -> str:
    """Return the number of the champion before the present one, empty where there is none; rolled-back ones do not count, nor do those
    that never were."""
    line: list[str] = []
    now = champion(name)
    for entry, after in _with_outcome(entries(name), now):
        if after == entry.former:
            continue
        # Whoever became champion by other means than `move` is known from the next entry alone, and now from the alias.
        line += [entry.former] if entry.former not in ("", *line[-1:]) else []
        if entry.action == ROLLED_BACK and line[-2:-1] == [entry.version]:
            line.pop()
        else:
            line.append(entry.version)
    line += [now] if now not in line[-1:] else []
    return line[-2] if len(line) > 1 else ""


def _with_outcome(known: list[Entry], now: str) -> Iterator[tuple[Entry, str]]:
    """Yield each entry with the champion after it: who the next entry says it was, or who it is now. Where that is still the former one,
    the process was killed between writing the entry and setting the alias."""
    return zip(known, [*(entry.former for entry in known[1:]), now], strict=False)


def move(name: str, number: str, expected: str, action: str, reason: str, evidence: str) -> None:
    """Make version `number` champion and write it down.

    Args:
        expected: the champion that this was decided against, empty for none.

    Raises:
        EcgforgeError: another version has become champion since.
    """
    registry = client()
    with _alone(name):
        _check(name, expected)
        texts = _texts(name)
        who = git(store.project_root(), "config", "user.name") or getpass.getuser()
        now = datetime.now(UTC)
        entry = Entry(f"{now:%Y-%m-%d %H:%M:%S}", who, action, number, expected, reason, evidence, _digest(texts[-1]) if texts else START)
        # A key that no other process writes: an entry is never written over.
        key = f"{ENTRY}{now:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(3)}"
        patiently(registry.set_registered_model_tag, name, key, json.dumps(asdict(entry)))
        _check(name, expected)
        patiently(registry.set_registered_model_alias, name, CHAMPION, number)
        before = former(name)
        if before:
            patiently(registry.set_registered_model_alias, name, FORMER, before)
        else:
            patiently(registry.delete_registered_model_alias, name, FORMER)
        _check(name, number)


def record(version: Version, tags: dict[str, str], description: str, files: dict[str, str]) -> bool:
    """Put a verdict where MLflow's UI shows it: tags and description of the version, and artifacts of its run, texts by name.

    Tags of an earlier verdict go. Returns whether the run is still there to keep the artifacts.
    """
    from mlflow.exceptions import MlflowException

    registry = client()
    for key in version.tags:
        if key.startswith(GATE) and key not in tags:
            patiently(registry.delete_model_version_tag, version.name, version.number, key)
    for key, value in tags.items():
        patiently(registry.set_model_version_tag, version.name, version.number, key, value)
    patiently(registry.update_model_version, version.name, version.number, description)
    try:
        for name, text in files.items():
            patiently(registry.log_text, version.run_id, text, name)
    except MlflowException:
        return False  # the run was deleted; the tags remain
    return True


def _check(name: str, expected: str) -> None:
    now, before = (f"version {number}" if number else "nobody" for number in (champion(name), expected))
    if now != before:
        raise EcgforgeError(
            f"{name}: champion is {now} by now and no longer {before}, since someone else moved it; look at `ecgforge history {name}` and "
            "decide again"
        )


@contextmanager
def _alone(name: str) -> Iterator[None]:
    database = store.local_database()
    if database is None:
        yield
        return
    with FileLock(f"{database}.{name}.lock"):
        yield


def _texts(name: str) -> list[str]:
    tags = patiently(client().get_registered_model, name).tags
    return [tags[key] for key in sorted(tags) if key.startswith(ENTRY)]


def _digest(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
