"""Where a model version or a record set comes from, down to the source: by the facts that MLflow
holds, by what record sets say of themselves, and by DVC's records of the stages that ran. What is
gone is said to be, and the rest goes on from the facts that remain.
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
from ecgforge.model_versions.models import SAMPLED, WEIGHTS, canonical_json
from ecgforge.model_versions.versions import FILES, Version, all_versions, find
from ecgforge.provenance.dvc_store import DIGEST, DvcStore, Step
from ecgforge.tracking import store
from ecgforge.tracking.runs import CELL, DRAWN_BY, INPUT
from ecgforge.tracking.store import client, git, has_commit, with_retry

RUN = re.compile(r"^[0-9a-f]{32}$")
GONE, UNKNOWN = "gone", "no commit is known"
TUNED = "models/tuning/"
# of the file of tuned parameters where nothing was tuned
UNTUNED = hashlib.md5(b"{}\n").hexdigest()
ABOUT = "about.json"  # of a record set
RAW = Path("data/raw")
RECORDS = ("data/prepared/*", "data/synthetic/*/*", "data/raw/*")  # where a study keeps them
# tags of a version that are facts of it
TOLD = ("setting", "backbone", "seed", SAMPLED, "verdict", "forced")


@dataclass(frozen=True)
class Node:
    """One thing in a lineage.

    Attributes:
        kind: `version`, `run`, `record set`, `file`, `generator` (one that no version is known of)
            or `source`.
        name: for people.
        digest: DVC's, of record sets and files; of a version the md5 of its weights.
        path: where in the working tree record sets and files may lie.
        facts: what else is known, in words.
        made_from: what it was made from, each with the part that it played.
        version: of kind `version`, the version itself.
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
        """Whether it is a record set that no generator drew."""
        return self.kind == "record set" and self.facts.get("origin") != "synthetic"

    @property
    def lost(self) -> bool:
        """Whether it, or a fact about it, is not available."""
        told = [self.facts.get(name, "") for name in ("run", "commit", "content", "version")]
        return any(word in fact for fact in told for word in (GONE, UNKNOWN))

    def all(self) -> Iterator[Node]:
        """Yield this and everything behind it, each once."""
        seen: dict[int, Node] = {}
        waiting = [self]
        while waiting:
            node = waiting.pop(0)
            if id(node) not in seen:
                seen[id(node)] = node
                waiting += [other for _, other in node.made_from]
        yield from seen.values()


def trace(reference: str, content: DvcStore) -> Node:
    """Return the lineage of a version (`name@alias`, `name/number`), a run id, or a file or folder
    under models/ or data/.

    Raises:
        EcgforgeError: the words mean none of these.
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
            f"'{reference}' is no file or folder under models/ or data/ of {content.root}, and no "
            "other has a lineage"
        )
    return walker.version(find(reference))


def trained_on(node: Node) -> Iterator[Node]:
    """Yield the real record sets that the model of a version learned from, itself or through a
    generator; and, in their place, record sets and generators of which nothing more is known.
    """
    for role, other in node.made_from:
        if role == "test":
            continue
        if other.real or (other.kind in ("record set", "generator") and not other.made_from):
            yield other
        else:
            yield from trained_on(other)


class Walker:
    """Follows facts back; a thing that is met twice is one node."""

    def __init__(self, content: DvcStore) -> None:
        self.content = content
        self._nodes: dict[str, Node] = {}

    def version(self, version: Version) -> Node:
        key = version.label
        if key not in self._nodes:
            facts = {name: version.tags[name] for name in TOLD if name in version.tags}
            aliases = {"alias": ", ".join(version.aliases)} if version.aliases else {}
            # a version made by hand has none
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
        """The run with this id; where MLflow has it no more, what `tags`, of its version, say of
        it.
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
            for name, key in (("stage", "dvc.stage"), ("experiment", "dvc.exp"), ("cell", CELL))
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
        """What lies at a path of the working tree."""
        if not (self.content.root / path).exists():
            raise EcgforgeError(
                f"{path} is not in the working tree: `dvc checkout` or name the version or run "
                "that it belongs to"
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
                f"{path} is no model"
                + (f": name one of those in it, such as {known[0]}" if known else "")
            )
        return self._records(path, folder)

    def _records(self, path: Path, folder: Path) -> Node:
        """The record set, or the raw records, that a path below data/ belongs to."""
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
                    f": name one of those in it, such as {one}"
                    for one in known
                    if one.is_relative_to(path)
                ),
                "",
            )
            raise EcgforgeError(f"{path} is no record set{inside}")
        name = "/".join(whole.parts[1 if raw else 2 :]) or whole.name
        return self.data(name, self.content.digest(whole.as_posix()), whole.as_posix())

    def data(self, name: str, digest: str, path: str, given: dict[str, str] | None = None) -> Node:
        """A record set, raw records, or a file.

        `given` is what the run that used it says of it: origin, drawn_by.
        """
        key = f"{path} {digest}"  # files of one content may have come about in several ways
        if key in self._nodes:
            return self._nodes[key]
        about = (
            _tree(self.content.read(digest, ABOUT, path) or "") if digest.endswith(".dir") else {}
        )
        made = {"weights_md5": (given or {}).get("drawn_by", ""), **_mapping(about.get("made"))}
        facts = {"origin": str(about.get("origin", (given or {}).get("origin", "")))}
        raw = path.startswith("data/raw") and not about
        if digest.endswith(".dir") and not about and not raw:
            facts["content"] = GONE
        # of a description that is damaged
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
            self._drawn_by(made, name) if made["weights_md5"] else self._prepared_from(step)
        )
        return node

    def _drawn_by(self, made: dict[str, Any], name: str) -> Iterator[tuple[str, Node]]:
        found = versions_by_weights(made["weights_md5"])
        if found:
            sampling = canonical_json(_mapping(made.get("sampling")))
            alike = [version for version in found if version.tags.get(SAMPLED) == sampling]
            yield "drawn by", self.version((alike or found)[-1])
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
        facts = {"version": f"none is registered with these weights: {GONE}"}
        yield (
            "drawn by",
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
                drawn_by = tags.get(f"{DRAWN_BY}{name}", "")
                role, origin, source = uses.get(
                    name, ("input", "synthetic" if drawn_by else "", {})
                )
                path = (
                    source.get("path")
                    or f"data/{'synthetic' if '/' in name else 'prepared'}/{name}"
                )
                yield (
                    role,
                    self.data(name, digest, str(path), {"origin": origin, "drawn_by": drawn_by}),
                )

    def _tuned(self, version: Version) -> Iterator[tuple[str, Node]]:
        """The tuned parameters that the stage of a version had, by DVC's record of it."""
        step = step_of(version, self.content)
        for path, digest in step.deps.items() if step else []:
            if path.startswith(TUNED) and digest != UNTUNED:
                yield "parameters from", self.data(path, digest, path)

    def _commit(self, tags: dict[str, str]) -> str:
        commit = tags.get("git.commit", "")
        if not commit:
            return UNKNOWN
        there = has_commit(self.content.root, commit)
        changes = (
            ", with changes that were not committed" if tags.get("git.dirty") == "true" else ""
        )
        repository = git(self.content.root, "rev-parse", "--git-dir")
        return (
            commit
            + changes
            + (
                ""
                if there
                else f", {GONE} from git"
                if repository
                else f", {GONE}: there is no git repository here"
            )
        )


def _tree(text: str | bytes) -> dict[str, Any]:
    """What a text of JSON says, nothing where it is damaged."""
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
    """Return all versions that have an alias, of all models."""
    return [version for version in all_versions() if version.aliases]


def step_of(version: Version, content: DvcStore) -> Step | None:
    """Return the record of the DVC stage that made a version: the one whose outputs hold its
    weights, or else one by the name of its stage with its inputs; None where no record remains.
    """
    inputs = {value for key, value in version.tags.items() if key.startswith(INPUT)}
    steps = [
        step
        for step in content.steps(next(iter(inputs), "-"))
        if inputs <= {*step.deps.values(), *step.outs.values()}
    ]
    stage, weights = version.tags.get("dvc.stage", ""), version.tags.get(WEIGHTS, "-")
    steps.sort(key=lambda step: step.name != stage)  # several may have made the same weights
    exact = [
        step
        for step in steps
        if any(weights in content.listing(out).values() for out in step.outs.values())
    ]
    found = next((step for step in exact or steps if exact or step.name == stage), None)
    return replace(found, name=stage) if found else None


def rerun_weights(version: Version, folder: Path) -> Path:
    """Return the weights that a stage run in the project in `folder`, with a tracking store of its
    own, registered in this version's place.

    Raises:
        EcgforgeError: it registered none.
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
    for one in MlflowClient(uri, uri).search_model_versions(f"name = '{version.name}'"):
        if all(one.tags.get(name) == version.tags.get(name) for name in same):
            return next(
                folder.glob(
                    f"mlruns/**/{one.source.rsplit('/', 1)[-1]}/artifacts/{FILES}"
                    "/weights.safetensors"
                )
            )
    raise EcgforgeError(f"the stage ran, but registered nothing in the place of {version.label}")
