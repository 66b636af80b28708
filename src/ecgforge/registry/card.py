"""The model card of a version (Mitchell et al., FAT* 2019), from its lineage and verdict only."""

from __future__ import annotations

import pandas as pd

from ecgforge.registry.verdict import Verdict
from ecgforge.study import metrics

LENGTH = 5000  # largest length of a description in MLflow, in characters
USE = {
    "classifier": "Research: classifies the rhythm of a resting 10 s, 12-lead ECG, prepared "
    "like its training records. It knows only the rhythms below, and gives one "
    "rhythm for each record. Not a medical device; not for decisions about "
    "patients.",
    "generator": "Research: generates synthetic 10 s ECGs of the rhythms that it has "
    "learned. Its records do not belong to patients; not for decisions about "
    "patients.",
}


def write(verdict: Verdict) -> str:
    """Return the card as Markdown, cut to the length that MLflow stores."""
    version, kind = verdict.version, verdict.version.tags.get("kind", "classifier")
    lines = [f"# {version.label}", ""]
    if "forced" in version.tags:
        lines += [f"**FORCED despite failed gates**, {version.tags['forced']}", ""]
    outcome = "passed" if verdict.passed else f"failed {', '.join(verdict.failed)}"
    lines += [
        f"Verdict: **{outcome}**, against {verdict.against}.",
        "",
        "## Intended use and limits",
        "",
        USE[kind],
        "",
    ]
    lines += ["## Data", "", *_data(verdict), ""]
    lines += [
        "## Metrics",
        "",
        *(_test_metrics(verdict) if kind == "classifier" else _scores(verdict)),
        "",
    ]
    lines += ["## Gates", "", "| gate | value | bound | passed |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {gate.name} | {gate.value} | {gate.bound} | {'yes' if gate.passed else '**no**'} |"
        for gate in verdict.gates
    ]
    lines += [
        "",
        "## Not tested",
        "",
        *_untested(verdict),
        "",
        "## Lineage",
        "",
        *_origin(verdict),
    ]
    text = "\n".join(lines) + "\n"
    return text if len(text) <= LENGTH else text[: LENGTH - 5] + " ...\n"


def _data(verdict: Verdict) -> list[str]:
    rows = ["| record set | origin | records | md5 |", "| --- | --- | --- | --- |"]
    for node in verdict.lineage.all():
        if node.kind == "record set":
            facts = [node.facts.get(name, "unknown") for name in ("origin", "records")]
            rows.append(f"| {node.name} | {' | '.join(facts)} | `{node.digest}` |")
    counts = ", ".join(
        f"{rhythm} {count}"
        for rhythm, count in verdict.test.items()
        if rhythm not in ("digest", "origin")
    )
    return [
        *rows,
        "",
        f"Judged by the test records of `{verdict.test['digest']}` ({verdict.test['origin']}): "
        f"{counts}.",
    ]


def _test_metrics(verdict: Verdict) -> list[str]:
    table = verdict.metrics
    macro = table[table["rhythm"] == metrics.MACRO]
    lines = ["| on test records | value | interval over test patients |", "| --- | --- | --- |"]
    chosen = [
        (row, f"macro {row['metric']}")
        for row in macro.to_dict("records")
        if row["metric"] in ("f1", "auroc", "recall")
    ]
    recalls = table[(table["rhythm"] != metrics.MACRO) & (table["metric"] == "recall")]
    chosen += [(row, f"recall {row['rhythm']}") for row in recalls.to_dict("records")]
    return lines + [
        f"| {name} | {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} |"
        for row, name in chosen
    ]


def _scores(verdict: Verdict) -> list[str]:
    shown = (
        "c2st_accuracy",
        "precision",
        "recall",
        "coverage",
        "heart_rate_w1",
        "rr_cv_w1",
        "copied_share",
        "membership_auc",
    )
    lines = [
        "| score | value | real-vs-real baseline | 95 % interval of the value |",
        "| --- | --- | --- | --- |",
    ]
    for row in verdict.metrics[verdict.metrics["metric"].isin(shown)].to_dict("records"):
        interval = "not known" if pd.isna(row["low"]) else f"{row['low']:.3g} to {row['high']:.3g}"
        lines.append(
            f"| {row['metric']} | {row['value']:.3g} | {row['baseline']:.3g} | {interval} |"
        )
    return lines


def _untested(verdict: Verdict) -> list[str]:
    found = [
        "- records of other hospitals, devices, lengths or lead placements than those of its data",
        "- rhythms other than those above, records with several rhythms, pacemakers",
        "- differences by age, sex or origin of the patients",
    ]
    if verdict.test["origin"] != "real":
        found.insert(
            0, f"- **records of real patients: its test records are {verdict.test['origin']}**"
        )
    return found


def _origin(verdict: Verdict) -> list[str]:
    tags = verdict.version.tags
    lines = [
        f"- commit `{tags.get('git.commit', 'unknown')}`, DVC stage "
        f"`{tags.get('dvc.stage', 'unknown')}`, seed {tags.get('seed', '?')}"
    ]
    lines += [
        f"- generated by {node.name}"
        for node in verdict.lineage.all()
        if node.kind == "version" and node is not verdict.lineage
    ]
    return [*lines, f"- full lineage: `ecgforge lineage {verdict.version.label}`"]
