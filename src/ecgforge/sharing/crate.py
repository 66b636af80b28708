"""The provenance of a model version as an RO-Crate, which other programs can read.

The crate follows the Workflow Run Crate profile, https://w3id.org/ro/wfrun/workflow/0.5: dvc.yaml
is the workflow, and each stage in the lineage is an action with its inputs and its result. Data and
models are named by their digests; the crate does not contain them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecgforge import __version__
from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import history
from ecgforge.model_versions.versions import Version
from ecgforge.provenance.lineage import Node
from ecgforge.sharing import code
from ecgforge.tracking import store

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
LICENCE = "https://spdx.org/licenses/Apache-2.0"  # of the workflow
WORKFLOW, PARAMETERS = "dvc.yaml", "params.yaml"
README, VERDICT, CARD = "README.md", "verdict.json", "model_card.md"
DIGEST_OF_DVC = (
    "MD5 of the file; with the suffix .dir, MD5 of DVC's JSON list of the files of the folder"
)
EVIDENCE = re.compile(r"run ([0-9a-f]{32}), (promotion/\S+)\.json; md5 ([0-9a-f]{32})")
PRIVATE = {"path"}  # parameters of a source that only make sense on the publisher's machine


@dataclass(frozen=True)
class Promotion:
    """A promotion, with the verdict and the model card of that time.

    Attributes:
        entry: of the history.
        verdict: JSON; empty if it is no longer available.
        card: Markdown; empty if it is no longer available.
    """

    entry: history.Entry
    verdict: bytes
    card: bytes


def promotion(version: Version) -> Promotion | None:
    """Return the last promotion of a version; None if it was never promoted.

    Raises:
        EcgforgeError: the verdict is not the one that the history names.
    """
    found = [one for one in history.entries(version.name) if one.version == version.number]
    entry = next((one for one in reversed(found) if one.action != history.ROLLED_BACK), None)
    if entry is None:
        return None
    named = EVIDENCE.search(entry.evidence)
    if named is None:
        return Promotion(entry, b"", b"")
    verdict, card = (store.read_file(named[1], named[2] + end) or b"" for end in (".json", ".md"))
    if verdict and hashlib.md5(verdict).hexdigest() != named[3]:
        raise EcgforgeError(
            f"the verdict on {version.label} was changed: its md5 is not the one in "
            f"`ecgforge history {version.name}`"
        )
    return Promotion(entry, verdict, card)


def write(traced: Node, root: Path, flowchart: str, folder: Path) -> None:
    """Write the crate of a version to `folder`.

    Args:
        traced: lineage of the version.
        root: of the project.
        flowchart: of the lineage, in Mermaid.
        folder: to write; its parent exists.

    Raises:
        EcgforgeError: `rocrate` is not installed, or the commit of the version is gone.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise EcgforgeError(
            "rocrate is not installed, which writes the crate: run `pip install "
            "'ecgforge[sharing]'`"
        ) from None
    assert traced.version, "the command checks this"
    writer = _Writer(ROCrate(version="1.1"), traced, traced.version, root)
    writer.write(flowchart, folder)


PAGE = """# Provenance of {label}

This folder is an [RO-Crate](https://w3id.org/ro/crate): programs read `ro-crate-metadata.json`.
That file lists the stages that made the model, with inputs, parameters, code and metrics{verdict}.
It has the digests of data and weights; these files themselves are not in the folder.

| file | content |
| --- | --- |
| `{WORKFLOW}`, `{PARAMETERS}` | stages and parameters of the study, at commit {commit} |
{files}
{promoted}## Lineage

Each arrow points from an artefact to one of its inputs.

```mermaid
{flowchart}```
"""


class _Writer:
    def __init__(self, crate: Any, traced: Node, version: Version, root: Path) -> None:
        self.crate, self.traced, self.version, self.root = crate, traced, version, root
        self.commit = version.tags.get("git.commit", "")
        self.promotion = promotion(version)

    def write(self, flowchart: str, folder: Path) -> None:
        self._describe()
        self._file(README, self._readme(flowchart).encode(), about={"@id": "./"})
        workflow, parameters = self._workflow(), self._file(PARAMETERS, self._at_commit(PARAMETERS))
        program = self._program()
        actions = [
            self._action(node, program) for node in self.traced.all() if self._made_from(node)
        ]
        whole = self._whole(workflow, parameters)
        verdicts = [self._promoted(program)] if self.promotion else []
        self.crate.root_dataset["mentions"] = [whole, *actions, *verdicts]
        self.crate.write(folder)

    def _describe(self) -> None:
        root, label = self.crate.root_dataset, self.version.label
        alias = f", {', '.join(self.version.aliases)}" if self.version.aliases else ""
        self.crate.name = f"Provenance of {label}{alias}"
        self.crate.description = (
            f"How the model {label} was made: record sets, parameters, code, metrics"
            + (" and the verdict of its promotion." if self.promotion else ".")
        )
        self.crate.license = self._add(
            LICENCE, "CreativeWork", name="Apache License 2.0", identifier="Apache-2.0"
        )
        self.crate.datePublished = datetime.now(UTC).replace(microsecond=0)
        root["author"] = self._person(store.author())
        root["conformsTo"] = [
            self._add(address, "CreativeWork", name=name, version=address.rsplit("/", 1)[1])
            for address, name in PROFILES.items()
        ]
        self.crate.metadata.append_to("conformsTo", root["conformsTo"][-1])

    def _readme(self, flowchart: str) -> str:
        found, files = self.promotion, ""
        if found and found.verdict:
            files += f"| `{VERDICT}` | gates with values and bounds, metrics with intervals |\n"
        if found and found.card:
            files += f"| `{CARD}` | model card: use, limits, metrics, gates |\n"
        return PAGE.format(
            label=self.version.label,
            verdict=", and its promotion" if found else "",
            WORKFLOW=WORKFLOW,
            PARAMETERS=PARAMETERS,
            commit=self.commit,
            files=files,
            promoted=f"## Promotion\n\n{_words(found.entry)}\n\n" if found else "",
            flowchart=flowchart,
        )

    def _add(self, identifier: str, kind: str | list[str], /, **properties: Any) -> Any:
        from rocrate.model.contextentity import ContextEntity

        known = self.crate.get(identifier)
        given = {key: _plain(value) for key, value in properties.items() if value not in ("", [])}
        return known or self.crate.add(
            ContextEntity(self.crate, identifier, properties={"@type": kind, **given})
        )

    def _person(self, name: str) -> Any:
        return self._add(f"#person-{_slug(name)}", "Person", name=name)

    def _file(self, name: str, content: bytes, **properties: Any) -> Any:
        from io import BytesIO

        kind = {".json": "application/json", ".md": "text/markdown", ".yaml": "application/yaml"}
        described = {"name": name, "encodingFormat": kind[Path(name).suffix], **properties}
        return self.crate.add_file(BytesIO(content), name, properties=described)

    def _at_commit(self, name: str) -> bytes:
        prefix = store.git(self.root, "rev-parse", "--show-prefix")
        if not store.has_commit(self.root, self.commit):
            raise EcgforgeError(
                f"{self.version.label} was made with commit {self.commit or '(unknown)'}, which "
                "is not in this repository: fetch it, since the crate contains its workflow"
            )
        return store.git(self.root, "show", f"{self.commit}:{prefix}{name}").encode()

    def _workflow(self) -> Any:
        from io import BytesIO

        language = self._add(
            "https://dvc.org",
            ["ComputerLanguage", "SoftwareApplication"],
            name="DVC",
            url="https://dvc.org",
            softwareVersion=store.version("dvc"),
        )
        properties = {
            "name": "The stages of the study",
            "description": "DVC runs these stages; their commands are those of ecgforge.",
            "version": self.commit,
            "codeRepository": code.remote(self.root),
            "license": {"@id": LICENCE},
            "encodingFormat": "application/yaml",
        }
        from rocrate.model.computationalworkflow import ComputationalWorkflow

        workflow = self.crate.add(
            ComputationalWorkflow(
                self.crate,
                BytesIO(self._at_commit(WORKFLOW)),
                WORKFLOW,
                properties={key: value for key, value in properties.items() if value},
            )
        )
        workflow["programmingLanguage"] = language
        self.crate.mainEntity = workflow
        return workflow

    def _program(self) -> Any:
        return self._add(
            "#ecgforge",
            "SoftwareApplication",
            name="ecgforge",
            softwareVersion=f"{__version__}, commit {self.commit}",
            url=code.remote(self.root),
        )

    def _made_from(self, node: Node) -> list[tuple[str, Node]]:
        """Return the inputs of a node; a run stands for its version."""
        if node.version:
            inputs = [
                pair for role, one in node.made_from if one.kind == "run" for pair in one.made_from
            ]
            return inputs + [pair for pair in node.made_from if pair[1].kind != "run"]
        return [] if node.kind == "run" else node.made_from

    def _entity(self, node: Node) -> Any:
        """Return the entity of a record set, a file or a version, without its content."""
        shown = {key: value for key, value in node.facts.items() if key != "stage"}
        return self._add(
            f"#{_slug(f'{node.kind}-{node.name}-{node.digest[:8]}')}",
            "Dataset" if node.digest.endswith(".dir") else "CreativeWork",
            name=f"{node.kind} {node.name}",
            description="; ".join(f"{key}: {value}" for key, value in shown.items()),
            identifier=self._digest(node) if node.digest else "",
        )

    def _digest(self, node: Node) -> Any:
        return self._add(
            f"#digest-{node.digest}",
            "PropertyValue",
            name="digest of DVC",
            propertyID="md5",
            value=node.digest,
            description=DIGEST_OF_DVC,
        )

    def _values(self, node: Node) -> Iterator[Any]:
        """Yield the parameters of a source."""
        for key, text in node.facts.items():
            value = json.loads(text)
            if isinstance(value, dict):
                text = json.dumps({name: one for name, one in value.items() if name not in PRIVATE})
                key = f"source {key}"
            yield self._value(f"parameter-{node.name}-{key}", key, text)

    def _value(self, identifier: str, name: str, value: Any) -> Any:
        return self._add(f"#{_slug(identifier)}", "PropertyValue", name=name, value=value)

    def _action(self, node: Node, program: Any) -> Any:
        """Return the action that made a node from its inputs."""
        inputs: list[Any] = []
        for _, other in self._made_from(node):
            inputs += self._values(other) if other.kind == "source" else [self._entity(other)]
        run = next((one for _, one in node.made_from if node.version and one.kind == "run"), None)
        facts = run.facts if run else node.facts
        found = store.run(node.version.run_id) if node.version else None
        stage = facts.get("stage", "a stage")
        action = self._add(
            f"#action-{_slug(node.kind)}-{_slug(node.name)}-{node.digest[:8]}",
            "CreateAction",
            name=f"{stage} made {node.kind} {node.name}",
            instrument=program,
            object=inputs + (self._parameters(found) if found else []),
            result=[self._entity(node), *(self._metrics(found) if found else [])],
            description=f"DVC stage {stage}"
            + (f", commit {facts['commit']}" if "commit" in facts else ""),
        )
        if found:
            self._timed(action, found)
        return action

    def _parameters(self, run: Any) -> list[Any]:
        return [
            self._value(f"parameter-{run.info.run_id[:8]}-{key}", key, value)
            for key, value in sorted(run.data.params.items())
        ]

    def _metrics(self, run: Any) -> list[Any]:
        return [
            self._value(f"metric-{run.info.run_id[:8]}-{key}", key, value)
            for key, value in sorted(run.data.metrics.items())
            if not key.startswith("system/")
        ]

    def _whole(self, workflow: Any, parameters: Any) -> Any:
        """Return the run of the whole workflow, from its sources to the version."""
        sources = [
            value
            for node in self.traced.all()
            if node.kind == "source"
            for value in self._values(node)
        ]
        action = self._add(
            "#run-of-the-workflow",
            "CreateAction",
            name=f"The stages that made {self.version.label}",
            instrument=workflow,
            object=[parameters, *sources],
            result=self._entity(self.traced),
            description="`dvc repro` runs the stages. The actions of the stages have their inputs.",
        )
        if found := store.run(self.version.run_id):
            self._timed(action, found, ("endTime",))
        return action

    def _timed(
        self, action: Any, run: Any, ends: tuple[str, ...] = ("startTime", "endTime")
    ) -> None:
        """Add the person and the times of a run to its action."""
        action["agent"] = self._person(run.data.tags.get("mlflow.user", store.author()))
        started, ended = run.info.start_time, run.info.end_time or run.info.start_time
        for name, time in {"startTime": started, "endTime": ended}.items():
            if name in ends:
                moment = datetime.fromtimestamp(time / 1000, UTC)
                action[name] = moment.isoformat(timespec="seconds")

    def _promoted(self, program: Any) -> Any:
        """Return the action of the promotion, with the verdict and the card as its results."""
        assert self.promotion
        entry, results = self.promotion.entry, []
        if self.promotion.verdict:
            about = "The verdict: gates with values and bounds, and metrics with intervals."
            results.append(self._file(VERDICT, self.promotion.verdict, description=about))
        if self.promotion.card:
            results.append(self._file(CARD, self.promotion.card, description="The model card."))
        return self._add(
            "#promotion",
            "CreateAction",
            name=f"{self.version.label} was {entry.action} to champion",
            instrument=program,
            object=[self._entity(self.traced)],
            result=results,
            agent=self._person(entry.who),
            endTime=f"{entry.when.replace(' ', 'T')}+00:00",
            description=_words(entry),
        )


def _words(entry: history.Entry) -> str:
    former = f"version {entry.former}" if entry.former else "no champion"
    reason = f" Reason: {entry.reason}" if entry.reason else ""
    return f"{entry.when} UTC: {entry.action} by {entry.who}, after {former}.{reason}"


def _plain(value: Any) -> Any:
    """Return the item of a list of one item, as RO-Crate prefers it."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-")
