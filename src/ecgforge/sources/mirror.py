"""A mirror of a published dataset: any folder or fsspec URL, with concurrent downloads, retries and
checks of published checksums.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import aiohttp
import fsspec
from fsspec.implementations.local import LocalFileSystem
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.outputs import expanded

LONGEST = 240  # bytes of a file's name; file systems allow 255, and scratch files add some
SHORT = 10  # files; fewer have no progress bar
SUMS = "SHA256SUMS.txt"
ADVICE = (
    "give another as the source's `mirror` in params.yaml (an https:// address, an open bucket "
    "such as s3://, a folder on this machine), "
    "or use `profile: demo`, which needs none"
)

# Open buckets need no account; the user's own fsspec configuration has priority.
_HTTP = {
    "client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)}
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "http": _HTTP,
    "https": _HTTP,
    "s3": {"anon": True},
    "gs": {"token": "anon"},
}


def _in_words(error: Exception) -> str:
    """Return a backend's message in one line."""
    words = " ".join(str(error).split())[:200]
    return f": {words}" if words else ""


class _ChecksumError(Exception):
    """A downloaded file does not have the published checksum."""


def _may_pass(error: BaseException) -> bool:
    """Return whether a retry can succeed after `error`."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status >= 500 or error.status in (408, 425, 429)
    lasting = (
        FileNotFoundError,
        IsADirectoryError,
        NotADirectoryError,
        PermissionError,
        aiohttp.InvalidURL,
    )
    return isinstance(error, (aiohttp.ClientError, OSError, _ChecksumError)) and not isinstance(
        error, lasting
    )


@dataclass(frozen=True)
class Mirror:
    """A mirror of a published dataset; `Mirror.at` opens it.

    Attributes:
        url: as the user gave it.
        filesystem: of fsspec.
        root: the dataset's folder in it.
        sums: published SHA-256 by file; empty if the mirror has no SHA256SUMS.txt.
    """

    url: str
    filesystem: Any
    root: str
    sums: dict[str, str]

    @classmethod
    def at(cls, url: str) -> Mirror:
        """Open the mirror at `url`, a folder or any fsspec URL, and read its checksums.

        Raises:
            EcgforgeError: it cannot be reached, or its protocol needs a package that is not
                installed.
        """
        protocol = url.partition("://")[0]
        options = {**_OPTIONS.get(protocol, {}), **fsspec.config.conf.get(protocol, {})}
        try:
            filesystem, root = fsspec.core.url_to_fs(
                str(expanded(url)) if url.startswith("~") else url, **options
            )
        except Exception as error:  # every fsspec backend has exceptions of its own
            raise EcgforgeError(
                f"the mirror {url!r} cannot be opened{_in_words(error)}; {ADVICE}"
            ) from None
        bare = cls(url, filesystem, str(root).rstrip("/"), {})
        if bare.local and not (url.strip() and Path(bare.root).is_dir()):
            raise EcgforgeError(f"the mirror {url!r} is no folder on this machine; {ADVICE}")
        try:
            text = bare.read(SUMS).decode(errors="replace")
        except FileNotFoundError:
            return bare
        pairs = [line.split(maxsplit=1) for line in text.splitlines() if len(line.split()) > 1]
        return cls(
            url,
            filesystem,
            bare.root,
            {name.strip().lstrip("*").removeprefix("./"): digest.lower() for digest, name in pairs},
        )

    @property
    def local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    def read(self, name: str) -> bytes:
        """Return the bytes of the file `name`, checked against its checksum, with retries.

        Raises:
            FileNotFoundError: the mirror does not have the file.
            EcgforgeError: the mirror does not answer, or the checksum does not match.
        """
        try:
            return self._attempt(name)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(name) from None
        except _ChecksumError:
            raise EcgforgeError(
                f"{name} from {self.url} does not have the SHA-256 that {SUMS} gives; {ADVICE}"
            ) from None
        except Exception as error:  # every fsspec backend has exceptions of its own
            raise EcgforgeError(
                f"the mirror {self.url} cannot be reached or read: {name}{_in_words(error)}; "
                f"{ADVICE}"
            ) from None

    @retry(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(4),
        wait=wait_exponential_jitter(multiplier=0.3, max=5, jitter=0.3),
        reraise=True,
    )
    def _attempt(self, name: str) -> bytes:
        content: bytes = self.filesystem.cat_file(f"{self.root}/{name}")
        if name in self.sums and hashlib.sha256(content).hexdigest() != self.sums[name]:
            raise _ChecksumError
        return content


def download(
    mirror: Mirror, names: Iterable[str], landing: Path, connections: int, what: str
) -> set[str]:
    """Download files to the folder `landing`, each atomically.

    Existing files are kept, unless the mirror publishes another checksum.

    Args:
        mirror: the mirror.
        names: paths relative to the mirror's root and to `landing`.
        landing: the target folder.
        connections: number of concurrent downloads.
        what: label of the progress bar; short lists have none.

    Returns:
        The names of files that the mirror does not have.

    Raises:
        EcgforgeError: a name leaves the dataset (checked before any download), or see
            `Mirror.read`; downloaded files stay.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise EcgforgeError(
                f"the metadata of {mirror.url} name {name[:200]!r}, which lies outside the data set"
            )
        if (
            not name.isprintable()
            or "\\" in name
            or any(len(os.fsencode(part)) > LONGEST for part in PurePosixPath(name).parts)
        ):
            raise EcgforgeError(
                f"the metadata of {mirror.url} name {name[:200]!r}, which is no name of a file"
            )

    def bring(name: str) -> bool:
        target = landing / name
        if _complete(target, mirror.sums.get(name)):
            return True
        try:
            content = mirror.read(name)
        except FileNotFoundError:
            return False
        try:
            with atomic_write(target) as scratch:
                scratch.write_bytes(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise EcgforgeError(
                f"the metadata of {mirror.url} name {name[:200]!r} both as a file and as a folder"
            ) from None
        return True

    progress = console.progress(disable=len(names) < SHORT)
    with progress, ThreadPoolExecutor(connections) as pool:
        bar = progress.add_task(what, total=len(names))
        waiting = {pool.submit(bring, name): name for name in names}
        absent = set()
        try:
            for future in as_completed(waiting):
                if not future.result():
                    absent.add(waiting[future])
                progress.advance(bar)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return absent


def _complete(file: Path, digest: str | None) -> bool:
    if not file.is_file():
        return False
    return digest is None or hashlib.sha256(file.read_bytes()).hexdigest() == digest
