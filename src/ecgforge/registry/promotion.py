"""Judge a version by the gates, make it champion, and roll back to the former champion.

The classifiers of challenger and champion are evaluated again, from the weights in the registry and
on the same test records; metrics in MLflow are not used. A generator is judged by DVC's record of
the stage `quality`: the newest scores, against the current real records, of records generated with
the version's files and sampling.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ecgforge.analysis import statistics
from ecgforge.classifiers.baselines import BASELINES
from ecgforge.classifiers.common import base, registry
from ecgforge.console import counted
from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write, md5, read_csv
from ecgforge.model_versions import history, lookup, signing, versions
from ecgforge.model_versions.pyfunc_signature import DIGEST, SAMPLING, WEIGHTS
from ecgforge.model_versions.versions import Version
from ecgforge.params import Params
from ecgforge.preparation import twins
from ecgforge.provenance import lineage, recorded
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.provenance.lineage import Node
from ecgforge.provenance.recorded import Scored
from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import RecordSet
from ecgforge.registry import card, challenger, gates, serving, training_data, withdrawal
from ecgforge.registry.gates import Gate
from ecgforge.registry.verdict import Verdict
from ecgforge.tracking.runs import FINGERPRINT, INPUT
from ecgforge.tracking.store import git

REQUIRED = ("git.commit", "git.dirty", "dvc.stage", "dataset", "seed", FINGERPRINT, WEIGHTS, DIGEST)
SOURCED = ("record set", "raw records", "file")  # kinds of nodes without a model
NAME = re.compile(r"[a-z][a-z0-9_]*")  # name of a dataset or generator
REPEATS = 30  # the latency is the median of so many repeats


def choose(name: str, number: str | None, best: bool, content: DvcStore) -> Version:
    """Return the version with a number, or the best one on validation records.

    Only versions that were trained on the current data and validated on real records are compared.

    Raises:
        EcgforgeError: there is no such version, or both or neither of the two options are given.
    """
    if best == (number is not None):
        raise EcgforgeError("name a version: --version N, or --best")
    if number is not None:
        return versions.find(f"{name}/{number}")
    known = versions.versions(name)
    if not known:
        raise EcgforgeError(f"no model is registered as '{name}'")
    dataset = known[-1].tags.get("dataset", "")
    current = challenger.current(known, content.digest(f"data/prepared/{dataset}"))
    if known[-1].tags.get("kind") == "generator":
        numbers = (
            ", ".join(version.number for version in current) or "none: run `dvc repro quality`"
        )
        raise EcgforgeError(
            f"--best compares classifiers by validation records, and '{name}' is a generator: "
            "choose with --version N. Those trained on "
            f"the current data: {numbers}"
        )
    found = challenger.best(current)
    if found is None:
        raise EcgforgeError(
            f"no version of '{name}' was trained on the current data and validated on real "
            "records: run `dvc repro classify`"
        )
    return found


def check_tags(version: Version) -> None:
    """Check that a version's tags fit the name of its model: the tags select the test records.

    Raises:
        EcgforgeError: they do not fit.
    """
    kind, dataset, generator = (
        version.tags.get(key, "") for key in ("kind", "dataset", "generator")
    )
    named = {
        "classifier": f"ecg-classifier-{dataset}",
        "generator": f"ecg-generator-{generator}-{dataset}",
    }
    if named.get(kind) != version.name or not all(
        NAME.fullmatch(name) for name in (dataset, generator or dataset)
    ):
        raise EcgforgeError(
            f"{version.label} is tagged as a {kind or 'model of no kind'} of dataset "
            f"'{dataset}' and generator '{generator}', which does not fit its name: ecgforge "
            "did not register it so, and it cannot be judged"
        )


def judge(params: Params, version: Version, content: DvcStore) -> Verdict:
    """Evaluate all gates of a version.

    Raises:
        EcgforgeError: it is champion already, its tags do not fit its name, it learned from a
            withdrawn patient, its files are not available, its preprocessing or rhythms differ
            from those of the test records, or DVC has no scores for a generator's sampling.
    """
    check_tags(version)
    number = history.champion(version.name)
    again = number == version.number
    if again and not (history.ungated(version.name) or signing.fault(version)):
        raise EcgforgeError(f"{version.label} is champion already")
    # A champion without gates or signature is judged against its former champion, to add them.
    reference = history.former(version.name) if again else number
    champion = next(
        (one for one in versions.versions(version.name) if one.number == reference), None
    )
    dataset = version.tags.get("dataset", "")
    folder = f"data/prepared/{dataset}"
    records, traced = RecordSet.open(content.root / folder), lineage.trace(version.label, content)
    withdrawal.refuse(version, traced, withdrawal.patients(params), content)
    test, digest = records.split("test"), content.digest(folder)
    if version.tags.get("kind") == "generator":
        found, values, against = _generator(params, version, digest, content)
    else:
        found, values, against = _classifier(params, version, champion, records, content)
    origins = training_data.tables(traced, content)
    against += _warnings(champion)
    found = [
        _locked(test, digest, champion, content),
        *found,
        *provenance(version, traced, content),
        gates.leakage(test.records, origins, _recordings(test, traced, content)),
    ]
    about = {"digest": digest, "origin": test.about.origin} | {
        rhythm: str(count) for rhythm, count in test.counts().items()
    }
    return Verdict(version, number, against, about, found, values, traced)


def _warnings(champion: Version | None) -> str:
    """Return a warning if the champion in a comparison did not pass the gates or is not signed."""
    if champion is None:
        return ""
    by_hand = (
        ", which was made champion by other means than `ecgforge promote`"
        if history.ungated(champion.name)
        else ""
    )
    return by_hand + (", which has no valid signature" if signing.fault(champion) else "")


def _locked(test: RecordSet, digest: str, champion: Version | None, content: DvcStore) -> Gate:
    """Return the gate that the test records are real ones, as recorded by DVC."""
    known = content.made_by(digest) is not None
    tested = champion.tags.get(f"{INPUT}{test.folder.name}", digest) if champion else digest
    again = (
        ""
        if tested == digest
        else f"; the champion's own metrics are for {tested[:8]}, so it is evaluated again"
    )
    detail = (
        "" if known else "no DVC stage wrote these records: `dvc repro`; "
    ) + f"challenger and champion are evaluated on these{again}"
    real = test.about.origin != "synthetic" and len(test) > 0
    return Gate(
        "test_set",
        f"{digest[:8]}, {counted(len(test), 'record')}",
        "not synthetic, known to DVC",
        known and real,
        detail,
    )


def _classifier(
    params: Params,
    version: Version,
    champion: Version | None,
    records: RecordSet,
    content: DvcStore,
) -> tuple[list[Gate], pd.DataFrame, str]:
    study, bounds = params.active.study, params.gates.classifier
    torch.set_num_threads(params.active.compute.threads)
    classifier, own, size = answers(version, records.split("test"))
    comparison, against, failed = _comparison(own, champion, records, content)
    found = [
        *failed,
        *gates.classifier_gates(comparison, bounds, study.confidence, study.resamples),
    ]
    taken = latency(classifier, records.split("test"))
    found.append(
        gates.at_most(
            "latency",
            taken,
            bounds.latency,
            f"CPU time per record, on one thread, median of {REPEATS}",
            " ms",
        )
    )
    found.append(gates.at_most("size", size, bounds.size, "weights", " MB"))
    values = statistics.interval(
        comparison.truth,
        own[None],
        comparison.patients,
        comparison.rhythms,
        confidence=study.confidence,
        resamples=study.resamples,
        seed=0,
    )
    return found, values, against


def _comparison(
    own: np.ndarray, champion: Version | None, records: RecordSet, content: DvcStore
) -> tuple[gates.Test, str, list[Gate]]:
    """Return a comparison with the champion or the baselines, its description, and failed gates.

    The baselines are used if there is no champion, or if it cannot be evaluated. A champion that
    cannot be evaluated must not block all others for good: it is a failed gate, which can be
    forced.
    """
    test, against, failed = records.split("test"), "the baselines", []
    compared = partial(
        gates.Test, test.labels, test.records["patient"].to_numpy(), test.about.rhythms, own
    )
    if champion:
        try:
            reference = {champion.label: answers(champion, test)[1]}
            return (
                compared(reference, True, _leakage_warning(champion, test, content)),
                champion.label,
                [],
            )
        # The champion's files may be damaged, its code may have changed, or torch may reject the
        # records.
        except Exception as error:
            failed = [
                Gate(
                    "champion",
                    "cannot be evaluated",
                    "evaluated on these records",
                    False,
                    " ".join(str(error).split()),
                )
            ]
            against = f"the baselines, since {champion.label} cannot be evaluated"
    return (
        compared(
            {name: predict(records.split("train"), test) for name, predict in BASELINES.items()},
            False,
        ),
        against,
        failed,
    )


def _leakage_warning(champion: Version, test: RecordSet, content: DvcStore) -> str:
    """Return a warning if the champion's metrics are too high, as it learned from test records."""
    traced = lineage.trace(champion.label, content)
    gate = gates.leakage(
        test.records, training_data.tables(traced, content), _recordings(test, traced, content)
    )
    if gate.passed:
        return ""
    if gate.value == gates.UNKNOWN:
        return f"it is unknown whether {champion.label} learned from these records, {gate.detail}"
    return (
        f"{champion.label} saw {gate.value} of these in training or validation: its metrics "
        "are too high"
    )


def answers(version: Version, test: RecordSet) -> tuple[base.Classifier, np.ndarray, float]:
    """Return a registered classifier, its probabilities on the test records, and its size in MB.

    The probabilities are `[records, rhythms]`, with rhythms in the order of the test records.

    Raises:
        EcgforgeError: its files are not available, or its preprocessing or rhythms differ from
            those of the test records.
    """
    with versions.files(version) as folder:
        differing = serving.differences(folder, test.about, version.label)
        if differing:
            raise EcgforgeError(
                f"{version.label} needs other records than those in {test.folder}: "
                f"{', '.join(differing)}; it cannot be judged by them: train it again, or "
                "prepare the records as for its training"
            )
        size = (folder / "weights.safetensors").stat().st_size / 1e6
        classifier = registry.load(folder, version.label)
    if set(classifier.rhythms) != set(test.about.rhythms):
        raise EcgforgeError(
            f"{version.label} classifies the rhythms {', '.join(classifier.rhythms)}, but the "
            f"test records in {test.folder} have {', '.join(test.about.rhythms)}: it cannot "
            "be judged by them"
        )
    order = [classifier.rhythms.index(rhythm) for rhythm in test.about.rhythms]
    return classifier, base.probabilities(classifier, test)[:, order], size


def latency(classifier: base.Classifier, records: RecordSet) -> float:
    """Return the median CPU time to classify one record, in ms, on one thread.

    CPU time does not include the time that other processes take.
    """
    one, threads = records.select(np.arange(1)), torch.get_num_threads()
    times = []
    torch.set_num_threads(1)
    try:
        for _ in range(3 + REPEATS):
            started = time.process_time()
            base.probabilities(classifier, one)
            times.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return 1000 * float(np.median(times[3:]))


def _generator(
    params: Params, version: Version, digest: str, content: DvcStore
) -> tuple[list[Gate], pd.DataFrame, str]:
    scored = _scored(version, digest, content)
    run = lookup.runs_by_fingerprint().get(
        scored.fingerprint
    )  # shown to the reader; its content is not trusted
    against = f"the baselines of {scored.stage} {scored.digest[:8]}" + (
        f", run {run.run_id}" if run else ""
    )
    return (
        gates.generator_gates(scored.scores, params.gates.generator),
        _table(scored.scores),
        against,
    )


def _scored(version: Version, digest: str, content: DvcStore) -> Scored:
    """Return the newest scores of records generated with a version's files and sampling.

    Raises:
        EcgforgeError: DVC has no record of such scores.
    """
    dataset, generator = version.tags["dataset"], version.tags["generator"]
    files, sampling = _sampling(version)
    otherwise = False
    for scored in recorded.quality(dataset, generator, files, digest, content):
        if sampling is not None and scored.sampling == sampling:
            return scored
        otherwise = True
    if not otherwise:
        raise EcgforgeError(
            f"DVC has no scores of the records of {version.label} against the current "
            f"data/prepared/{dataset}: run `dvc repro quality@{dataset}-{generator}` with "
            "this generator in models/, and promote it afterwards"
        )
    # There are scores of this generator with another sampling; they do not apply to the version.
    so = "an unknown sampling" if sampling is None else json.dumps(sampling)
    raise EcgforgeError(
        f"{version.label} uses {so}, and DVC has no scores of such records against the "
        f"current data/prepared/{dataset}: promote the version with the current sampling of "
        f"the study (`dvc repro --force synthesize@{dataset}-{generator}` registers it), or "
        "set the sampling of this version in params.yaml and run `dvc repro "
        f"quality@{dataset}-{generator}`"
    )


def _table(scores: dict[str, float]) -> pd.DataFrame:
    """Return a generator's scores that have a baseline: metric, value, low, high, baseline.

    A missing interval is NaN.
    """
    ends = ("", "_low", "_high", "_baseline")
    rows = [
        (name, *(scores.get(name + end, np.nan) for end in ends))
        for name in scores
        if f"{name}_baseline" in scores
    ]
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "baseline"])


def _sampling(version: Version) -> tuple[str, Any]:
    """Return what decides a generator version's records: the digest of its files, and its sampling.

    The digest is DVC's, of weights and description. The sampling is None if the files do not state
    it.
    """
    with versions.files(version) as folder:
        sampling = (
            versions.read_json(folder, SAMPLING, version.label).get("sampling")
            if (folder / SAMPLING).exists()
            else None
        )
        # in this copy only: it is not part of the trained generator
        (folder / SAMPLING).unlink(missing_ok=True)
        return md5(folder), sampling


def provenance(version: Version, traced: Node, content: DvcStore) -> Iterator[Gate]:
    """Yield the gates on the version's origin: lineage, DVC's record of its weights, and commit.

    The lineage must be complete down to the sources, and the commit available and clean.
    """
    missing = [key for key in REQUIRED if not version.tags.get(key)]
    if not any(key.startswith(INPUT) for key in version.tags):
        missing.append("input.*")
    lacking = [f"no tag {key}" for key in missing]
    lacking += [f"gone: {node.name}" for node in traced.all() if node.lost]
    unrecorded = recorded.missing(version, content)
    lacking += [unrecorded] if unrecorded else []
    lacking += [
        f"source of {node.name}"
        for node in traced.all()
        if node.kind in SOURCED and not node.made_from
    ]
    yield Gate(
        "provenance", f"{len(lacking)} missing", "0 missing", not lacking, "; ".join(lacking)
    )
    commit, dirty = version.tags.get("git.commit", ""), version.tags.get("git.dirty") != "false"
    there = bool(commit) and git(content.root, "cat-file", "-t", commit) == "commit"
    words = commit[:8] or "none"
    words += ", with uncommitted changes" if dirty else ""
    words += "" if there else ", not in this repository"
    yield Gate("commit", words, "clean, in this repository", there and not dirty)


def _recordings(test: RecordSet, traced: Node, content: DvcStore) -> np.ndarray | None:
    """Return for each test record whether a version learned from its signals, under any name.

    None if signals cannot be compared: they are not on this machine, or their preprocessing
    differs.
    """
    parts: list[twins.Part] = [(len(test), test.signals)]
    for node in {node.digest: node for node in lineage.trained_on(traced)}.values():
        table, packed = (
            content.local(node.digest, name, node.path) for name in ("records.csv", "signals.npy")
        )
        if not (node.real and table and packed):
            return None
        signals = np.load(packed, mmap_mode="r", allow_pickle=False)
        if signals.shape[1:] != (len(LEADS), test.about.samples):
            return None
        rows = np.flatnonzero(read_csv(table, usecols=["split"])["split"] != "test")
        parts.append((len(rows), partial(_rows, signals, rows)))
    same = np.zeros(len(test), dtype=bool)
    for group in twins.groups(parts):
        if group[-1] >= len(test):
            same[[place for place in group if place < len(test)]] = True
    return same


def _rows(signals: np.ndarray, rows: np.ndarray, part: slice) -> np.ndarray:
    return np.asarray(signals[rows[part]])


def promote(verdict: Verdict, content: DvcStore, force: bool, reason: str) -> Verdict:
    """Record the verdict on the version, and make it champion if it passed or is forced.

    Returns:
        The verdict, with the version's new tags.

    Raises:
        EcgforgeError: it failed and is not champion, or another version became champion meanwhile.
    """
    forced = force and not verdict.passed
    if forced and not reason.strip():
        raise EcgforgeError(
            f"{verdict.version.label} failed {', '.join(verdict.failed)}: to force it, give a "
            "--reason, which stays on record"
        )
    signing.ready()
    version, now = verdict.version, datetime.now(UTC)
    place = f"promotion/{version.name}-{version.number}-{now:%Y%m%dT%H%M%SZ}"
    with signing.renewed(verdict.version):
        evidence = _record(verdict, content, place)
    if not (verdict.passed or forced):
        stays = f"version {verdict.champion} stays" if verdict.champion else "there is none yet"
        raise EcgforgeError(
            f"{verdict.version.label} failed {', '.join(verdict.failed)} and was not made "
            f"champion; {stays}"
        )
    action = history.FORCED if forced else history.PROMOTED
    mark = partial(_mark, verdict, content, place, reason) if forced else None
    history.move(
        verdict.version.name,
        verdict.version.number,
        verdict.champion,
        action,
        reason,
        evidence,
        mark,
    )
    return replace(verdict, version=versions.find(verdict.version.label))


def _record(verdict: Verdict, content: DvcStore, place: str) -> str:
    """Write tags, description, card, and artifacts at `place`; return the evidence's path, md5."""
    version = verdict.version
    tree = {
        "version": version.label,
        "against": verdict.against,
        "passed": verdict.passed,
        "test": verdict.test,
    }
    rows = [
        {key: value for key, value in row.items() if pd.notna(value)}
        for row in verdict.metrics.round(6).to_dict("records")
    ]
    tree |= {"gates": [asdict(gate) for gate in verdict.gates], "metrics": rows}
    evidence, text = json.dumps(tree, indent=2, default=float) + "\n", card.write(verdict)
    where = f"run {version.run_id}, {place}.json"
    # Gates of an earlier verdict are removed.
    tags: dict[str, str | None] = {
        key: None for key in version.tags if key.startswith(history.GATE)
    }
    for gate in verdict.gates:
        tags[f"{history.GATE}{gate.name}"] = (
            f"{'passed' if gate.passed else 'failed'}: {gate.value}; {gate.bound}"
        )
    tags["verdict"] = (
        f"{'passed' if verdict.passed else 'failed ' + ', '.join(verdict.failed)}, against "
        f"{verdict.against}; {where}"
    )
    kept = _write(version, content, tags, text, {f"{place}.json": evidence, f"{place}.md": text})
    return (
        f"{where if kept else 'tags of the version'}; md5 "
        f"{hashlib.md5(evidence.encode()).hexdigest()}"
    )


def _mark(verdict: Verdict, content: DvcStore, place: str, reason: str) -> None:
    """Add a mark to a version's tag of forced promotions, and write it into the card."""
    version, mark = (
        versions.find(verdict.version.label),
        f"{datetime.now(UTC):%Y-%m-%d}: {reason}; failed {', '.join(verdict.failed)}",
    )
    forced = " | ".join([*filter(None, [version.tags.get("forced")]), mark])
    text = card.write(
        replace(verdict, version=replace(version, tags=version.tags | {"forced": forced}))
    )
    _write(version, content, {"forced": forced}, text, {f"{place}.md": text})


def _write(
    version: Version,
    content: DvcStore,
    tags: dict[str, str | None],
    text: str,
    files: dict[str, str],
) -> bool:
    """Write tags, artifacts and a card; return whether the version's run still exists."""
    kept = history.record(version, tags, text, files)
    with atomic_write(card_path(content.root, version)) as scratch:
        scratch.write_text(text)
    return kept


def card_path(root: Path, version: Version) -> Path:
    """Return the path of a version's model card."""
    return root / "models" / "cards" / f"{version.name}-{version.number}.md"


def rollback(name: str, reason: str) -> tuple[str, str]:
    """Make the former champion champion again; return the numbers of the old and the new one.

    Raises:
        EcgforgeError: there is no former champion, it learned from a withdrawn patient, its files
            are no longer available or not the registered ones, or it is not signed.
    """
    known = versions.versions(name)
    if not known:
        raise EcgforgeError(f"no model is registered as '{name}'")
    now, back = history.champion(name), history.former(name)
    if not back or not now:
        raise EcgforgeError(f"'{name}' has no former champion to roll back to")
    if back not in {version.number for version in known}:
        raise EcgforgeError(
            f"'{name}' cannot be rolled back: version {back}, the former champion, was "
            "removed; promote another with --version N"
        )
    signing.ready()
    former = versions.find(f"{name}/{back}")
    withdrawal.refuse_marked(former)
    with signing.files(former):
        pass
    history.move(name, back, now, history.ROLLED_BACK, reason, f"version {now} was champion")
    return now, back
