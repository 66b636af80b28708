"""reports/report.html: the results of the study in one file that opens offline.

The inputs are tables and record sets. This module computes only counts and means over seeds.
`_dataset` makes the content for a dataset; a further question needs a table there and a section in
page.html.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ecgforge.analysis.answers import Answer
from ecgforge.analysis.comparisons import FEWEST
from ecgforge.analysis.verdicts import Verdict
from ecgforge.console import counted
from ecgforge.files import atomic_write
from ecgforge.quality import flags
from ecgforge.records.record_set import SPLITS, RecordSet
from ecgforge.report import evidence, examples, figures, tables
from ecgforge.study.settings import AUGMENTED, SETTINGS

RHYTHMS = {
    "SR": "sinus rhythm",
    "SB": "sinus bradycardia",
    "ST": "sinus tachycardia",
    "SA": "sinus arrhythmia",
    "AFIB": "atrial fibrillation",
    "AFLT": "atrial flutter",
    "SVT": "supraventricular tachycardia",
}
METRICS = {
    "f1": "Macro-F1",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Macro precision",
    "recall": "Macro recall",
    "auroc": "Macro AUROC",
    "average_precision": "Macro average precision",
    "log_score": "Log score (higher is better)",
    "tuned_f1": "Macro-F1 at a decision tuned on validation records",
}
MEASURES = {  # names in words, and the unit of their Wasserstein distance
    "heart_rate": ("heart rate", " (bpm)"),
    "rr_cv": ("RR variation", " (percentage points)"),
    "qrs_duration": ("QRS duration", " (ms)"),
    "qtc": ("QTc", " (ms)"),
    "p_share": ("share of beats with a P wave", ""),
    "sdnn": ("SDNN", " (ms)"),
    "rmssd": ("RMSSD", " (ms)"),
    "qt": ("QT", " (ms)"),
    "r_amplitude": ("R in lead II", ""),
    "t_amplitude": ("T in lead II", ""),
    "axis": ("QRS axis", " (degrees)"),
    "qrs_constancy": ("QRS constancy", ""),
}
SCORES = {
    **{f"{name}_w1": f"{words}, W1{unit}" for name, (words, unit) in MEASURES.items()},
    "power_0_5_w1": "power below 5 Hz, W1",
    "power_5_15_w1": "power from 5 to 15 Hz, W1",
    "power_15_40_w1": "power above 15 Hz, W1",
    **{f"{name}_ks": f"{words}, KS" for name, (words, _) in MEASURES.items()},
    "undetected_share": "share of records without detectable beats",
    "failed_share": "share of records without delineated waves",
    "qrs_constancy": "QRS constancy: 1 if the beats of a record have equal QRS complexes",
    "psd_db": "spectrum, mean difference (dB)",
    "correlation_error": "correlations between leads, error of their means",
    "correlation_w1": "correlations between leads, W1",
    "correlation_spread": "spread of correlations between leads: relative to real ones",
    "limb_residual": "limb leads, error against I and II: 0 for recorders",
    "mmd2": "MMD²",
    "mmd_p": "p of MMD²",
    "frechet": "Fréchet distance, random convolutions",
    "frechet_classifier": "Fréchet distance, features of a classifier: trained on real records",
    "c2st_accuracy": "accuracy of a two-sample classifier",
    "precision": "precision: synthetic records among real ones",
    "recall": "recall: real records among synthetic ones",
    "density": "density: synthetic records near real ones",
    "coverage": "coverage: real records with a synthetic one nearby",
    "dcr_ratio": "DCR ratio: distance to the closest training record, relative to held-out ones",
    "copied_share": "share near training records: nearer than the nearest 1 % of held-out ones",
    "authenticity": "authenticity: share of records that are not copies",
    "membership_auc": "AUC of membership inference: 0.5 if nothing leaks",
}
AMPLITUDES = ("r_amplitude_w1", "t_amplitude_w1")  # in the unit of the records
TABLES = (
    "results",
    "summary",
    "sweeps",
    "label_efficiency",
    "variations",
    "confusions",
    "quality",
    "views",
    "runs",
)
TRAINED_ON = {
    "real": "real records",
    "synthetic": "synthetic records",
    "mixed": "real and synthetic records",
}
FEW_RECORDS, FEW_TESTED = 200, 10


@dataclass(frozen=True)
class ReportInputs:
    """The content of the report.

    In rows without a generator (TrRTeR, baselines) or a setting, the column is empty or NaN.

    Attributes:
        results: dataset, generator, backbone, setting, seed, rhythm (or `macro`), metric, value.
        summary: dataset, generator, backbone, setting, metric, mean, low, high, seeds: intervals
            over seeds and test records.
        sweeps: dataset, generator, backbone, sweep, point, setting, augmented, metric, mean, low,
            high: the same for the points of sweeps and for their references; rows without a sweep
            are the five settings.
        label_efficiency: the columns of `analysis.label_efficiency.label_efficiency`.
        variations: dataset, generator, variation, and a column for each score and cost, see
            `stages.sweep`.
        answers: one for each dataset, see `analysis.answers`.
        verdicts: on the claims, see `analysis.verdicts`.
        confusions: dataset, generator, backbone, setting, truth, predicted, records (summed over
            seeds).
        quality: dataset, generator, rhythm (or `all`), metric, value, low, high, baseline,
            negative_control.
        utility: rows of `analysis.score_utility.COLUMNS`.
        views: dataset, generator, view, kind (`real` or `synthetic`), rhythm, x, y.
        runs: dataset, generator, setting, backbone, seed, run_name, run_id, url; rows without a
            run_id are left out. A column kind has `generator`, `classifier` or `quality`; without
            it, runs without a setting are those of generators.
        prepared: the folder of each dataset's record set, with excluded.csv, in the order of the
            report.
        synthetic: the folder of the record set of each (dataset, generator).
        made: `profile`, `commit`, `dirty`; `versions` and `parameters`, which can be nested; and
            `commands`: the command of each section (`results`, `ecgs`, `quality`, `data`), and
            `ui`, which opens MLflow's UI.
        confidence: of the intervals in `summary`.
        smallest_gain: the smallest gain that counts, in units of the metric.
    """

    results: pd.DataFrame
    summary: pd.DataFrame
    sweeps: pd.DataFrame
    label_efficiency: pd.DataFrame
    variations: pd.DataFrame
    answers: list[Answer]
    verdicts: list[Verdict]
    confusions: pd.DataFrame
    quality: pd.DataFrame
    utility: pd.DataFrame
    views: pd.DataFrame
    runs: pd.DataFrame
    prepared: Mapping[str, Path]
    synthetic: Mapping[tuple[str, str], Path]
    made: Mapping[str, Any]
    confidence: float = 0.95
    smallest_gain: float = 0.02

    def of(self, dataset: str) -> ReportInputs:
        """Return the rows of one dataset, with empty strings for empty cells."""
        found = {name: _rows(getattr(self, name), dataset) for name in TABLES}
        runs = found["runs"][found["runs"]["run_id"] != ""]
        return replace(self, **{**found, "runs": runs})


def write(inputs: ReportInputs, out_html: Path) -> None:
    """Write the report atomically; equal inputs give equal bytes.

    Raises:
        EcgforgeError: a record set is missing or incomplete.
    """
    context = {
        "datasets": [_dataset(dataset, inputs.of(dataset)) for dataset in inputs.prepared],
        "generators": list(dict.fromkeys(generator for _, generator in inputs.synthetic)),
        "seeds": sorted(inputs.results["seed"].unique()),
        "made": {
            **inputs.made,
            "parameters": pd.json_normalize(dict(inputs.made["parameters"])).to_dict("records")[0],
        },
        "interval": f"{inputs.confidence * 100:g} %",
        "settings": {name: _meaning(name) for name in tables.SETTINGS},
        "verdicts": evidence.verdicts(inputs.verdicts),
        "smallest_gain": inputs.smallest_gain,
        "fewest": FEWEST,
        "splits": SPLITS,
        "utility": _utility(inputs.utility),
        "metrics": METRICS,
        "scores": SCORES,
        "amplitudes": AMPLITUDES,
        "of_backbones": tables.OF_BACKBONES,
        "baselines": list(tables.BASELINES),
        "costs": tables.COSTS,
        "rhythms": RHYTHMS,
        "strip": examples.STRIP,
    }
    with atomic_write(out_html) as scratch:
        scratch.write_text(_template().render(context), encoding="utf-8")


def _meaning(name: str) -> str:
    setting = {**SETTINGS, **AUGMENTED}[name]
    changed = ", classically augmented" if name in AUGMENTED else ""
    return (
        f"trained on {TRAINED_ON[setting.trained_on]}{changed}, tested on {setting.tested_on} ones"
    )


@cache
def _template() -> Template:
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["change"] = partial(_number, digits="+.3f")
    environment.filters["share"] = partial(_number, digits=".2f")
    environment.filters["number"] = partial(_number, digits=".3g")
    return environment.get_template("page.html")


def _number(value: float, digits: str) -> str:
    if pd.isna(value):
        return "–"
    shown = format(value, digits)
    # three digits of a number from 1000 on would have an exponent
    return (format(value, ",.0f") if "e+" in shown else shown).replace("-", "−")


def _rows(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    rows = table[table["dataset"] == dataset]
    blank = [
        name
        for name in ("generator", "setting", "backbone", "run_name", "run_id", "url")
        if name in rows
    ]
    return rows.assign(**{name: rows[name].fillna("").astype(str) for name in blank})


def _dataset(name: str, inputs: ReportInputs) -> dict[str, Any]:
    """Return the content of the page for one dataset."""
    records = RecordSet.open(inputs.prepared[name])
    synthetic = {
        generator: RecordSet.open(folder)
        for (dataset, generator), folder in inputs.synthetic.items()
        if dataset == name
    }
    summary = {metric: inputs.summary[inputs.summary["metric"] == metric] for metric in METRICS}
    rhythms = records.about.rhythms
    answer = next(one for one in inputs.answers if one.dataset == name)
    # the rounds of cross-fitting together test on every record
    rounds = len(answer.training.records)
    tested = (records if rounds > 1 else records.split("test")).counts()
    return {
        "name": name,
        "simulated": bool((records.records["origin"] == "simulated").any()),
        "real": bool((records.records["origin"] == "real").any()),
        "units": records.about.units,
        "rhythms": rhythms,
        "tested": tested,
        "rounds": rounds,
        "training": round(float(np.mean(answer.training.records))),
        "cautions": list(_cautions(len(records), tested)),
        "gains": _gains(answer),
        "answer": tables.answer(summary["f1"]),
        "figure": _address(
            "image/svg+xml",
            figures.macro_f1(summary["f1"], tables.SETTINGS, tables.BASELINES).encode(),
        ),
        "by_setting": {metric: list(tables.by_setting(rows)) for metric, rows in summary.items()},
        "sweeps": list(
            _sweeps(
                tables.models(inputs.sweeps[inputs.sweeps["metric"] == "f1"]),
                inputs.label_efficiency,
                inputs.variations,
            )
        ),
        "equal_size": list(tables.equal_size(inputs.sweeps[inputs.sweeps["metric"] == "f1"])),
        "recall": tables.recall(inputs.results, rhythms),
        "confusions": [
            {**cell, "runs": _runs(inputs.runs, "classifier", cell)}
            for cell in tables.confusions(inputs.confusions, rhythms)
        ],
        "ecgs": [
            examples.of_rhythm(name, rhythm, {"": records, **synthetic}) for rhythm in rhythms
        ],
        "generator_runs": {
            generator: _runs(inputs.runs, "generator", {"generator": generator})
            for generator in synthetic
        },
        "quality_runs": {
            generator: _runs(inputs.runs, "quality", {"generator": generator})
            for generator in synthetic
        },
        "quality": tables.quality(inputs.quality),
        "flags": [
            (generator, flag)
            for generator, rows in inputs.quality.groupby("generator", sort=False)
            for flag in flags.flags(rows)
        ],
        "views": {
            generator: _address("image/png", figures.embedding(rows))
            for generator, rows in inputs.views.groupby("generator", sort=False)
        },
        "counts": tables.counts(records),
        "exclusions": tables.exclusions(records),
        "synthetic": {
            generator: tables.counts(records) for generator, records in synthetic.items()
        },
        "runs": inputs.runs.to_dict("records"),
    }


def _gains(answer: Answer) -> dict[str, Any]:
    """Return the answer in words, and the differences from real records alone with their figure."""
    rows = answer.differences
    image = figures.gains(rows, answer.smallest_gain) if len(rows) else ""
    return {
        "sentence": answer.sentence,
        "to_decide": answer.to_decide,
        "word": answer.word,
        "rows": rows.to_dict("records"),
        "figure": _address("image/svg+xml", image.encode()) if image else "",
    }


def _utility(table: pd.DataFrame) -> dict[str, Any]:
    """Return the rank correlation of each score with the gain, with a figure of those that have an
    interval.
    """
    shown = tables.ranked_utility(table)
    sure = shown.dropna(subset="low")
    image = figures.utility(sure, SCORES) if len(sure) else ""
    return {
        "rows": tables.utility(shown),
        "settings": list(dict.fromkeys(shown["setting"])),
        "sets": int(shown["sets"].max()) if len(shown) else 0,
        "clusters": int(shown["clusters"].max()) if len(shown) else 0,
        "figure": _address("image/svg+xml", image.encode()) if image else "",
    }


def _sweeps(
    points: pd.DataFrame, label_efficiency: pd.DataFrame, variations: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    """Yield the results of a dataset's sweeps by generator: curves, label efficiency and tables."""
    settings = points[points["sweep"] == ""]
    for generator, rows in points[points["generator"] != ""].groupby("generator", sort=False):
        own = pd.concat([points[points["sweep"].isin(evidence.ON_REAL)], rows])
        main = settings[settings["generator"].isin(["", generator])]
        images = evidence.curves(own, main)
        varied = tables.variations(variations[variations["generator"] == generator], rows)
        others = points[(points["sweep"] == "backbones") & (points["generator"] == "")]
        backbones = tables.backbones(pd.concat([others, rows, main]))
        cross_dataset = list(tables.cross_dataset(rows))
        trainings = list(tables.trainings(rows))
        if images or varied["rows"] or cross_dataset or trainings:
            yield {
                "generator": generator,
                "images": {
                    title: _address("image/svg+xml", image.encode())
                    for title, image in images.items()
                },
                "label_efficiency": evidence.label_efficiency(
                    label_efficiency[label_efficiency["generator"] == generator]
                ),
                "variations": varied,
                "backbones": backbones,
                "cross_dataset": cross_dataset,
                "trainings": trainings,
            }


def _address(kind: str, image: bytes) -> str:
    """Return an image as a `data:` URL, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def _cautions(records: int, tested: Mapping[str, int]) -> Iterator[str]:
    """Yield warnings if a set is too small for reliable results.

    Args:
        records: the number of all records.
        tested: the number of tested records by rhythm.
    """
    if records < FEW_RECORDS:
        yield f"{counted(records, 'record')} in all: far too few for a reliable result."
    rare = [f"{rhythm} ({count})" for rhythm, count in tested.items() if count < FEW_TESTED]
    if rare:
        some = "these rhythms" if len(rare) > 1 else "this rhythm"
        whose = "any rhythm" if len(rare) == len(tested) else some
        yield (
            f"Fewer than {FEW_TESTED} test records of {', '.join(rare)}: far too few for a "
            f"reliable result for {whose}."
        )


def _runs(runs: pd.DataFrame, kind: str, cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the MLflow runs of a kind for one cell of a table, in the order of their seeds."""
    keys = [key for key in ("generator", "setting", "backbone") if key in cell]
    found = runs[
        np.logical_and.reduce([runs["kind"] == kind, *(runs[key] == cell[key] for key in keys)])
    ]
    return found.sort_values("seed", kind="stable").to_dict("records")
