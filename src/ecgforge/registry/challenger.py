"""The best version of a model that is not champion, with the alias `challenger`.

It is the version that `ecgforge promote --best` judges: the best on validation records. The alias
is a hint for people. No gate reads it, and it never changes the champion.
"""

from __future__ import annotations

from collections.abc import Iterable

from ecgforge.model_versions import lookup, versions
from ecgforge.model_versions.history import CHALLENGER, CHAMPION
from ecgforge.model_versions.pyfunc_signature import VALIDATED
from ecgforge.model_versions.versions import Version
from ecgforge.study.settings import SETTINGS
from ecgforge.tracking.runs import INPUT
from ecgforge.tracking.store import client, with_retry


def update(name: str, digest: str) -> None:
    """Move the alias of a model to its best version, or remove it if that one is champion.

    Args:
        name: the registered model.
        digest: DVC's md5 of the dataset's current records.
    """
    known = versions.versions(name)
    found = best(current(known, digest))
    number = found.number if found and CHAMPION not in found.aliases else ""
    before = next((one.number for one in known if CHALLENGER in one.aliases), "")
    if number and number != before:
        with_retry(client().set_registered_model_alias, name, CHALLENGER, number)
    elif before and not number:
        with_retry(client().delete_registered_model_alias, name, CHALLENGER)


def current(known: Iterable[Version], digest: str) -> list[Version]:
    """Return the versions that were trained on records with this digest."""
    return [one for one in known if one.tags.get(f"{INPUT}{one.tags.get('dataset')}") == digest]


def best(known: Iterable[Version]) -> Version | None:
    """Return the best classifier on real validation records, the newest of equal ones; of
    generators, the newest. None if there is none.
    """
    rated = []
    for version in known:
        generator = version.tags.get("kind") == "generator"
        value = 0.0 if generator else validated(version)
        if value is not None:
            rated.append((value, int(version.number), version))
    return max(rated, key=lambda one: one[:2])[2] if rated else None


def validated(version: Version) -> float | None:
    """Return a classifier's macro-F1 on real validation records; None without them."""
    setting = SETTINGS.get(version.tags.get("setting", ""))
    if setting is None or setting.trained_on == "synthetic":
        return None
    try:
        return float(version.tags[VALIDATED])
    except (KeyError, ValueError):
        return lookup.metric(version.run_id, lookup.BEST_F1)
