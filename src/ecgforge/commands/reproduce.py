"""Train a registered version again, from its commit and its data, in a scratch folder, and compare
the weights.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import load_file

from ecgforge import console
from ecgforge.errors import EcgforgeError
from ecgforge.files import md5
from ecgforge.model_versions import lookup, versions
from ecgforge.model_versions.models import WEIGHTS
from ecgforge.model_versions.versions import Version
from ecgforge.params import Profile
from ecgforge.provenance import lineage
from ecgforge.provenance.dvc_store import DvcStore, Step
from ecgforge.tracking import store
from ecgforge.tracking.store import git, has_commit, inside

# commands; a dvc.lock of any branch could hold others
REGISTERING = ("train-generator", "train-classifier")


def reproduce(reference: str) -> None:
    """Run the DVC stage that made a version again as it was then, with a tracking store of its own,
    and say how near its weights come.

    Raises:
        EcgforgeError: the commit, the stage's record or its data are gone, the record's command is
            no training, or the stage fails.
    """
    store.ensure_reachable()
    version, content = versions.find(reference), DvcStore()
    commit = version.tags.get("git.commit", "")
    if not git(content.root, "rev-parse", "--git-dir"):
        raise EcgforgeError(
            f"{version.label} cannot be made again: there is no git repository in {content.root}"
        )
    if not has_commit(content.root, commit):
        raise EcgforgeError(
            f"{version.label} cannot be made again: its commit {commit or '(unknown)'} is not in "
            "this repository"
        )
    if version.tags.get("git.dirty") == "true":
        console.out.print(
            f"{version.label} was made with changes that were not committed: what follows is its "
            "commit without them.",
            style="yellow",
        )
    step = lineage.step_of(version, content)
    if step is None:
        raise EcgforgeError(
            f"{version.label} cannot be made again: no dvc.lock, in git or here, holds a record of "
            "its stage"
        )
    arguments = _arguments(step.command)
    if not arguments:
        raise EcgforgeError(
            f"{version.label} is not made again: its stage's record says `{step.command}`, which "
            "trains no version"
        )
    with tempfile.TemporaryDirectory(prefix="ecgforge-reproduce-") as scratch:
        folder = _clone(content.root, commit, Path(scratch) / "project")
        _lay_out(content, step, lookup.threads(version.run_id), folder)
        console.out.print(f"{commit[:8]}: {step.command}")
        environment = _environment(folder) | {"DVC_STAGE": step.name}
        ended = subprocess.run(arguments, cwd=folder, env=environment, check=False)
        if ended.returncode:
            raise EcgforgeError(
                f"the stage of {version.label} ended with exit code {ended.returncode}, see above"
            )
        _compare(version, lineage.rerun_weights(version, folder))


def _arguments(command: str) -> list[str]:
    """Return the words of a command that trains and registers, for no shell to read; none of any
    other, or of one that reads or writes outside of the folder that it is started in.
    """
    try:
        program, stage, *others = shlex.split(command)
    except ValueError:  # one word, or a quotation that does not end
        return []
    known = program == "ecgforge" and stage in REGISTERING and "\n" not in command
    return (
        [program, stage, *others]
        if known and all(inside(word.rpartition("=")[2]) for word in others)
        else []
    )


def _clone(root: Path, commit: str, clone: Path) -> Path:
    """Check out a commit of the repository that the project in `root` is in, or is, and return the
    project's folder in it.

    Raises:
        EcgforgeError: git refuses, the commit has no such project, or a link in it leads out of it.
    """
    top = git(root, "rev-parse", "--show-toplevel", needed=True)
    for command in (
        ["clone", "--quiet", "--no-checkout", top, str(clone)],
        ["-C", str(clone), "checkout", "--quiet", commit],
    ):
        ended = subprocess.run(
            ["git", *command], capture_output=True, text=True, errors="replace", check=False
        )
        if ended.returncode:
            raise EcgforgeError(
                f"commit {commit} cannot be checked out ({' '.join(ended.stderr.split())})"
            )
    for path in clone.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(clone.resolve()):
            raise EcgforgeError(
                f"commit {commit} is not run: its link {path.relative_to(clone)} leads out of the "
                "repository"
            )
    folder = clone / git(root, "rev-parse", "--show-prefix")
    if not (folder / "params.yaml").is_file():
        raise EcgforgeError(f"commit {commit} has no params.yaml where the project is now")
    return folder


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment in which the code of a checkout runs, and knows of no other project."""
    found = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MLFLOW_", "DVC_", "ECGFORGE_", "GIT_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return found | {"PYTHONPATH": str(folder / "src"), "PATH": path}


def _resolved(folder: Path) -> dict[str, Any]:
    """Return the parameters of a checkout with all defaults, by its own code.

    Raises:
        EcgforgeError: its params.yaml is refused.
    """
    command = ["ecgforge", "params"]
    ended = subprocess.run(
        command, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise EcgforgeError(f"the commit's parameters are refused: {ended.stderr.strip()}")
    found: dict[str, Any] = yaml.safe_load(ended.stdout)
    return found


def _lay_out(content: DvcStore, step: Step, threads: int | None, folder: Path) -> None:
    """Put the stage's parameters, the run's number of threads, and the data into a checkout of the
    commit.
    """
    params = folder / "params.yaml"
    tree = yaml.safe_load(params.read_text())
    changed = _set(tree, step.parameters, threads, _resolved(folder)) if step.parameters else []
    if changed:
        console.out.print(
            "The stage ran with other parameters than its commit has, and does so now: "
            f"{', '.join(changed)}"
        )
        params.write_text(yaml.safe_dump(tree, sort_keys=False))
    for path, digest in step.deps.items():
        there = folder / path
        if not inside(path):
            raise EcgforgeError(f"{path} in the stage's record leads out of the project: refused")
        if path.startswith("src/") or (there.exists() and md5(there) == digest):
            continue
        content.copy(digest, path, there)


def _set(
    tree: dict[str, Any], parameters: dict[str, Any], threads: int | None, used: dict[str, Any]
) -> list[str]:
    """Put dotted resolved `parameters` into `tree`, which is params.yaml; return the names of those
    that changed.

    Args:
        threads: which no stage depends on, but to the last byte its weights do.
        used: the parameters that `tree` resolves to.
    """
    wanted = parameters | ({"compute.threads": threads} if threads else {})
    changed = []
    for name, value in wanted.items():
        *parents, last = name.split(".")
        if _at(used, name) == value:
            continue
        if name.split(".")[0] in Profile.model_fields:
            parents = ["profiles", tree["profile"], *parents]
        section = tree
        for part in parents:
            section = section.setdefault(part, {})
        section[last] = value
        changed.append(".".join([*parents, last]))
    return changed


def _at(tree: Any, name: str) -> Any:
    """Return the value of a dotted name; None where there is none."""
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _compare(version: Version, found: Path) -> None:
    if md5(found) == version.tags.get(WEIGHTS):
        console.out.print(
            f"{version.label}: identical, weights with md5 {version.tags[WEIGHTS]}", style="green"
        )
        return
    with versions.files(version) as folder:
        before, now = load_file(folder / "weights.safetensors"), load_file(found)
    if {key: value.shape for key, value in before.items()} != {
        key: value.shape for key, value in now.items()
    }:
        raise EcgforgeError(
            f"{version.label}: the weights made now have other names or shapes than those that "
            "were registered"
        )
    gap = max(
        float(abs(before[key].astype(float) - now[key].astype(float)).max(initial=0))
        for key in before
    )
    scale = max(float(abs(value.astype(float)).max(initial=0)) for value in before.values())
    raise EcgforgeError(
        f"{version.label}: the weights made now differ by up to {gap:.3g}; the largest weight is "
        f"{scale:.3g}"
    )
