"""Where the code of a project is, for readers elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ecgforge import __version__
from ecgforge.tracking.store import git

SSH = re.compile(r"[\w.-]+@([\w.-]+):(?!//)(.+)")  # git@host:path


def remote(root: Path) -> str:
    """Return the URL of the repository `origin`, without user and password; empty if there is none
    or if it is a folder.
    """
    address = git(root, "config", "--get", "remote.origin.url")
    if found := SSH.fullmatch(address):
        address = f"https://{found[1]}/{found[2]}"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https", "ssh", "git") or not parts.hostname:
        return ""
    host = parts.hostname + (f":{parts.port}" if parts.port else "")
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def described(root: Path, commit: str) -> str:
    """Return the program, its version, the commit and the repository as text."""
    where = f" of {address}" if (address := remote(root)) else ""
    return f"ecgforge {__version__}, commit {commit or 'unknown'}{where}"
