"""Files and folders by their DVC digest, in the working tree, DVC's cache or its remote."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAMLError

from ecgforge import console
from ecgforge.dvc import internals
from ecgforge.dvc.lock import DAMAGED, KEPT, load
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write, md5
from ecgforge.tracking.store import git, git_problem, inside, project_root, reason

LOCK = "dvc.lock"
# lock files in DVC's temporary folder; experiments have their own
BUSY = ("rwlock", "exps/*/.dvc/tmp/rwlock", "exps/*/*/.dvc/tmp/rwlock")
DIGEST = re.compile(r"\b[0-9a-f]{32}(?:\.dir\b)?")
CODE = "resolved/code.json"  # digests of code; not parameters


@dataclass(frozen=True)
class Step:
    """A DVC stage as it ran.

    Attributes:
        name: of the stage; empty if unknown.
        command: as in dvc.yaml.
        parameters: values by dotted key.
        deps, outs: digests of inputs and outputs, by path.
    """

    name: str
    command: str
    parameters: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]


class DvcStore:
    """Access to all contents that DVC has recorded for the project at `root`.

    A file read from the remote is not stored locally.

    Raises:
        EcgforgeError: git fails; the contents that it knows would otherwise count as lost.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or project_root()
        self._digests: dict[Path, str] = {}
        self._listings: dict[str, dict[str, str]] = {}
        self._commits: dict[str, list[str]] = {}
        self._damaged: set[str] = set()
        problem = git_problem(self.root)
        if problem:
            raise EcgforgeError(problem)

    def read(self, digest: str, name: str = "", path: str = "") -> bytes | None:
        """Return the file `name` of the folder with this digest, or the file with this digest.

        Args:
            path: where the content may be in the working tree.

        Returns:
            The content; None if it is no longer available.
        """
        # the cache first: to know the digest of a folder, the working tree is hashed as a whole
        found = self._object(self._held(digest, name, remote=False), remote=False)
        if found is not None:
            return found
        if path and self.digest(path) == digest:
            file = self.root / path / name
            return file.read_bytes() if file.is_file() else None
        return self._object(self._held(digest, name))

    def _held(self, digest: str, name: str, *, remote: bool = True) -> str:
        """Return the md5 of the file `name` of a folder, or of the file with this digest itself."""
        return self.listing(digest, remote=remote).get(name, "") if name else digest

    def local(self, digest: str, name: str, path: str = "") -> Path | None:
        """Return the local path of the file `name` of the folder with this digest.

        None if not local.

        The file is for reading only; arguments as for `read`.
        """
        if path and self.digest(path) == digest:
            file = self.root / path / name
        else:
            held = self.listing(digest).get(name, "")
            if self._cache is None or not held:
                return None
            file = Path(self._cache.oid_to_path(held))
        return file if file.is_file() else None

    def listing(self, digest: str, *, remote: bool = True) -> dict[str, str]:
        """Return the md5 of each file of a folder by relative path.

        Empty if DVC no longer has it. A listing is kept, since its digest states its content.

        Args:
            remote: also ask DVC's remote.
        """
        if digest not in self._listings:
            found = self._object(digest, remote=remote) if digest.endswith(".dir") else None
            try:
                listed = {str(one["relpath"]): str(one["md5"]) for one in json.loads(found or "[]")}
            except (ValueError, TypeError, KeyError):
                listed = {}
            if not listed:
                return {}
            self._listings[digest] = listed
        return self._listings[digest]

    def digest(self, path: str) -> str:
        """Return the digest of `path` in the working tree, empty if nothing is there; cached."""
        full = self.root / path
        if not inside(path):
            return ""
        if full not in self._digests:
            self._digests[full] = md5(full) if full.exists() else ""
        return self._digests[full]

    def place(self, digest: str, path: str = "") -> tuple[str, bool]:
        """Return the location of a content, and whether it is available.

        Local files are hashed again. For a remote, only the existence of the files is checked.
        """
        held = self.digest(path) if path else ""
        if held == digest:
            return "in the working tree", True
        note = "; the working tree holds another version" if held else ""
        missing = self._missing_in_cache(digest)
        if not missing:
            return f"in DVC's cache{note}", True
        if self._remote is not None and self._in_remote(digest):
            return f"in DVC's remote{note}", True
        return (
            f"gone: {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}{note}",
            False,
        )

    def copy(self, digest: str, path: str, target: Path) -> None:
        """Write the file or folder with this digest to `target`.

        Raises:
            EcgforgeError: it is no longer available.
        """
        names = (
            [""]
            if not digest.endswith(".dir")
            else list(self.listing(digest)) or self._names(digest, path)
        )
        if not names:
            raise EcgforgeError(f"{path} with md5 {digest} is no longer available: try `dvc fetch`")
        if not all(map(inside, names)):
            raise EcgforgeError(
                f"{path} with md5 {digest} lists a file outside of the folder: refused"
            )
        with atomic_write(target) as scratch:
            for name in names:
                found = self.read(digest, name, path)
                if found is None:
                    raise EcgforgeError(
                        f"{path} with md5 {digest} is no longer available ({name or 'the file'} is "
                        "gone)"
                    )
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_bytes(found)

    def steps(self, text: str) -> Iterator[Step]:
        """Yield the stages with the digest `text` as input or output, the latest first.

        They come from dvc.lock in the working tree, from dvc.lock in git, and from DVC's run cache.
        """
        for where, lock in self._locks(text):
            for step in self._read(where, lock) if text in lock else ():
                if text in {*step.deps.values(), *step.outs.values()}:
                    yield step

    def made_by(self, digest: str, path: str = "") -> Step | None:
        """Return the stage that wrote the content with this digest.

        None if no record of it remains.

        Args:
            path: of the output, as stages may write equal contents; empty for any path.
        """
        made = (
            step
            for step in self.steps(digest)
            if digest in (step.outs.values() if not path else [step.outs.get(path)])
        )
        return next(made, None)

    def used(self) -> Iterator[str]:
        """Yield all digests that DVC uses in the working tree or in a commit that a git ref names.

        Raises:
            EcgforgeError: DVC or git cannot read all of them.
        """
        lock = self.root / LOCK
        self._read("", lock.read_text(errors="replace") if lock.is_file() else "")
        yield from DIGEST.findall(lock.read_text(errors="replace") if lock.is_file() else "")
        for text in self._records():
            yield from DIGEST.findall(text)  # also finds the digests of a damaged file
        if self.repo:
            try:
                known = [
                    item.value for objects in self.repo.used_objs().values() for item in objects
                ]
            except Exception as error:  # DVC has many error classes for damaged files
                raise EcgforgeError(
                    f"DVC cannot read what the project uses ({reason(error)})"
                ) from error
            yield from known

    def _records(self) -> Iterator[str]:
        """Yield all dvc.lock and .dvc files of named commits, and a dvc.lock that was damaged.

        The project may be a folder of a larger repository.
        """
        for file in (self.root / DAMAGED, self.root / KEPT):
            yield file.read_text(errors="replace") if file.is_file() else ""
        if not git(self.root, "rev-parse", "--git-dir"):
            return
        words = "%(objecttype) %(objectname)%0a%(*objecttype) %(*objectname)"
        named = git(self.root, "for-each-ref", f"--format={words}", needed=True).split("\n")
        # only the top of the stash has a ref
        stashed = git(self.root, "stash", "list", "--format=commit %H").split("\n")
        # empty in a repository without a commit
        head = git(self.root, "rev-parse", "--quiet", "--verify", "HEAD")
        seen = set()
        for commit in dict.fromkeys(
            [one.split()[1] for one in [*named, *stashed] if one.startswith("commit ")]
            + [head] * bool(head)
        ):
            for entry in git(
                self.root, "ls-tree", "-r", "-z", "--full-tree", commit, needed=True
            ).split("\0"):
                about, _, name = entry.partition("\t")
                if about not in seen and (Path(name).name == LOCK or name.endswith(".dvc")):
                    seen.add(about)
                    yield git(self.root, "cat-file", "blob", about.split()[2], needed=True)

    def objects(self) -> Iterator[Path]:
        """Yield the files of DVC's cache, unless it is outside of the project and may be shared."""
        if self._cache is not None and not self.external_cache():
            folders = (
                folder for folder in Path(self._cache.path).glob("??") if not folder.is_symlink()
            )
            yield from (
                path
                for folder in folders
                for path in folder.iterdir()
                if path.is_file() and not path.is_symlink()
            )

    def external_cache(self) -> str:
        """Return the path of DVC's cache if it is outside of the project, or else an empty text."""
        path = Path(self._cache.path).resolve() if self._cache is not None else self.root.resolve()
        return "" if path.is_relative_to(self.root.resolve()) else str(path)

    def at_work(self) -> str:
        """Return a description of a running DVC stage; empty if none is running.

        DVC releases its lock while a stage's command runs, and dvc.lock has the outputs only
        afterwards.

        Raises:
            EcgforgeError: DVC's list of running stages cannot be read.
        """
        lists = (
            [found for pattern in BUSY for found in Path(self.repo.tmp_dir).glob(pattern)]
            if self.repo
            else []
        )
        for file in lists:
            for pid, command in self._stages_at_work(file):
                if psutil.pid_exists(pid):
                    return f"process {pid}: {command}"
        return ""

    def _stages_at_work(self, file: Path) -> list[tuple[int, str]]:
        from dvc.exceptions import DvcException

        try:
            with internals.lock_of(file, self.repo):
                tree = json.loads(file.read_text())
            named = [
                *tree.get("write", {}).values(),
                *chain.from_iterable(tree.get("read", {}).values()),
            ]
            return [(int(one["pid"]), str(one["cmd"])) for one in named]
        except (
            DvcException,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            OverflowError,
        ) as error:
            raise EcgforgeError(
                f"{file} cannot be read: try again; if no DVC process is running, remove it"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold DVC's lock during the block.

        Raises:
            EcgforgeError: another DVC process holds it.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self.repo.lock if self.repo else nullcontext())
            except internals.lock_error() as error:
                raise EcgforgeError("DVC is running: try again when it has ended") from error
            yield

    def _locks(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield the lock files that may contain `text`, with their origin.

        The origin is empty for the working tree's dvc.lock.
        """
        lock = self.root / LOCK
        if lock.is_file():
            yield "", lock.read_text(errors="replace")
        if text not in self._commits:
            words = ("log", "--all", "--format=%H", f"-S{text}", "--", LOCK)
            self._commits[text] = git(self.root, *words).split()
        for commit in self._commits[text]:
            yield f"{LOCK} of commit {commit[:8]}", git(self.root, "show", f"{commit}:./{LOCK}")
        yield from self._runs

    @cached_property
    def _runs(self) -> list[tuple[str, str]]:
        """The records of DVC's run cache, with their origin; a search of all versions reads each
        many times.
        """
        if self._cache is None:
            return []
        files = (Path(self._cache.path).parents[1] / "runs").glob("*/*/*")
        return [
            (f"DVC's record {file.name[:8]} of a run", file.read_text(errors="replace"))
            for file in files
        ]

    def _read(self, where: str, text: str) -> tuple[Step, ...]:
        """Return the stages in a dvc.lock; for a damaged file of another commit, print a warning.

        Raises:
            EcgforgeError: the dvc.lock of the working tree is damaged.
        """
        try:
            return _steps(text)
        except (YAMLError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            if not where:
                raise EcgforgeError(
                    f"{LOCK} is damaged: `ecgforge repro` or `git checkout {LOCK}` restores it"
                ) from None
            if where not in self._damaged:
                console.err.print(f"warning: {where} is damaged and was skipped")
            self._damaged.add(where)
            return ()

    def _names(self, digest: str, path: str) -> list[str]:
        if self.digest(path) != digest:
            return []
        return [
            file.relative_to(self.root / path).as_posix()
            for file in (self.root / path).rglob("*")
            if file.is_file()
        ]

    def _missing_in_cache(self, digest: str) -> list[str]:
        """Return the names of files that are missing or damaged in the cache."""
        if self._cache is None or not self._sound(digest):
            return ["all of it"]
        return [name for name, file in self.listing(digest).items() if not self._sound(file)]

    def _sound(self, digest: str) -> bool:
        path = Path(self._cache.oid_to_path(digest))
        return path.exists() and md5(path) == digest.removesuffix(".dir")

    def _in_remote(self, digest: str) -> bool:
        wanted = {digest, *self.listing(digest).values()}
        return (
            set(self._from_remote(lambda: list(self._remote.list_oids_exists(list(wanted)))))
            == wanted
        )

    def _object(self, digest: str, *, remote: bool = True) -> bytes | None:
        """Return a file of the cache or of the remote, if its content matches its digest."""
        if not DIGEST.fullmatch(digest):
            return None
        for database in (self._cache, self._remote if remote else None):
            if database is None:
                continue
            try:
                content = self._from_remote(
                    lambda base=database: base.fs.cat_file(base.oid_to_path(digest))
                )
            except FileNotFoundError:
                continue
            if hashlib.md5(content).hexdigest() == digest.removesuffix(".dir"):
                return content
        return None

    def _from_remote(self, question: Any) -> Any:
        try:
            return question()
        except FileNotFoundError:
            raise
        except Exception as error:  # each kind of remote has its own error classes
            raise EcgforgeError(
                f"DVC's remote cannot be reached ({' '.join(str(error).split())[:200]})"
            ) from error

    @property
    def repo(self) -> Any:
        """DVC's `Repo` of the project; None if the project does not use DVC."""
        return self._opened[0]

    @property
    def lacks_git(self) -> bool:
        """Return whether the git repository is missing, although DVC is configured to use git."""
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[Any, bool]:
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.repo import Repo

        try:
            return Repo(str(self.root)), False
        except NotDvcRepoError:
            return None, False
        except internals.scm_error():
            return Repo(str(self.root), config={"core": {"no_scm": True}}), True
        except DvcException as error:
            raise EcgforgeError(f"DVC cannot open the project ({reason(error)})") from error

    @cached_property
    def _cache(self) -> Any:
        return self.repo.cache.local if self.repo else None

    @cached_property
    def _remote(self) -> Any:
        try:
            return self.repo.cloud.get_remote_odb() if self.repo else None
        except internals.no_remote_error():
            return None


@lru_cache(maxsize=4096)  # a search of all versions reads each record many times
def _steps(text: str) -> tuple[Step, ...]:
    """Parse the stages of a dvc.lock, or the single one of a record in DVC's run cache.

    A damaged file raises errors of many classes.
    """
    tree = load(text) or {}
    stages = tree.get("stages", {"": tree} if "cmd" in tree else {})
    return tuple(_step(str(name), record) for name, record in stages.items())


def _step(name: str, record: dict[str, Any]) -> Step:
    files = {name: file for name, file in record.get("params", {}).items() if name != CODE}
    parameters = {key: value for file in files.values() for key, value in file.items()}
    deps, outs = (
        {str(one["path"]): str(one.get("md5") or "") for one in record.get(kind, [])}
        for kind in ("deps", "outs")
    )
    return Step(
        name,
        record["cmd"] if isinstance(record["cmd"], str) else "\n".join(record["cmd"]),
        parameters,
        deps,
        outs,
    )
