"""Files and folders by the digests that DVC knows them by, wherever they still are: the working tree, DVC's cache, or its remote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import yaml

from ecgforge.errors import EcgforgeError
from ecgforge.files import md5, whole
from ecgforge.tracking.store import git, project_root

LOCK = "dvc.lock"
BUSY = ("rwlock", "exps/*/.dvc/tmp/rwlock", "exps/*/*/.dvc/tmp/rwlock")  # in DVC's temporary folder, where experiments have theirs
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Step:
    """A DVC stage as it ran: its name, where that is known, command, parameters, and digests of what went in and came out, by path."""

    name: str
    command: str
    parameters: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]


class Content:
    """What the project at `root` has of anything that DVC ever knew. Nothing is downloaded to stay."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or project_root()
        self._digests: dict[Path, str] = {}

    def read(self, digest: str, name: str = "", path: str = "") -> bytes | None:
        """Return the file `name` of the folder with this digest, or the file that has it, if it can still be had.

        Args:
            path: where in the working tree it may lie.
        """
        if path and self.digest(path) == digest:
            file = self.root / path / name
            return file.read_bytes() if file.is_file() else None
        if not name:
            return self._object(digest)
        return self._object(self.listing(digest).get(name, ""))

    def listing(self, digest: str) -> dict[str, str]:
        """Return the md5 of each file of a folder, by relative path, from DVC's cache or remote; empty where neither has it."""
        found = self._object(digest) if digest.endswith(".dir") else None
        return {entry["relpath"]: entry["md5"] for entry in json.loads(found)} if found else {}

    def digest(self, path: str) -> str:
        """Return the digest of what lies at `path` in the working tree, empty where nothing does; it is looked at once."""
        full = self.root / path
        if full not in self._digests:
            self._digests[full] = md5(full) if full.exists() else ""
        return self._digests[full]

    def place(self, digest: str, path: str = "") -> tuple[str, bool]:
        """Say where content is and whether it can be had, recomputing digests on this machine; of a remote, only what it says it has."""
        held = self.digest(path) if path else ""
        if held == digest:
            return "in the working tree", True
        note = "; the working tree holds another version" if held else ""
        missing = self._missing_in_cache(digest)
        if not missing:
            return f"in DVC's cache{note}", True
        if self._remote is not None and self._in_remote(digest):
            return f"in DVC's remote{note}", True
        return f"gone: {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}{note}", False

    def copy(self, digest: str, path: str, target: Path) -> None:
        """Write the file or folder with this digest to `target`.

        Raises:
            EcgforgeError: it can no longer be had.
        """
        names = [""] if not digest.endswith(".dir") else list(self.listing(digest)) or self._names(digest, path)
        with whole(target) as scratch:
            for name in names:
                found = self.read(digest, name, path)
                if found is None:
                    raise EcgforgeError(f"{path} with md5 {digest} can no longer be had ({name or 'the file'} is gone)")
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_bytes(found)
            if not names:
                raise EcgforgeError(f"{path} with md5 {digest} can no longer be had: try `dvc fetch`")

    def steps(self, text: str) -> Iterator[Step]:
        """Yield the stages that ran with `text`, a digest, in their records: of the working tree's dvc.lock, of those that git has,
        and of DVC's run cache; the latest first."""
        for lock in self._locks(text):
            tree = yaml.load(lock, _LOADER) if text in lock else {}
            stages = tree.get("stages", {"": tree}) if tree else {}
            for name, record in stages.items():
                parameters = {key: value for file in record.get("params", {}).values() for key, value in file.items()}
                step = Step(name, record["cmd"], parameters, _digests(record, "deps"), _digests(record, "outs"))
                if text in {*step.deps.values(), *step.outs.values()}:
                    yield step

    def made_by(self, digest: str) -> Step | None:
        """Return the stage that wrote the content with this digest, if a record of it remains."""
        return next((step for step in self.steps(digest) if digest in step.outs.values()), None)

    def used(self) -> Iterator[str]:
        """Yield the digest of everything that DVC knows of in the working tree, or in any commit that git has a name for."""
        for text in self._records():
            tree = yaml.load(text, _LOADER) or {}
            for record in tree.get("stages", {"": tree}).values():
                yield from (digest for kind in ("deps", "outs") for digest in _digests(record, kind).values() if digest)
        if self.repo:
            for objects in self.repo.used_objs().values():
                yield from (item.value for item in objects)

    def _records(self) -> Iterator[str]:
        """dvc.lock of the working tree, and all dvc.lock and .dvc files of named commits."""
        lock = self.root / LOCK
        yield lock.read_text() if lock.exists() else ""
        named = git(self.root, "for-each-ref", "--format=%(objectname)").split()
        stashed = git(self.root, "stash", "list", "--format=%H").split()  # of all of it only the top has a name
        for commit in dict.fromkeys([*named, *stashed, "HEAD"]):
            for name in git(self.root, "ls-tree", "-r", "--name-only", commit).split("\n"):
                if Path(name).name == LOCK or name.endswith(".dvc"):
                    yield git(self.root, "show", f"{commit}:./{name}")

    def objects(self) -> Iterator[Path]:
        """Yield the files of DVC's cache; none where it lies outside the project, since other projects may need what it has."""
        if self._cache is not None and Path(self._cache.path).is_relative_to(self.root):
            yield from (path for path in Path(self._cache.path).glob("??/*") if path.is_file())

    def at_work(self) -> str:
        """Return which stage's DVC process is alive, in words; empty where none is. DVC gives its lock back while a command runs, and what
        that makes is in no dvc.lock before it has ended.

        Raises:
            EcgforgeError: DVC's list of them cannot be read.
        """
        lists = [found for pattern in BUSY for found in Path(self.repo.tmp_dir).glob(pattern)] if self.repo else []
        for file in lists:
            tree = self._stages_at_work(file)
            for one in [*tree.get("write", {}).values(), *chain.from_iterable(tree.get("read", {}).values())]:
                if psutil.pid_exists(one["pid"]):
                    return f"process {one['pid']}: {one['cmd']}"
        return ""

    def _stages_at_work(self, file: Path) -> dict[str, Any]:
        from dvc.lock import LockError, make_lock

        try:
            # Under this lock DVC empties the list and writes it anew.
            with make_lock(f"{file}.lock", tmp_dir=str(file.parent), hardlink_lock=self.repo.config["core"].get("hardlink_lock", False)):
                tree: dict[str, Any] = json.loads(file.read_text())
        except (LockError, ValueError) as error:
            raise EcgforgeError(f"{file} cannot be read: try again; where no DVC is at work, remove it") from error
        return tree

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep DVC from writing while the block lasts.

        Raises:
            EcgforgeError: DVC itself is writing.
        """
        from dvc.lock import LockError

        with ExitStack() as held:
            try:
                held.enter_context(self.repo.lock if self.repo else nullcontext())
            except LockError as error:
                raise EcgforgeError("DVC is at work: try again when it has ended") from error
            yield

    def _locks(self, text: str) -> Iterator[str]:
        lock = self.root / LOCK
        if lock.exists():
            yield lock.read_text()
        for commit in git(self.root, "log", "--all", "--format=%H", f"-S{text}", "--", LOCK).split():
            yield git(self.root, "show", f"{commit}:./{LOCK}")
        if self._cache is not None:
            for file in (Path(self._cache.path).parents[1] / "runs").glob("*/*/*"):
                yield file.read_text()

    def _names(self, digest: str, path: str) -> list[str]:
        if self.digest(path) != digest:
            return []
        return [file.relative_to(self.root / path).as_posix() for file in (self.root / path).rglob("*") if file.is_file()]

    def _missing_in_cache(self, digest: str) -> list[str]:
        """The files of which the cache has no sound copy."""
        if self._cache is None or not self._sound(digest):
            return ["all of it"]
        return [name for name, file in self.listing(digest).items() if not self._sound(file)]

    def _sound(self, digest: str) -> bool:
        path = Path(self._cache.oid_to_path(digest))
        return path.exists() and md5(path) == digest.removesuffix(".dir")

    def _in_remote(self, digest: str) -> bool:
        wanted = {digest, *self.listing(digest).values()}
        return set(self._asked(lambda: list(self._remote.list_oids_exists(list(wanted))))) == wanted

    def _object(self, digest: str) -> bytes | None:
        """A file of the cache, or of the remote, if it has the content that its name says."""
        for database in (self._cache, self._remote):
            if database is None or not digest:
                continue
            try:
                content = self._asked(lambda base=database: base.fs.cat_file(base.oid_to_path(digest)))
            except FileNotFoundError:
                continue
            if hashlib.md5(content).hexdigest() == digest.removesuffix(".dir"):
                return content
        return None

    def _asked(self, question: Any) -> Any:
        try:
            return question()
        except FileNotFoundError:
            raise
        except Exception as error:  # of whatever the remote is
            raise EcgforgeError(f"DVC's remote cannot be asked ({' '.join(str(error).split())[:200]})") from error

    @cached_property
    def repo(self) -> Any:
        """DVC's view of the project, or None where it has none."""
        from dvc.exceptions import NotDvcRepoError
        from dvc.repo import Repo

        try:
            return Repo(str(self.root))
        except NotDvcRepoError:
            return None

    @cached_property
    def _cache(self) -> Any:
        return self.repo.cache.local if self.repo else None

    @cached_property
    def _remote(self) -> Any:
        from dvc.config import NoRemoteError

        try:
            return self.repo.cloud.get_remote_odb() if self.repo else None
        except NoRemoteError:
            return None


def _digests(record: dict[str, Any], kind: str) -> dict[str, str]:
    return {entry["path"]: entry.get("md5", "") for entry in record.get(kind, [])}
