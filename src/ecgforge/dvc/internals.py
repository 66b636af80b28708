"""The only file that uses private names of DVC.

Public are `dvc.api`, `dvc.repo.Repo` and `dvc.exceptions`. `tests/test_private_names.py` checks
that the installed DVC has the private names.
"""

from __future__ import annotations

import copy
import functools
import io
import operator
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ecgforge.dvc import lock, unchanged
from ecgforge.files import atomic_write
from ecgforge.private_names import private


@contextmanager
def each_file_once() -> Iterator[None]:
    """Make DVC read each file and list each folder only once during the block.

    DVC would do so for every stage that names them. This is most of the time of a run without
    changes. A folder that has not changed since an earlier run is not read at all.
    """
    output_class = private("dvc.output:Output")
    digest_class = private("dvc_data.hashfile.hash_info:HashInfo")
    known: dict[str, Any] = {}
    get_hash = output_class.get_hash

    with unchanged.kept(Path()) as folders:

        def found(output: Any) -> Any:
            path = os.path.relpath(output.fs_path)
            if not Path(path).is_dir():
                return get_hash(output)
            now = unchanged.state(path)
            before, digest = folders.get(path, ("", {}))
            if now != before:
                digest = get_hash(output).to_dict()
                folders[path] = now, digest
            return digest_class.from_dict(digest)

        def cached(output: Any) -> Any:
            if output.fs_path not in known:
                known[output.fs_path] = found(output)
            return known[output.fs_path]

        with patch.object(output_class, "get_hash", cached), parameters_read_once():
            yield


@contextmanager
def parameters_read_once() -> Iterator[None]:
    """Make DVC parse each file of parameters once during the block, and look up values by key.

    DVC would parse the file for each list of parameters in a stage, and scan all of its keys.
    """
    param = private("dvc.dependency.param")

    def straight(tree: Any, path: str, separator: str) -> Any:
        try:
            return functools.reduce(operator.getitem, path.split(separator), tree)
        # The section is null: DVC's check of all parameters reports the missing one.
        except TypeError:
            raise KeyError(path) from None

    with (
        patch.object(param, "load_path", functools.cache(param.load_path)),
        patch.object(param.dpath, "get", straight),
    ):
        yield


@contextmanager
def atomic_writes() -> Iterator[None]:
    """Make DVC write dvc.lock and its other YAML files atomically, and keep a copy of dvc.lock.

    DVC truncates the file before it writes, so a kill leaves an incomplete file. Each stage
    rewrites dvc.lock, which has the entries of all stages. DVC parses it in Python to keep
    comments, of which it has none; the parser and writer in C are twenty times faster.
    """
    common, yaml = private("dvc.utils.serialize._common"), private("dvc.utils.serialize._yaml")
    parse_with_comments = yaml.parse_yaml_for_update

    def parse(text: str, path: Any) -> Any:
        if Path(path).name == lock.LOCK:
            return yaml.parse_yaml(text, path)
        return parse_with_comments(text, path)

    def dump(
        path: Any,
        data: Any,
        dumper: Callable[..., Any],
        fs: Any = None,  # noqa: ARG001 DVC passes it
        **options: Any,
    ) -> None:
        text, is_lock = io.StringIO(), Path(path).name == lock.LOCK
        (lock.dump if is_lock else dumper)(data, text, **options)
        with atomic_write(Path(path)) as scratch:
            scratch.write_text(text.getvalue(), encoding="utf-8")
        if is_lock:
            lock.write_copy(Path(path).parent, text.getvalue())

    with (
        patch.object(yaml, "parse_yaml_for_update", parse),
        patch.object(common, "_dump_data", dump),
        patch.object(yaml, "_dump_data", dump),
    ):
        yield


@contextmanager
def locked_repo(wait: bool = False) -> Iterator[Any]:
    """Open DVC's project in the current folder, and hold its lock during the block.

    The block may run no stage.

    Args:
        wait: for the end of another process that holds the lock; an error otherwise.
    """
    from dvc.repo import Repo

    with (
        Repo(_wait_for_lock=wait) as repo,
        private("dvc.repo:lock_repo")(repo),
        _users_read_once(),
    ):
        yield repo


@contextmanager
def _users_read_once() -> Iterator[None]:
    """Make DVC read its list of readers and writers only once during the block.

    DVC would read and write the file twice for every stage. Other processes change it under DVC's
    lock, and so not while this one holds the lock.
    """
    rwlock = private("dvc.rwlock")
    edit = private("dvc.rwlock:_edit_rwlock")

    @functools.cache
    def read(*place: Any) -> Any:
        with edit(*place) as users:
            return copy.deepcopy(users)

    @contextmanager
    def shared(*place: Any) -> Iterator[Any]:
        users = read(*place)
        for mode, empty in (("read", list), ("write", dict)):  # DVC deletes one without entries
            users.setdefault(mode, defaultdict(empty))
        yield users

    with patch.object(rwlock, "_edit_rwlock", shared):
        yield


def waiting_repo() -> Any:
    """Open DVC's project in the current folder; it waits for locks of other DVC processes."""
    from dvc.repo import Repo

    return Repo(_wait_for_lock=True)


def lock_of(file: Path, repo: Any) -> AbstractContextManager[Any]:
    """Return the lock that DVC holds while it rewrites a file in its temporary folder.

    Raises:
        DvcException: on entry, if another process holds the lock.
    """
    hardlink = repo.config["core"].get("hardlink_lock", False)
    make_lock = private("dvc.lock:make_lock")
    lock: AbstractContextManager[Any] = make_lock(
        f"{file}.lock", tmp_dir=str(file.parent), hardlink_lock=hardlink
    )
    return lock


def lock_error() -> type[Exception]:
    """Return the class of DVC's error for a lock that another process holds."""
    return _error("dvc.lock:LockError")


def scm_error() -> type[Exception]:
    """Return the class of DVC's error for a missing git repository."""
    return _error("dvc.scm:SCMError")


def no_remote_error() -> type[Exception]:
    """Return the class of DVC's error for a missing default remote."""
    return _error("dvc.config:NoRemoteError")


def _error(name: str) -> type[Exception]:
    found: type[Exception] = private(name)
    return found
