"""Train a registered version again from its commit and data, in a temporary folder, and compare the
weights. The weights of a training on a GPU do not repeat: its validation figures are compared.
"""

from __future__ import annotations

import math
import os
import re
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
from ecgforge.model_versions.pyfunc_signature import WEIGHTS
from ecgforge.model_versions.versions import Version
from ecgforge.params import Profile
from ecgforge.provenance import lineage
from ecgforge.provenance.dvc_store import DvcStore, Step
from ecgforge.tracking import store
from ecgforge.tracking.store import git, has_commit, inside

# allowed commands, since the dvc.lock of a branch could have any other
REGISTERING = ("train-generator", "train-classifier")
LOSS = re.compile(r"loss/(\w+/)?validation")  # of the only phase of a training, or of one
# of two trainings on a GPU, whose roundings differ: macro-F1, and a loss relative to the first one
F1_TOLERANCE, LOSS_TOLERANCE = 0.05, 0.05


def reproduce(reference: str) -> None:
    """Run the DVC stage of a version again and compare the weights, or figures for a GPU.

    The stage runs with the code, parameters and data of the version, and with its own tracking
    store.

    Raises:
        EcgforgeError: the commit, the stage's record or its data are missing, the recorded command
            does not train a version, the stage fails, or the weights or figures differ.
    """
    store.ensure_reachable()
    version, content = versions.find(reference), DvcStore()
    commit = version.tags.get("git.commit", "")
    if not git(content.root, "rev-parse", "--git-dir"):
        raise EcgforgeError(
            f"{version.label} cannot be reproduced: {content.root} is not in a git repository"
        )
    if not has_commit(content.root, commit):
        raise EcgforgeError(
            f"{version.label} cannot be reproduced: its commit {commit or '(unknown)'} is not in "
            "this repository"
        )
    if version.tags.get("git.dirty") == "true":
        console.out.print(
            f"{version.label} was trained with uncommitted changes; this run uses its commit "
            "without them.",
            style="yellow",
        )
    step = lineage.step_of(version, content)
    if step is None:
        raise EcgforgeError(
            f"{version.label} cannot be reproduced: no dvc.lock, in git or in the working tree, "
            "has a record of its stage"
        )
    arguments = _arguments(step.command)
    if not arguments:
        raise EcgforgeError(
            f"{version.label} cannot be reproduced: the command of its stage, `{step.command}`, "
            "does not train a version"
        )
    with tempfile.TemporaryDirectory(prefix="ecgforge-reproduce-") as scratch:
        folder = _clone(content.root, commit, Path(scratch) / "project")
        _lay_out(content, step, lookup.threads(version.run_id), folder)
        console.out.print(f"{commit[:8]}: {step.command}")
        environment = _environment(folder) | {"DVC_STAGE": step.name}
        ended = subprocess.run(arguments, cwd=folder, env=environment, check=False)
        if ended.returncode:
            raise EcgforgeError(
                f"the stage of {version.label} failed with exit code {ended.returncode}, see above"
            )
        _compare(version, lineage.rerun(version, folder))


def _arguments(command: str) -> list[str]:
    """Split a training command into words, to run it without a shell.

    Returns:
        The words, or none if the command is not a known training, or uses a path outside the
        project.
    """
    try:
        program, stage, *others = shlex.split(command)
    except ValueError:  # one word, or an unclosed quote
        return []
    known = program == "ecgforge" and stage in REGISTERING and "\n" not in command
    return (
        [program, stage, *others]
        if known and all(inside(word.rpartition("=")[2]) for word in others)
        else []
    )


def _clone(root: Path, commit: str, clone: Path) -> Path:
    """Check out a commit of the repository that contains `root`.

    Returns:
        The project's folder in the checkout.

    Raises:
        EcgforgeError: git fails, the commit does not have the project, or one of its links points
            outside the repository.
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
                f"commit {commit} was not run: its link {path.relative_to(clone)} points outside "
                "the repository"
            )
    folder = clone / git(root, "rev-parse", "--show-prefix")
    if not (folder / "params.yaml").is_file():
        raise EcgforgeError(f"commit {commit} has no params.yaml in the project's folder")
    return folder


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment that runs the code of a checkout, without variables of this project."""
    found = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MLFLOW_", "DVC_", "ECGFORGE_", "GIT_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return found | {"PYTHONPATH": str(folder / "src"), "PATH": path}


def _resolved(folder: Path) -> dict[str, Any]:
    """Return the resolved parameters of a checkout, as its own code resolves them.

    Raises:
        EcgforgeError: its params.yaml is invalid.
    """
    command = ["ecgforge", "params"]
    ended = subprocess.run(
        command, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise EcgforgeError(f"the commit's parameters are invalid: {ended.stderr.strip()}")
    found: dict[str, Any] = yaml.safe_load(ended.stdout)
    return found


def _lay_out(content: DvcStore, step: Step, threads: int | None, folder: Path) -> None:
    """Write the stage's parameters, the run's number of threads and the data to a checkout."""
    params = folder / "params.yaml"
    tree = yaml.safe_load(params.read_text())
    changed = _set(tree, step.parameters, threads, _resolved(folder)) if step.parameters else []
    if changed:
        console.out.print(
            "The stage ran with parameters that differ from its commit; this run uses them too: "
            f"{', '.join(changed)}"
        )
        params.write_text(yaml.safe_dump(tree, sort_keys=False))
    for path, digest in step.deps.items():
        there = folder / path
        if not inside(path):
            raise EcgforgeError(
                f"{path} in the stage's record points outside the project, so it was not run"
            )
        if path.startswith("src/") or (there.exists() and md5(there) == digest):
            continue
        content.copy(digest, path, there)


def _set(
    tree: dict[str, Any], parameters: dict[str, Any], threads: int | None, used: dict[str, Any]
) -> list[str]:
    """Write resolved parameters to a params.yaml tree.

    Args:
        tree: the content of params.yaml; changed in place.
        parameters: values by dotted name.
        threads: the run's number of threads. It is not a dependency of a stage, but it changes the
            last digits of the weights.
        used: the parameters that `tree` resolves to.

    Returns:
        The names of the changed parameters.
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
    """Return the value of a dotted name, or None."""
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _compare(version: Version, rerun: lineage.Rerun) -> None:
    found = rerun.weights
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
            f"{version.label}: the new weights have other names or shapes than the registered ones"
        )
    if gpu := lookup.gpu(version.run_id):
        _compare_figures(version.label, gpu, lookup.metrics(version.run_id), rerun.metrics)
        return
    gap = max(
        float(abs(before[key].astype(float) - now[key].astype(float)).max(initial=0))
        for key in before
    )
    scale = max(float(abs(value.astype(float)).max(initial=0)) for value in before.values())
    raise EcgforgeError(
        f"{version.label}: the new weights differ by up to {gap:.3g}; the largest weight is "
        f"{scale:.3g}"
    )


def _compare_figures(label: str, gpu: str, before: dict[str, float], now: dict[str, float]) -> None:
    """Compare the validation figures of two trainings, within the tolerances.

    Raises:
        EcgforgeError: a figure is missing or differs by more, or there is none.
    """
    losses = [name for name in before if LOSS.fullmatch(name)]
    names = [lookup.BEST_F1] if lookup.BEST_F1 in before else losses
    shown: list[str] = []
    wrong = not names
    for name in names:
        tolerance = F1_TOLERANCE if name == lookup.BEST_F1 else LOSS_TOLERANCE * abs(before[name])
        again = now.get(name, math.nan)
        wrong |= not abs(again - before[name]) <= tolerance
        shown.append(f"{name} {before[name]:.4g} and {again:.4g}")
    figures = (
        f"trained on {gpu}, where weights do not repeat; validation figures before and now: "
        f"{', '.join(shown) or 'none'}"
    )
    if wrong:
        raise EcgforgeError(f"{label}: {figures}; they differ by more than the tolerance")
    console.out.print(f"{label}: {figures}; within the tolerance", style="green")
