"""Lineage of a model version or a record set, back to the source.

The facts come from MLflow, from the descriptions of record sets, and from DVC's records of stages.
A fact that is no longer available is marked as gone, and the trace continues with the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ecgforge.errors import EcgforgeError
from ecgforge.model_versions.pyfunc_signature import SAMPLED, WEIGHTS, canonical_json
from ecgforge.model_versions.versions import FILES, Version, all_versions, find
from ecgforge.provenance.dvc_store import DIGEST, DvcStore, Step
from ecgforge.tracking import store
from ecgforge.tracking.runs import FINGERPRINT, GENERATED_BY, INPUT
from ecgforge.tracking.store import client, git, has_commit, with_retry

RUN = re.compile(r"^[0-9a-f]{32}$")
GONE, UNKNOWN = "gone", "no commit is known"
TUNED = "models/tuning/"
# digest of the file of tuned parameters if nothing was tuned
UNTUNED = hashlib.md5(b"{}\n").hexdigest()
ABOUT = "about.json"  # of a record set
RAW = Path("data/raw")
# the folders of record sets in a project
RECORDS = ("data/prepared/*", "data/synthetic/*/*", "data/raw/*")
# tags of a version that are shown as facts
SHOWN_TAGS = ("setting", "backbone", "seed", SAMPLED, "verdict", "forced")


@dataclass(frozen=True)
class Node:
    """A node of a lineage.

    Attributes:
        kind: `version`, `run`, `record set`, `file`, `generator` (if no version of it is known) or
            `source`.
        name: for display.
        digest: of record sets and files, as in DVC; of a version, the md5 of its weights.
        path: where record sets and files may be in the working tree.
        facts: further information, as text.
        made_from: the nodes that it was made from, each with its role.
        version: the version itself, if that is the kind.
    """

    kind: str
    name: str
    digest: str = ""
    path: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    made_from: list[tuple[str, Node]] = field(default_factory=list)
    version: Version | None = None

    @property
    def real(self) -> bool:
        """Whether this is a record set that no generator sampled."""
        return self.kind == "record set" and self.facts.get("origin") != "synthetic"

    @property
    def lost(self) -> bool:
        """Whether the node, or a fact about it, is no longer available."""
        facts = [self.facts.get(name, "") for name in ("run", "commit", "content", "version")]
        return any(word in fact for fact in facts for word in (GONE, UNKNOWN))

    def all(self) -> Iterator[Node]:
        """Yield this node and all nodes behind it, each once."""
        seen: dict[int, Node] = {}
        waiting = [self]
        while waiting:
            node = waiting.pop(0)
            if id(node) not in seen:
                seen[id(node)] = node
                waiting += [other for _, other in node.made_from]
        yield from seen.values()


def trace(reference: str, content: DvcStore) -> Node:
    """Return the lineage of a version, a run, or a file or folder under models/ or data/.

    Args:
        reference: `name@alias`, `name/number`, a run id, or a path.

    Raises:
        EcgforgeError: the reference is none of these.
    """
    walker = Walker(content)
    if RUN.match(reference):
        return walker.run(reference, {})
    full = Path(os.path.normpath(content.root / reference))
    path = full.relative_to(content.root) if full.is_relative_to(content.root) else full
    if path.parts[:1] in (("data",), ("models",)):
        return walker.path(path)
    if full.exists():
        raise EcgforgeError(
            f"'{reference}' is not a file or folder under models/ or data/ of {content.root}; "
            "only those have a lineage"
        )
    return walker.version(find(reference))


def trained_on(node: Node) -> Iterator[Node]:
    """Yield the real record sets that trained a version, directly or through a generator.

    Record sets and generators of unknown origin are yielded too, in place of the real ones.
    """
    for role, other in node.made_from:
        if role == "test":
            continue
        if other.real or (other.kind in ("record set", "generator") and not other.made_from):
            yield other
        else:
            yield from trained_on(other)


class Walker:
    """Follows facts back to the source; each thing becomes one node."""

    def __init__(self, content: DvcStore) -> None:
        self.content = content
        self._nodes: dict[str, Node] = {}
        self._lost: dict[str, str] = {}

    def version(self, version: Version) -> Node:
        key = version.label
        if key not in self._nodes:
            facts = {name: version.tags[name] for name in SHOWN_TAGS if name in version.tags}
            aliases = {"alias": ", ".join(version.aliases)} if version.aliases else {}
            # a version that was registered by hand has no run
            made_by = (
                [("made by", self.run(version.run_id, version.tags))] if version.run_id else []
            )
            behind = [*made_by, *self._tuned(version)]
            self._nodes[key] = Node(
                "version",
                version.label,
                version.tags.get(WEIGHTS, ""),
                "",
                aliases | facts,
                behind,
                version,
            )
        return self._nodes[key]

    def run(self, run_id: str, tags: dict[str, str]) -> Node:
        """Return the run with this id.

        If MLflow no longer has it, from the `tags` of its version.
        """
        if run_id in self._nodes:
            return self._nodes[run_id]
        found = store.run(run_id)
        if found is None and not tags:
            raise EcgforgeError(f"MLflow has no run {run_id}")
        tags = {**tags, **(found.data.tags if found else {})}
        facts = {"run": run_id if found else f"{run_id}, {GONE} from MLflow"}
        facts |= {
            name: tags[key]
            for name, key in (
                ("stage", "dvc.stage"),
                ("experiment", "dvc.exp"),
                ("fingerprint", FINGERPRINT),
            )
            if key in tags
        }
        facts["commit"] = self._commit(tags)
        if found:
            facts["parameters"] = ", ".join(
                f"{key}={value}" for key, value in sorted(found.data.params.items())
            )
        name = tags.get("mlflow.runName", "its run")
        self._nodes[run_id] = Node(
            "run", name, facts=facts, made_from=list(self._inputs(tags, found))
        )
        return self._nodes[run_id]

    def path(self, path: Path) -> Node:
        """Return the node of a path in the working tree."""
        if not (self.content.root / path).exists():
            raise EcgforgeError(
                f"{path} is not in the working tree: run `dvc checkout`, or name its version or run"
            )
        folder = path if (self.content.root / path).is_dir() else path.parent
        weights = self.content.root / folder / "weights.safetensors"
        if weights.exists():
            found = versions_by_weights(
                self.content.digest((folder / "weights.safetensors").as_posix())
            )
            if not found:
                raise EcgforgeError(f"no version is registered with the weights in {folder}")
            return self.version(found[-1])
        if path.is_relative_to(TUNED) and folder != path:
            return self.data(path.as_posix(), self.content.digest(path.as_posix()), path.as_posix())
        if path.parts[0] == "models":
            known = sorted(
                file.parent.relative_to(self.content.root)
                for file in (self.content.root / path).rglob("*.safetensors")
            )
            raise EcgforgeError(
                f"{path} is not a model"
                + (f": name one in this folder, such as {known[0]}" if known else "")
            )
        return self._records(path, folder)

    def _records(self, path: Path, folder: Path) -> Node:
        """Return the record set or the raw records that contain a path below data/."""
        root, raw = self.content.root, folder.is_relative_to(RAW) and folder != RAW
        whole = (
            Path(*folder.parts[:3])
            if raw
            else next(
                (one for one in (folder, *folder.parents) if (root / one / ABOUT).exists()), None
            )
        )
        if whole is None:
            known = (
                found.relative_to(root)
                for kind in RECORDS
                for found in sorted(root.glob(kind))
                if found.is_dir()
            )
            inside = next(
                (
                    f": name one in this folder, such as {one}"
                    for one in known
                    if one.is_relative_to(path)
                ),
                "",
            )
            raise EcgforgeError(f"{path} is not a record set{inside}")
        name = "/".join(whole.parts[1 if raw else 2 :]) or whole.name
        return self.data(name, self.content.digest(whole.as_posix()), whole.as_posix())

    def data(self, name: str, digest: str, path: str, given: dict[str, str] | None = None) -> Node:
        """Return a record set, raw records, or a file.

        Args:
            given: facts from the run that used it: origin, generated_by.
        """
        key = f"{path} {digest}"  # files with equal content may have different origins
        if key in self._nodes:
            return self._nodes[key]
        about = (
            _tree(self.content.read(digest, ABOUT, path) or "") if digest.endswith(".dir") else {}
        )
        made = {"weights_md5": (given or {}).get("generated_by", ""), **_mapping(about.get("made"))}
        facts = {"origin": str(about.get("origin", (given or {}).get("origin", "")))}
        raw = path.startswith("data/raw") and not about
        if digest.endswith(".dir") and not about and not raw:
            facts["content"] = GONE
        # a damaged description lacks keys or has other types
        with suppress(KeyError, TypeError, AttributeError, IndexError):
            splits = list(made["by_rhythm"].values())
            facts["records"] = ", ".join(
                f"{split} {sum(row[split] for row in splits)}" for split in splits[0]
            )
        if "sampling" in made:
            facts["sampling"] = json.dumps(made["sampling"])
        step = self.content.made_by(digest, path)
        if step:
            facts["stage"] = step.name or step.command
        kind = (
            "record set"
            if digest.endswith(".dir") and not raw
            else "raw records"
            if raw
            else "file"
        )
        node = self._nodes[key] = Node(
            kind, name, digest, path, {key: value for key, value in facts.items() if value}
        )
        node.made_from.extend(
            self._generated_by(made, name) if made["weights_md5"] else self._prepared_from(step)
        )
        return node

    def _generated_by(self, made: dict[str, Any], name: str) -> Iterator[tuple[str, Node]]:
        found = versions_by_weights(made["weights_md5"])
        if found:
            sampling = canonical_json(_mapping(made.get("sampling")))
            alike = [version for version in found if version.tags.get(SAMPLED) == sampling]
            yield "generated by", self.version((alike or found)[-1])
            return
        learned = []
        if made.get("learned_from_md5") and made.get("dataset"):
            learned = [
                (
                    "training",
                    self.data(
                        made["dataset"],
                        made["learned_from_md5"],
                        f"data/prepared/{made['dataset']}",
                    ),
                )
            ]
        facts = {"version": f"no version is registered with these weights: {GONE}"}
        yield (
            "generated by",
            Node("generator", f"the generator of {name}", made["weights_md5"], "", facts, learned),
        )

    def _prepared_from(self, step: Any) -> Iterator[tuple[str, Node]]:
        if step is None:
            return
        behind = {path: digest for path, digest in step.deps.items() if path.startswith("data/")}
        for path, digest in behind.items():
            yield "prepared from", self.data(path.removeprefix("data/"), digest, path)
        if not behind:
            facts = {
                key.rsplit(".", 1)[-1]: json.dumps(value) for key, value in step.parameters.items()
            }
            yield "acquired from", Node("source", step.command, facts=facts)

    def _inputs(self, tags: dict[str, str], run: Any) -> Iterator[tuple[str, Node]]:
        uses = {}
        for item in run.inputs.dataset_inputs if run else []:
            about = {tag.key: tag.value for tag in item.tags}
            uses[item.dataset.name] = (
                about.get("mlflow.data.context", ""),
                about.get("origin", ""),
                _tree(item.dataset.source),
            )
        for key, digest in sorted(tags.items()):
            if key.startswith(INPUT):
                name = key.removeprefix(INPUT)
                generated_by = tags.get(f"{GENERATED_BY}{name}", "")
                role, origin, source = uses.get(
                    name, ("input", "synthetic" if generated_by else "", {})
                )
                path = (
                    source.get("path")
                    or f"data/{'synthetic' if '/' in name else 'prepared'}/{name}"
                )
                yield (
                    role,
                    self.data(
                        name, digest, str(path), {"origin": origin, "generated_by": generated_by}
                    ),
                )

    def _tuned(self, version: Version) -> Iterator[tuple[str, Node]]:
        """Yield the tuned parameters of a version's stage, from DVC's record of the stage."""
        step = step_of(version, self.content)
        for path, digest in step.deps.items() if step else []:
            if path.startswith(TUNED) and digest != UNTUNED:
                yield "parameters from", self.data(path, digest, path)

    def _commit(self, tags: dict[str, str]) -> str:
        commit = tags.get("git.commit", "")
        if not commit:
            return UNKNOWN
        if commit not in self._lost:
            self._lost[commit] = self._why_lost(commit)
        changes = ", with uncommitted changes" if tags.get("git.dirty") == "true" else ""
        return commit + changes + self._lost[commit]

    def _why_lost(self, commit: str) -> str:
        """Return the words for a commit that git does not have; empty if it has it."""
        if has_commit(self.content.root, commit):
            return ""
        if git(self.content.root, "rev-parse", "--git-dir"):
            return f", {GONE} from git"
        return f", {GONE}: there is no git repository here"


def _tree(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON mapping; empty if the text is damaged."""
    try:
        return _mapping(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def versions_by_weights(weights: str) -> list[Version]:
    """Return the versions of any model with these weights, oldest first."""
    if not DIGEST.fullmatch(weights):
        return []
    found = with_retry(client().search_model_versions, f"tags.`{WEIGHTS}` = '{weights}'")
    return sorted(
        (find(f"{one.name}/{one.version}") for one in found),
        key=lambda version: int(version.number),
    )


def aliased() -> list[Version]:
    """Return all versions of all models that have an alias."""
    return [version for version in all_versions() if version.aliases]


def step_of(version: Version, content: DvcStore) -> Step | None:
    """Return DVC's record of the stage that made a version; None if no record remains.

    The record is the one whose outputs contain the weights, or else one with the same stage name
    and inputs.
    """
    inputs = {value for key, value in version.tags.items() if key.startswith(INPUT)}
    steps = [
        step
        for step in content.steps(next(iter(inputs), "-"))
        if inputs <= {*step.deps.values(), *step.outs.values()}
    ]
    stage, weights = version.tags.get("dvc.stage", ""), version.tags.get(WEIGHTS, "-")
    steps.sort(key=lambda step: step.name != stage)  # several stages may have made the same weights
    exact = [
        step
        for step in steps
        if any(weights in content.listing(out).values() for out in step.outs.values())
    ]
    found = next((step for step in exact or steps if exact or step.name == stage), None)
    return replace(found, name=stage) if found else None


@dataclass(frozen=True)
class Rerun:
    """A version that a repeated stage registered: its weights, and the metrics of its run."""

    weights: Path
    metrics: dict[str, float]


def rerun(version: Version, folder: Path) -> Rerun:
    """Return what a repeated stage registered in place of this version.

    Args:
        folder: of the project in which the stage was repeated, with its own tracking store.

    Raises:
        EcgforgeError: the stage registered no such version.
    """
    from mlflow import MlflowClient

    uri = store.address(folder / store.DATABASE)
    same = (
        "dataset",
        "generator",
        "setting",
        "backbone",
        "sweep",
        "point",
        "augmented",
        "fold",
        "draw",
        "seed",
    )
    there = MlflowClient(uri, uri)
    for one in there.search_model_versions(f"name = '{version.name}'"):
        if all(one.tags.get(name) == version.tags.get(name) for name in same):
            source = one.source.rsplit("/", 1)[-1]
            weights = next(folder.glob(f"mlruns/**/{source}/artifacts/{FILES}/weights.safetensors"))
            return Rerun(weights, dict(there.get_run(one.run_id).data.metrics))
    raise EcgforgeError(f"the stage ran, but did not register a version like {version.label}")
