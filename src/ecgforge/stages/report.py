"""Gather what all cells found: the answers, one long table, a few metrics for `dvc metrics` and
`dvc plots`, and a page.
"""

from __future__ import annotations

import json
import math
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from ecgforge import folders, grid, rounds
from ecgforge.analysis import answers, comparisons, intervals, label_efficiency, verdicts
from ecgforge.analysis.claims import claims, question
from ecgforge.analysis.quality import over_rounds
from ecgforge.analysis.score_utility import score_utility
from ecgforge.files import atomic_write, cached_md5, stored_csv
from ecgforge.model_versions import lookup
from ecgforge.params import Params
from ecgforge.records.record_set import RecordSet
from ecgforge.registry import challenger
from ecgforge.report import answers as answers_file
from ecgforge.report import figures, page, series, tables
from ecgforge.stages.common.tracked import Stage, tracked
from ecgforge.study import predictions
from ecgforge.study.experiment import KEYS, POOLED_KEYS
from ecgforge.study.spool import Spool, spool
from ecgforge.tracking import runs, store

PREPARED, SYNTHETIC = Path("data/prepared"), Path("data/synthetic")
SCORED = folders.RESULTS / "quality"
RUN_COLUMNS = [
    "kind",
    "dataset",
    "generator",
    "setting",
    "backbone",
    "seed",
    "run_name",
    "run_id",
    "url",
]
# settings in metrics.json: their training records
METRICS = {"TrRTeR": "real", "TrRSTeR": "real+{}"}
GAINS = {"gain": "estimate", "gain_low": "low", "gain_high": "high"}  # in metrics.json
COMMANDS = {
    "results": "dvc repro classify_real classify",
    "ecgs": "dvc repro synthesize",
    "quality": "dvc repro quality",
    "data": "dvc repro prepare merge cross_fit",
    "ui": "make ui",
}


def report(params: Params, out: Path) -> None:
    """Write answers.json, results.csv, confusions.csv, verdicts.csv, score_utility.csv,
    metrics.json, plots and report.html to `out`, from the results of all cells, and log the answers
    to MLflow.
    """
    with tempfile.TemporaryDirectory() as scratch:
        _report(params, out, Path(scratch))


def _report(params: Params, out: Path, scratch: Path) -> None:
    study = params.active.study
    pairs = [(dataset, generator) for dataset in params.datasets for generator in params.generators]
    cells = list(grid.cells(params))
    everything = spool((cell.results for cell in cells), scratch)
    judging = everything.select(predictions.pooled(everything.experiments))
    found = judging.select(_main(judging.experiments))
    bootstrap = (study.confidence, study.resamples)
    summary = _each(intervals.intervals, found, POOLED_KEYS, *bootstrap)
    rows, backbone = grid.table(params), params.classifier.backbone
    evidence = _evidence(params, judging, cells)
    judged = verdicts.judge(evidence, claims(rows, backbone), study)
    questions = question(rows, backbone, params.primary_generator)
    answered = answers.answers(evidence, questions, _trainings(params), study)
    results = _each(predictions.results, everything, KEYS)
    by_seed = [*POOLED_KEYS, "seed"]
    inputs = page.ReportInputs(
        results=_each(predictions.results, found, by_seed, by_seed),
        summary=summary,
        sweeps=_each(intervals.intervals, judging, POOLED_KEYS, *bootstrap),
        label_efficiency=_label_efficiency(judging, backbone, *bootstrap),
        variations=_variations(cells),
        answers=answered,
        verdicts=judged,
        confusions=_confusions(found),
        quality=_quality(params, study.confidence),
        utility=_utility(params, cells, results),
        views=_scores(pairs, "views"),
        runs=pd.DataFrame(_runs(params, cells, pairs), columns=RUN_COLUMNS),
        prepared={dataset: PREPARED / dataset for dataset in params.datasets},
        synthetic={pair: SYNTHETIC / pair[0] / pair[1] for pair in pairs},
        made=_made(params, cells),
        confidence=study.confidence,
        smallest_gain=study.smallest_gain,
    )
    with atomic_write(out) as scratch:
        scratch.mkdir()
        results.to_csv(scratch / "results.csv", index=False, float_format="%.6f")
        inputs.utility.to_csv(scratch / "score_utility.csv", index=False, float_format="%.6f")
        inputs.confusions.to_csv(scratch / "confusions.csv", index=False)
        _table(judged).to_csv(scratch / "verdicts.csv", index=False, float_format="%.6f")
        (scratch / "metrics.json").write_text(
            json.dumps(_metrics(summary, answered), indent=2) + "\n"
        )
        (scratch / "plots").mkdir()
        for dataset, rows in summary[summary["metric"] == "f1"].groupby("dataset", sort=False):
            (scratch / "plots" / f"{dataset}.svg").write_text(
                figures.macro_f1(rows, list(tables.SETTINGS), tables.BASELINES)
            )
        _write_series(inputs, backbone, scratch / "series")
        answers_file.write(answered, scratch / answers_file.NAME)
        page.write(inputs, scratch / "report.html")
    _log(params, answered, judged, out / "report.html")
    _mark_challengers(params)


def _write_series(inputs: page.ReportInputs, backbone: str, folder: Path) -> None:
    """Write the points of curves and confusion matrices, which `dvc plots` draws."""
    folder.mkdir()
    points = inputs.sweeps[inputs.sweeps["metric"] == "f1"]
    counts = inputs.confusions[inputs.confusions["backbone"] == backbone]
    for name, table in (*series.curves(points), *series.confusions(counts)):
        table.to_csv(folder / name, index=False, float_format="%.6f")


def _each(
    function: Callable[..., pd.DataFrame], found: Spool, keys: Sequence[str], *arguments: Any
) -> pd.DataFrame:
    """Join the tables that a function returns for each group of predictions."""
    tables = [function(group, *arguments) for group in found.by(keys).values()]
    # an empty table has no types of columns
    return pd.concat([one for one in tables if len(one)] or tables[:1], ignore_index=True)


def _confusions(found: Spool) -> pd.DataFrame:
    counted = _each(predictions.confusions, found, KEYS)
    of = [*POOLED_KEYS, "truth", "predicted"]
    return counted.groupby(of, sort=False, as_index=False)["records"].sum()


def _label_efficiency(
    judging: Spool, backbone: str, confidence: float, resamples: int
) -> pd.DataFrame:
    known = judging.experiments
    curves = judging.select(
        known[(known["backbone"] == backbone) & known["sweep"].isin(label_efficiency.SWEEPS)]
    )
    return _each(
        label_efficiency.label_efficiency, curves, ["dataset"], backbone, confidence, resamples
    )


def _evidence(params: Params, judging: Spool, cells: list[grid.Cell]) -> comparisons.Evidence:
    runs = pd.concat([predictions.read_runs(cell.results) for cell in cells], ignore_index=True)
    patients = {
        dataset: RecordSet.open(PREPARED / dataset).records["patient"].nunique()
        for dataset in params.datasets
    }
    conditions = judging.by(["dataset", *comparisons.CONDITION_KEYS])
    return comparisons.Evidence(conditions, comparisons.validation(runs), patients)


def _trainings(params: Params) -> dict[str, answers.Training]:
    """Return what trains the classifiers of each dataset."""
    found = {}
    for dataset in params.datasets:
        names = params.rounds_of(dataset) or [dataset]
        sets = [RecordSet.open(PREPARED / name) for name in names]
        simulated = bool((sets[0].records["origin"] == "simulated").any())
        counts = [len(records.split("train")) for records in sets]
        found[dataset] = answers.Training(counts, simulated)
    return found


def _log(
    params: Params, answered: list[answers.Answer], judged: list[verdicts.Verdict], page: Path
) -> None:
    """Log the answers, the verdicts and the page as one run; the same ones go to the same run."""
    sets = {dataset: RecordSet.open(PREPARED / dataset) for dataset in params.datasets}
    key = runs.RunKey(
        "answers",
        ", ".join(sets),
        params.active.study.seeds[0],
        any(answer.training.simulated for answer in answered),
    )
    text = answers_file.text(answered)
    words = {verdict.claim.text: verdict.word for verdict in judged}
    metrics = answers_file.metrics(answered, judged)
    decides = {"answers": text, "verdicts": json.dumps(words), "metrics": json.dumps(metrics)}
    stage, settings = Stage("report", params, {}), params.active.study.model_dump(mode="json")
    inputs = [("test", records) for records in sets.values()]
    with tracked(stage, key, settings, inputs, decides) as opened:
        opened.run.summary(metrics)
        opened.run.files({answers_file.NAME: text, page.name: page.read_bytes()})
        for answer in answered:
            opened.run.tag(f"answer.{answer.dataset}", answer.sentence)
    opened.remove_checkpoints()


def _mark_challengers(params: Params) -> None:
    """Give the alias `challenger` to the best version of each model that is not champion."""
    for dataset in params.datasets:
        digest = cached_md5(PREPARED / dataset)
        generators = [f"ecg-generator-{generator}-{dataset}" for generator in params.generators]
        for name in (f"ecg-classifier-{dataset}", *generators):
            challenger.update(name, digest)


def _main(everything: pd.DataFrame) -> pd.DataFrame:
    """Experiments of the settings; those with classical augmentation are settings of their own."""
    found = everything[everything["sweep"] == ""]
    names = found["setting"].where(~found["augmented"], found["setting"] + " augmented")
    return found.assign(setting=names, augmented=False)


def _variations(cells: list[grid.Cell]) -> pd.DataFrame:
    found = _scored_variations(cells)
    found["dataset"] = found["dataset"].map(rounds.base)
    return found.groupby(["dataset", "generator", "variation"], sort=False, as_index=False).mean()


def _scored_variations(cells: list[grid.Cell]) -> pd.DataFrame:
    files = [cell.results / "variations.csv" for cell in cells if cell.sweep and cell.sweep.scored]
    parts = [stored_csv(file, ["variation"]) for file in files]
    return pd.concat([pd.DataFrame(columns=["dataset", "generator", "variation"]), *parts])


def _table(judged: list[verdicts.Verdict]) -> pd.DataFrame:
    """A row for each comparison behind a verdict; `role` is primary, other metric, or point."""
    parts = [
        table.assign(claim=one.claim.text, verdict=one.word, role=role)
        for one in judged
        for role, table in (
            ("primary", one.primary),
            ("other metric", one.others),
            ("point", one.points),
        )
        if len(table)
    ]
    columns = [*comparisons.PRIMARY_COLUMNS, *comparisons.LIMITS]
    columns = ["claim", "verdict", "role", *dict.fromkeys(columns)]
    return pd.concat(parts, ignore_index=True).reindex(columns=columns)


def _quality(params: Params, confidence: float) -> pd.DataFrame:
    """Return the quality scores of each dataset; those of cross-fitted ones over their rounds."""
    sets = {dataset: params.rounds_of(dataset) or [dataset] for dataset in params.datasets}
    found = [
        over_rounds([_scores([(name, generator)], "scores") for name in names], confidence)
        for dataset, names in sets.items()
        for generator in params.generators
    ]
    return pd.concat(found, ignore_index=True)


def _utility(params: Params, cells: list[grid.Cell], results: pd.DataFrame) -> pd.DataFrame:
    """Return which quality scores predict the gain of a set, over all sets of the study."""
    names = [name for dataset in params.datasets for name in params.rounds_of(dataset) or [dataset]]
    pairs = [(name, generator) for name in names for generator in params.generators]
    return score_utility(
        results,
        _scores(pairs, "scores"),
        _scored_variations(cells),
        params.backbone,
        params.active.study.confidence,
    )


def _scores(pairs: list[tuple[str, str]], name: str) -> pd.DataFrame:
    files = [SCORED / dataset / generator / f"{name}.csv" for dataset, generator in pairs]
    return pd.concat(
        [stored_csv(file, ["dataset", "generator"]) for file in files], ignore_index=True
    )


def _metrics(summary: pd.DataFrame, answered: list[answers.Answer]) -> dict[str, Any]:
    """Return the numbers of the answers, few metrics for `dvc metrics` and `dvc exp show`.

    Returns:
        "gain" -> dataset -> generator: the gain of the answer, in macro-F1.
        "gain_low", "gain_high" -> dataset -> generator: the limits of its interval.
        "macro_f1" -> dataset -> training records: the mean over seeds, on real test records.
        The gains of all datasets come first, since `dvc exp show` keeps this order.
    """
    gains: dict[str, Any] = {name: {} for name in GAINS}
    for answer in answered:
        ends = asdict(answer.gain) if answer.gain else {}
        for name, end in GAINS.items():
            if end in ends and not math.isnan(ends[end]):
                gains[name][answer.dataset] = {answer.generator: round(ends[end], 4)}
    scores: dict[str, Any] = {}
    shown = summary[(summary["metric"] == "f1") & ~summary["backbone"].isin(list(tables.BASELINES))]
    for row in shown[shown["setting"].isin(METRICS)].to_dict("records"):
        training = METRICS[row["setting"]].format(row["generator"])
        scores.setdefault(row["dataset"], {})[training] = round(float(row["mean"]), 4)
    return {**gains, "macro_f1": scores}


def _runs(
    params: Params, cells: list[grid.Cell], pairs: list[tuple[str, str]]
) -> Iterator[tuple[Any, ...]]:
    """Yield the MLflow run of each trained or tested classifier and of each generator, where the
    tracking store has it.
    """
    known = lookup.runs_by_fingerprint()

    def where(fingerprint: str | None) -> tuple[str, str, str]:
        run = known.get(fingerprint or "")
        if not run:
            return "", "", ""
        return run.run_name, run.run_id, store.run_page(run.experiment_id, run.run_id)

    for cell in cells:
        for row in predictions.read_runs(cell.results).itertuples():
            setting = f"{row.setting} augmented" if row.augmented else row.setting
            who = (row.dataset, row.generator, setting, row.backbone, row.seed)
            yield ("sweep" if row.sweep else "classifier", *who, *where(row.fingerprint))
    for dataset, generator in pairs:
        weights = RecordSet.open(SYNTHETIC / dataset / generator).about.made["weights_md5"]
        known_as = lookup.fingerprints_by_weights(f"ecg-generator-{generator}-{dataset}").get(
            weights
        )
        seed = params.generator(generator).seed
        yield ("generator", dataset, generator, "", "", seed, *where(known_as))
        scored = (SCORED / dataset / generator / "fingerprint.txt").read_text().strip()
        yield ("quality", dataset, generator, "", "", params.active.quality.seed, *where(scored))


def _made(params: Params, cells: list[grid.Cell]) -> dict[str, Any]:
    swept = dict.fromkeys(cell.stage for cell in cells if cell.sweep)
    parameters = params.active.model_dump(exclude={"compute"})
    for kind, used in (("sources", params.sources), ("generators", params.generators)):
        parameters[kind] = {name: parameters[kind][name] for name in used}
    packages = (
        "ecgforge",
        "torch",
        "pytorch-lightning",
        "mlflow",
        "dvc",
        "numpy",
        "scikit-learn",
        "wfdb",
    )
    return {
        "profile": params.profile,
        "commit": store.git(Path.cwd(), "rev-parse", "--short", "HEAD"),
        "dirty": runs.uncommitted(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "parameters": {"preprocessing": params.preprocessing.model_dump(), **parameters},
        "commands": COMMANDS | {"sweeps": f"dvc repro {' '.join(swept)}"},
    }
