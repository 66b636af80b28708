"""The report page from small made-up tables and record sets, and the geometry of ECG paper."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgforge import grid
from ecgforge.analysis import score_utility
from ecgforge.analysis.answers import COLUMNS as DIFFERENCES
from ecgforge.analysis.answers import Answer, Gain, Training
from ecgforge.analysis.verdicts import Claim, Verdict, any_gain, not_worse
from ecgforge.errors import EcgforgeError
from ecgforge.params import Params
from ecgforge.quality import flags
from ecgforge.records import rhythms
from ecgforge.records.leads import LEADS, STANDARD_LEADS
from ecgforge.records.record_set import COLUMNS, SPLITS, About, write_record_set
from ecgforge.report import ecg_paper, evidence, figures, page, tables
from ecgforge.stages import report as stage

RHYTHMS = ("SR", "AFIB")
GENERATORS = ("diffwave", "time_vqvae")
GENERATED = ("TrSTeR", "TrRTeS", "TrSTeS", "TrRSTeR")
RATE = 100
EXCLUDED = [
    ("x1", "flat lead", "V3 <is> constant"),
    *((f"n{number}", "no rhythm", "codes: NORM") for number in range(5)),
]


# ---- made-up inputs
# ------------------------------------------------------------------------------------------


def beats(rate: float, seed: int) -> np.ndarray:
    """Ten seconds of P-QRS-T trains, `[8, samples]` in mV."""
    time = np.arange(10 * RATE) / RATE
    amplitude = np.random.default_rng(seed).uniform(0.5, 1.5, (len(LEADS), 1))
    waves = ((-0.16, 0.02, 0.1), (0.0, 0.012, 1.0), (0.25, 0.04, 0.3))
    train = sum(
        height * np.exp(-0.5 * ((time - beat - delay) / width) ** 2)
        for beat in np.arange(0.4, 10, 60 / rate)
        for delay, width, height in waves
    )
    return (amplitude * train).astype(np.float32)


def a_record_set(folder: Path, origin: str, per_split: dict[str, int], units: str = "mV") -> Path:
    about = About(RATE, 10 * RATE, units, RHYTHMS, origin, {})
    rows = [
        (f"{rhythm}-{split}-{number}", f"p{number}", "ptbxl", rhythm, split, 60.0, "female", origin)
        for rhythm, split in product(RHYTHMS, SPLITS)
        for number in range(per_split[split])
    ]
    signals = np.stack(
        [beats(70 if row[3] == "SR" else 110, seed) for seed, row in enumerate(rows)]
    )
    with write_record_set(folder, about) as writer:
        writer.append(signals, pd.DataFrame(rows, columns=list(COLUMNS)))
    return folder


def a_prepared_set(
    folder: Path, origin: str = "simulated", test: int = 12, train: int = 90, units: str = "mV"
) -> Path:
    a_record_set(folder, origin, {"train": train, "validation": 5, "test": test}, units)
    excluded = pd.DataFrame(EXCLUDED, columns=["id", "reason", "detail"]).assign(
        dataset="ptbxl", path="a/b", rhythm=""
    )
    excluded.to_csv(folder / "excluded.csv", index=False)
    return folder


def study_tables(datasets: list[str]) -> dict[str, pd.DataFrame]:
    """Tables of a small study; metrics follow from the place of a row, so that each is
    another.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in page.TABLES}
    cells = [("", backbone, "TrRTeR") for backbone in ("resnet1d", *tables.BASELINES)]
    cells += [
        (generator, "resnet1d", setting) for generator, setting in product(GENERATORS, GENERATED)
    ]
    cells += [("", "resnet1d", "TrRTeR augmented")]
    for number, (dataset, (generator, backbone, setting)) in enumerate(product(datasets, cells)):
        place = {
            "dataset": dataset,
            "generator": generator or np.nan,
            "backbone": backbone,
            "setting": setting,
        }
        for offset, metric in enumerate(page.METRICS):
            mean = 0.4 + 0.011 * number + 0.002 * offset
            rows["summary"].append(
                {
                    **place,
                    "metric": metric,
                    "mean": mean,
                    "low": mean - 0.1,
                    "high": mean + 0.05,
                    "seeds": 2,
                }
            )
        for seed in (0, 1):
            recalls = {"SR": 0.5 + 0.2 * seed, "AFIB": 0.01 * number, "macro": 0.99}
            rows["results"] += [
                {**place, "seed": seed, "rhythm": rhythm, "metric": "recall", "value": value}
                for rhythm, value in recalls.items()
            ]
            rows["runs"].append(
                {
                    "kind": "classifier",
                    **place,
                    "seed": seed,
                    "run_name": f"{setting} {dataset} {seed}",
                    "run_id": f"{number:08x}{seed:024x}",
                    "url": "",
                }
            )
        for truth, predicted in product(RHYTHMS, RHYTHMS):
            rows["confusions"].append(
                {
                    **place,
                    "truth": truth,
                    "predicted": predicted,
                    "records": 40 + number if truth == predicted else 7,
                }
            )
    for number, (dataset, generator) in enumerate(product(datasets, GENERATORS)):
        place = {"dataset": dataset, "generator": generator}
        for kind in ("generator", "quality"):
            run = {
                "setting": np.nan,
                "backbone": np.nan,
                "seed": 0,
                "run_name": f"{kind} {generator}",
                "url": np.nan,
            }
            rows["runs"].append({"kind": kind, **place, **run, "run_id": f"{kind[0]}{number:031x}"})
        for rhythm, metric in product(("all", *RHYTHMS), page.SCORES):
            rows["quality"].append(
                {
                    **place,
                    "rhythm": rhythm,
                    "metric": metric,
                    "value": 7.25 + number,
                    "low": 7.25 if number else 0.0,
                    "high": 9.0,
                    "baseline": 1.5,
                    "negative_control": 99.5,
                }
            )
        points = np.random.default_rng(number).normal(size=(2, 2, 20, 2))
        for (i, view), (j, kind), point in product(
            enumerate(("pca", "tsne")), enumerate(("real", "synthetic")), range(20)
        ):
            x, y = points[i, j, point]
            rows["views"].append(
                {**place, "view": view, "kind": kind, "rhythm": "SR", "x": x, "y": y}
            )
    rows["sweeps"] = sweeps("ptbxl", GENERATORS[0])
    rows["label_efficiency"] = label_efficiency_of("ptbxl", GENERATORS[0])
    rows["variations"] = [
        {
            "dataset": "ptbxl",
            "generator": GENERATORS[0],
            "variation": name,
            "generate_ms": cost,
            "c2st_accuracy": 0.75,
        }
        for name, cost in ((tables.UNCHANGED, 2.5), ("guidance 1", 12.5))
    ]
    return {name: pd.DataFrame(table) for name, table in rows.items()}


def sweeps(dataset: str, generator: str) -> list[dict[str, Any]]:
    """Points of every sweep on one dataset and generator, and what they are compared with."""
    curve = (("5", 0.2), ("20", 0.4))
    points = [("", "", "", "TrRTeR", 0.6), (generator, "", "", "TrSTeR", 0.2)]
    points += [("", "scratch", point, "TrRTeR", mean) for point, mean in curve]
    points += [
        (generator, "fine-tuning, full", point, "TrSTeR", mean)
        for point, mean in (("2", 0.1), ("5", 0.32), ("20", 0.65))
    ]
    points += [
        (generator, f"mixture, {how}", "50", "TrRSTeR", 0.5) for how in ("proportion", "balance")
    ]
    points += [
        (generator, "size", "20", setting, 0.45) for setting in ("TrRTeR", "TrSTeR", "TrRSTeR")
    ]
    points += [
        (generator, "ablation", "guidance 1", "TrSTeR", 0.33),
        (generator, "cross_dataset", "chapman, real", "TrRTeR", 0.37),
    ]
    points += [(generator, "generator_seeds", "", "TrSTeR", 0.25)]
    changed = [("", "", "", "TrRTeR", 0.7)]
    changed += [("", "scratch", point, "TrRTeR", mean) for point, mean in curve]
    changed += [
        (generator, "fine-tuning, full", "5", "TrSTeR", 0.4),
        (generator, "mixture, balance", "50", "TrRSTeR", 0.55),
    ]
    changed += [(generator, "size", "20", setting, 0.46) for setting in ("TrRTeR", "TrRSTeR")]
    changed += [
        (generator, "cross_dataset", "chapman, real", "TrRTeR", 0.39),
        (generator, "generator_seeds", "", "TrRSTeR", 0.65),
    ]
    rows = [
        ("resnet1d", augmented, *point)
        for augmented, listed in ((False, points), (True, changed))
        for point in listed
    ]
    rows += [("majority", False, "", "", "", "TrRTeR", 0.05)]
    rows += [
        ("transformer", False, "", "backbones", "", "TrRTeR", 0.41),
        ("transformer", False, generator, "backbones", "", "TrSTeR", 0.41),
    ]
    rows += [("transformer", True, "", "backbones", "", "TrRTeR", 0.43)]
    keys = ["backbone", "augmented", "generator", "sweep", "point", "setting", "mean"]
    return [
        {
            "dataset": dataset,
            "metric": "f1",
            **dict(zip(keys, row, strict=True)),
            "low": row[-1] - 0.1,
            "high": row[-1] + 0.1,
        }
        for row in rows
    ]


def label_efficiency_of(dataset: str, generator: str) -> list[dict[str, Any]]:
    keys = ["augmented", "percent", "scratch", "tuned", "equal", "low", "high"]
    rows = [
        (False, 2.0, np.nan, 0.1, 0.0, 0.0, 5.0),
        (False, 5.0, 0.2, 0.32, 14.0, 6.5, 28.0),
        (False, 20.0, 0.4, 0.65, np.inf, 80.0, np.inf),
        (True, 5.0, 0.2, 0.4, 20.0, 12.5, 46.666),
        (True, 20.0, 0.4, 0.5, 40.0, np.nan, np.nan),
    ]
    return [
        {
            "dataset": dataset,
            "generator": generator,
            "fewest": 5.0,
            **dict(zip(keys, row, strict=True)),
        }
        for row in rows
    ]


def answered(dataset: str) -> Answer:
    """Synthetic records hardly help, and a condition for each kind of row."""
    rows = [
        ("real and synthetic: diffwave", "primary", "does not help enough", -0.01),
        ("classical augmentation", "classical", "helps enough", 0.05),
        ("synthetic alone: <time_vqvae>", "", "hurts", -0.2),
    ]
    differences = pd.DataFrame(
        [
            [name, role, finding, mean, mean - 0.02, mean + 0.02, mean - 0.03, mean + 0.03]
            for name, role, finding, mean in rows
        ],
        columns=DIFFERENCES,
    )
    gain = Gain(-0.01, -0.03, 0.01, "does not help enough")
    more = Gain(0.05, 0.03, 0.07, "helps enough")
    training = Training([180], simulated=True)
    return Answer(dataset, "diffwave", training, 0.02, 0.95, gain, more, differences)


def judged() -> list[Verdict]:
    """Two claims, the paper's with two comparisons and another that was not tested."""
    comparison = {"dataset": "ptbxl", "metric": "f1", "p": 0.01, "first": "TrRTeR resnet1d"}
    points = pd.DataFrame(
        [{**comparison, "second": "TrRSTeR b", "estimate": 0.1, "band_low": 0.0, "band_high": 0.2}]
    )
    rows = [
        {
            **comparison,
            "second": "TrRSTeR diffwave",
            "chosen": "",
            "finding": "hurts",
            "estimate": -0.125,
            "low": -0.25,
            "high": -0.0625,
        },
        {
            **comparison,
            "second": "TrRSTeR time_vqvae",
            "chosen": "2 of 3",
            "finding": "helps enough",
            "estimate": 0.5,
            "low": 0.25,
            "high": 0.75,
        },
    ]
    supported = Verdict(
        Claim("It helps <much>.", True, [], any_gain),
        "supported",
        pd.DataFrame(rows),
        pd.DataFrame([rows[0] | {"metric": "auroc", "low": -0.5, "high": -0.03125}]),
        points,
        {"ptbxl": "To decide it: more test patients."},
    )
    return [
        supported,
        Verdict(
            Claim("It also sings.", False, [], any_gain),
            "not tested",
            pd.DataFrame(columns=["estimate"]),
        ),
    ]


def utility_of(correlations: dict[str, tuple[float, float]], note: str = "") -> pd.DataFrame:
    """Rank correlations of scores with the gain of TrSTeR and TrRSTeR."""
    rows = [
        (metric, setting, rho, rho - 0.1, rho + 0.05, 9, 3, note)
        for metric, pair in correlations.items()
        for setting, rho in zip(score_utility.SETTINGS, pair, strict=True)
    ]
    table = pd.DataFrame(rows, columns=score_utility.COLUMNS)
    return table.assign(low=np.nan, high=np.nan) if note else table


def study_inputs(folder: Path, prepared: dict[str, Path]) -> page.ReportInputs:
    synthetic = {
        (dataset, generator): a_record_set(
            folder / f"{dataset}-{generator}", "synthetic", {"train": 8, "validation": 2, "test": 2}
        )
        for dataset, generator in product(prepared, GENERATORS)
    }
    made = {
        "profile": "demo",
        "commit": "0123456789abcdef",
        "dirty": True,
        "commands": {"results": "dvc repro evaluate", "ui": "make ui"},
        "versions": {"torch": "2.13.0"},
        "parameters": {"study": {"seeds": [0, 1], "patience": None}},
    }
    return page.ReportInputs(
        **study_tables(list(prepared)),
        utility=utility_of({"recall": (0.9, 0.2), "frechet": (0.1, -0.4)}),
        answers=[answered(dataset) for dataset in prepared],
        verdicts=judged(),
        prepared=prepared,
        synthetic=synthetic,
        made=made,
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> page.ReportInputs:
    folder = tmp_path_factory.mktemp("study")
    return study_inputs(
        folder,
        {
            "ptbxl": a_prepared_set(folder / "ptbxl"),
            "chapman": a_prepared_set(folder / "chapman", test=3, train=20),
        },
    )


@pytest.fixture(scope="module")
def report(inputs: page.ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("reports") / "report.html"
    page.write(inputs, out)
    return out.read_text()


class Tables(HTMLParser):
    """The text of each table's cells, by the table's caption or region."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._region, self._in_cell = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if named.get("role") == "region":
            self._region = named["aria-label"] or ""
        elif tag == "table":
            self.tables[self._region] = []
        elif tag == "tr":
            self.tables[self._region].append([])
        elif tag in ("th", "td"):
            self.tables[self._region][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._in_cell = False

    def handle_data(self, text: str) -> None:
        if self._in_cell:
            row = self.tables[self._region][-1]
            row[-1] = " ".join(f"{row[-1]} {text}".split())


# ---- the page
# ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_simulated_records_have_a_banner_and_real_ones_do_not(report, inputs, tmp_path):
    assert "<strong>SIMULATED RECORDS</strong>" in report
    real = {"ptbxl": a_prepared_set(tmp_path / "real", origin="real")}
    page.write(study_inputs(tmp_path, real), tmp_path / "real.html")
    text = (tmp_path / "real.html").read_text()
    assert "<strong>REAL RECORDS</strong>" in text
    assert "SIMULATED" not in text
    assert ">simulated</span>" not in text
    both = replace(
        inputs, prepared={"ptbxl": tmp_path / "real", "chapman": inputs.prepared["chapman"]}
    )
    page.write(both, tmp_path / "both.html")
    assert (
        "<strong>SIMULATED AND REAL RECORDS</strong> Records in chapman come"
        in (tmp_path / "both.html").read_text()
    )


def test_the_answer_of_each_dataset_stands_before_all_results(report):
    sentences = re.findall(r'<p class="answer" id="answers-(\w+)">(.*?)</p>', report)
    assert [dataset for dataset, _ in sentences] == ["ptbxl", "chapman"]
    assert sentences[0][1].startswith(
        "PTB-XL (simulated): no. With 180 real training records, adding synthetic ones (diffwave) "
    )
    assert report.index('id="answers-chapman"') < report.index('id="results"')
    answers = report[report.index('id="answers"') : report.index('id="results"')]
    assert answers.count("<img") == 2
    assert "synthetic alone: &lt;time_vqvae&gt; hurts. The numbers are in a table" in answers


def test_the_best_generator_is_named_where_there_are_several(inputs, report, tmp_path):
    assert "<small>best: " in report
    one = {pair: folder for pair, folder in inputs.synthetic.items() if pair[1] == GENERATORS[0]}
    rows = {
        name: table[table["generator"] != GENERATORS[1]]
        for name in page.TABLES
        if "generator" in (table := getattr(inputs, name))
    }
    page.write(replace(inputs, synthetic=one, **rows), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<small>diffwave</small>" in text
    assert "best: " not in text
    assert "“Best”" not in text


def test_the_differences_from_real_records_are_in_a_table(report):
    table = Tables(report).tables["Differences from real records alone, ptbxl"]
    assert table[0] == ["training records", "finding", "difference", "interval", "band"]
    assert table[1] == [
        "real and synthetic: diffwave",
        "does not help enough",
        "−0.010",
        "−0.030 to +0.010",
        "−0.040 to +0.020",
    ]
    assert [row[0] for row in table[2:]] == [
        "classical augmentation",
        "synthetic alone: <time_vqvae>",
    ]


def test_the_figure_of_gains_has_every_condition_and_the_smallest_gain():
    rows = answered("ptbxl").differences
    image = figures.gains(rows, 0.02)
    for words in (*rows["name"], "smallest gain that counts: 0.02", "difference in macro-F1"):
        assert image.count(f">{words.replace('<', '&lt;').replace('>', '&gt;')}<") == 1, words
    assert image == figures.gains(rows, 0.02)
    assert image != figures.gains(rows, 0.03)
    assert float(re.search(r'width="([\d.]+)pt"', image)[1]) * 4 / 3 <= 390 - 2 * 20, (
        "a telephone shows it in full size"
    )


def test_a_figure_of_gains_needs_no_intervals():
    rows = answered("ptbxl").differences
    few = rows.assign(**dict.fromkeys(("low", "high", "band_low", "band_high"), np.nan))
    assert ">classical augmentation<" in figures.gains(few, 0.02)


def test_a_dataset_without_comparisons_has_its_sentence_and_no_figure(inputs, tmp_path):
    bare = replace(answered("ptbxl"), gain=None, augmentation=None)
    bare = replace(bare, differences=bare.differences[:0])
    page.write(
        replace(inputs, answers=[bare], prepared={"ptbxl": inputs.prepared["ptbxl"]}),
        tmp_path / "report.html",
    )
    text = (tmp_path / "report.html").read_text()
    assert "not known. Real and synthetic records (diffwave) were not compared." in text
    assert "Differences from real records alone" not in text


def test_small_sets_are_cautioned_and_sufficient_ones_are_not(report):
    cautions = re.findall(r'<p class="caution" data-dataset="(\w+)">(.*?)</p>', report)
    assert [dataset for dataset, _ in cautions] == ["chapman"]
    assert "56 records in all: far too few for a reliable result." in cautions[0][1]
    assert "Fewer than 10 test records of SR (3), AFIB (3)" in cautions[0][1]


@pytest.mark.slow
def test_the_rounds_of_cross_fitting_test_on_all_records(inputs, tmp_path):
    crossed = [
        replace(one, training=replace(one.training, records=[30, 30])) for one in inputs.answers
    ]
    page.write(replace(inputs, answers=crossed), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "56 records in all: far too few for a reliable result." in text
    assert "Fewer than 10 test records" not in text


def test_the_settings_table_shows_the_summary_and_shares_trrter(report, inputs):
    f1 = inputs.summary[inputs.summary["metric"] == "f1"]
    table = Tables(report).tables["Macro-F1 by setting"]
    assert table[0][2:] == [
        "TrRTeR",
        "TrSTeR",
        "TrRSTeR",
        "TrRTeR augmented",
        "TrRSTeR augmented",
        "TrRTeS",
        "TrSTeS",
    ]
    of_ptbxl = {row[0]: row for row in table[2:6]}
    for generator, setting in product(GENERATORS, [*GENERATED, *tables.SHARED]):
        shared = setting in tables.SHARED
        place = (
            (f1["dataset"] == "ptbxl") & (f1["setting"] == setting) & (f1["backbone"] == "resnet1d")
        )
        row = f1[place & (f1["generator"].isna() if shared else f1["generator"] == generator)].iloc[
            0
        ]
        assert (
            of_ptbxl[generator][table[0].index(setting)]
            == f"{row['mean']:.2f} {row.low:.2f} to {row.high:.2f}"
        )
    assert [row[1] for row in table[4:6]] == list(tables.BASELINES.values())
    assert table[4][3:] == ["–"] * 6


def test_the_report_states_the_confidence_of_its_intervals(report, inputs, tmp_path):
    assert re.search(r"mean over 2 seeds [\w, ]+, with 95 % interval", report)
    page.write(
        replace(inputs, prepared={"ptbxl": inputs.prepared["ptbxl"]}, confidence=0.9),
        tmp_path / "report.html",
    )
    assert re.search(
        r"mean over 2 seeds [\w, ]+, with 90 % interval", (tmp_path / "report.html").read_text()
    )


@pytest.mark.slow
def test_an_estimate_of_fewer_seeds_states_their_number_and_a_baseline_does_not(inputs, tmp_path):
    few = inputs.summary.assign(seeds=np.where(inputs.summary["setting"] == "TrRSTeR", 1, 2))
    page.write(
        replace(
            inputs,
            summary=few.assign(
                seeds=few["seeds"].where(~few["backbone"].isin(tables.BASELINES), 1)
            ),
        ),
        tmp_path / "r.html",
    )
    table = Tables((tmp_path / "r.html").read_text()).tables["Macro-F1 by setting"]
    column = table[0].index("TrRSTeR")
    assert all(
        row[column].endswith(", 1 seed")
        for row in table
        if len(row) > column and row[0] in GENERATORS
    )
    assert sum(cell.endswith("seed") for row in table for cell in row) == len(GENERATORS) * len(
        inputs.prepared
    )


def test_recall_is_the_mean_over_seeds_without_the_macro_rows(report):
    table = Tables(report).tables["Recall by rhythm, ptbxl"]
    assert table[0][3:] == ["SR (12)", "AFIB (12)"]
    assert table[1] == ["TrRTeR", "none", "resnet1d", "0.60", "0.00"]
    assert len(table) == 1 + 4 + len(GENERATORS) * len(GENERATED)


def test_confusions_have_the_truth_in_rows_and_name_their_runs():
    cell = {"generator": "", "backbone": "resnet1d", "setting": "TrRTeR"}
    counted = pd.DataFrame(
        [
            {**cell, "truth": "SR", "predicted": "AFIB", "records": 3},
            {**cell, "truth": "SR", "predicted": "SR", "records": 1},
            {**cell, "truth": "ST", "predicted": "SR", "records": 1},
        ]
    )
    (found,) = tables.confusions(counted, ("SR", "AFIB", "ST"))
    assert found["matrix"] == [
        ("SR", [(1, 0.25), (3, 0.75), (0, 0.0)]),
        ("AFIB", [(0, 0.0), (0, 0.0), (0, 0.0)]),
        ("ST", [(1, 1.0), (0, 0.0), (0, 0.0)]),
    ]


def test_every_matrix_names_the_runs_of_its_seeds_and_the_runs_are_listed(report):
    caption = re.search(
        r"<b>TrSTeR</b>, diffwave, resnet1d<br>(.*?)</figcaption>", report, re.DOTALL
    )
    assert caption
    links = re.findall(r'href="#(run-\w+)"', caption[1])
    assert links == [f"run-{3:08x}{seed:024x}" for seed in (0, 1)]
    anchors = re.findall(r'id="([\w-]+)"', report)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r'href="#([\w-]+)"', report)) <= set(anchors)


def test_runs_that_the_store_no_longer_has_leave_no_dead_links(inputs, tmp_path):
    runs = inputs.runs.assign(run_id="", run_name="", url="")
    page.write(
        replace(inputs, runs=runs, prepared={"ptbxl": inputs.prepared["ptbxl"]}),
        tmp_path / "report.html",
    )
    text = (tmp_path / "report.html").read_text()
    assert "no MLflow run recorded" in text
    assert "ptbxl: no MLflow runs" in text
    assert 'href="#run-' not in text


def test_every_rhythm_has_its_name_in_class_order():
    assert tuple(page.RHYTHMS) == rhythms.RHYTHMS


def test_verdicts_come_with_their_primary_comparisons_and_all_points(report):
    table = Tables(report).tables["Verdicts"]
    claim, word, text = table[2]
    assert (claim.partition(" Decided")[0], word) == ("It helps <much>.", "supported")
    for part in (
        "ptbxl: TrRSTeR diffwave against TrRTeR resnet1d hurts −0.125 macro-F1 −0.250 to −0.062",
        "ptbxl: TrRSTeR time_vqvae against TrRTeR resnet1d, chosen by validation records in "
        "2 of 3 rounds or seeds helps enough +0.500 macro-F1 +0.250 to +0.750",
        "To decide it: more test patients.",
    ):
        assert part in text
    assert "Tested claims: 1</b>: 1 supported, 0 contradicted, 0 undecided." in report
    assert "It also sings." not in {row[0] for row in table}
    assert "Not tested in this study: 1 claim<" in report
    assert "<li>It also sings.</li>" in report
    assert "+0.000 to +0.200" in report
    assert "−0.500 to −0.031" in report, "the same comparison by AUROC"


def test_a_claim_states_its_rule_and_that_its_comparison_was_chosen(inputs, report, tmp_path):
    (row,) = [row for row in Tables(report).tables["Verdicts"] if row[0].startswith("It helps")]
    assert row[0].endswith("Decided on the comparison that validation records choose.")
    assert "This claim is supported if one interval is above 0 and reaches 0.02," in row[2]
    supported, untested = inputs.verdicts
    claim = replace(supported.claim, rule=not_worse)
    single = replace(supported, claim=claim, primary=supported.primary.assign(chosen=""))
    page.write(replace(inputs, verdicts=[single, untested]), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "above −0.02, contradicted if one is below −0.02." in text
    assert "that validation records choose" not in text


def test_the_rounds_of_cross_fitting_are_named_with_the_records(inputs, report, tmp_path):
    assert "cross-fitting: " not in report
    trained = replace(inputs.answers[0], training=Training([140, 144], simulated=True))
    page.write(replace(inputs, answers=[trained, *inputs.answers[1:]]), tmp_path / "report.html")
    (words,) = re.findall(r'<p id="rounds-(.*?)</p>', (tmp_path / "report.html").read_text())
    assert words.startswith(
        'ptbxl">Classifiers and generators of ptbxl use cross-fitting: 2 rounds'
    )
    assert "A round trains on about 142 records. Each of the 214 records is a test" in words


def test_sweeps_have_curves_and_tables(report):
    found = Tables(report).tables
    assert found[f"Other classifiers, ptbxl, {GENERATORS[0]}"][1:] == [
        ["resnet1d", "0.60 0.50 to 0.70", "0.70 0.60 to 0.80", "0.20 0.10 to 0.30", "–", "–"],
        ["transformer", "0.41 0.31 to 0.51", "0.43 0.33 to 0.53", "0.41 0.31 to 0.51", "–", "–"],
    ]
    varied = found[f"Variations of {GENERATORS[0]} on ptbxl"]
    assert [row[:2] for row in varied[1:]] == [
        ["as it is", "0.20 0.10 to 0.30"],
        ["guidance 1", "0.33 0.23 to 0.43"],
    ]
    assert [row[2:] for row in varied[1:]] == [["0.75", "2.5"], ["0.75", "12.5"]]
    assert found[f"Tested on ptbxl, trained on another dataset, {GENERATORS[0]}"][1:] == [
        ["chapman, real", "0.37 0.27 to 0.47"],
        ["chapman, real, augmented", "0.39 0.29 to 0.49"],
    ]
    for title in evidence.CURVES:
        assert f'alt="{title}: macro-F1' in report


def test_lines_of_fewer_real_records_lead_on_to_all_of_them(inputs):
    points = tables.models(inputs.sweeps[inputs.sweeps["generator"].isin(["", GENERATORS[0]])])
    whole = points[points["sweep"] == ""]

    def line(sweep, setting, changed):
        return list(
            evidence._line(points, whole, (sweep, setting), changed)[
                ["percent", "mean"]
            ].itertuples(index=False, name=None)
        )

    assert line("size", "TrRTeR", False) == [(20, 0.45), (100, 0.6)]
    assert line("size", "TrRTeR", True) == [(20, 0.46), (100, 0.7)]
    assert line("size", "TrSTeR", False) == [(20, 0.45), (100, 0.2)]
    assert line("size", "TrRSTeR", False) == [(20, 0.45)], (
        "all records were not run in that setting"
    )
    assert line("scratch", "TrRTeR", True) == [(5, 0.2), (20, 0.4), (100, 0.7)]
    assert line("mixture, balance", "TrRSTeR", False) == [(50, 0.5)], (
        "all real records are in every mixture"
    )


@pytest.mark.slow
def test_the_page_says_where_there_are_no_sweeps(inputs, tmp_path):
    def described(**changed):
        made = {**inputs.made, "commands": {"sweeps": "dvc repro mixture"}}
        page.write(replace(inputs, made=made, **changed), tmp_path / "report.html")
        return (tmp_path / "report.html").read_text()

    some = described()
    assert "No sweeps on chapman: " in some
    assert "dvc repro mixture" in some
    params = Params.read(Path(__file__).parents[1] / "params.yaml")
    targets = params.sweep_targets.model_copy(
        update={"datasets": [], "generator_seeds": [], "cross_dataset": []}
    )
    nowhere = list(grid.cells(params.model_copy(update={"sweep_targets": targets})))
    none = described(
        sweeps=inputs.sweeps[inputs.sweeps["sweep"] == ""], variations=stage._variations(nowhere)
    )
    assert "No sweeps on ptbxl, chapman: " in none
    assert "dvc repro mixture" not in none


def test_a_curve_has_each_level_once_and_no_baseline():
    points = pd.DataFrame(sweeps("ptbxl", "diffwave"))
    image = evidence.curves(points, tables.models(points))["More synthetic records"]
    for words in (
        "all real records (TrRTeR)",
        "rare rhythms filled up",
        "dashed: classically augmented",
    ):
        assert image.count(f">{words}<") == 1, words
    balanced = points[(points["sweep"] != "mixture, proportion") & ~points["augmented"]]
    image = evidence.curves(balanced, tables.models(balanced))["More synthetic records"]
    assert ">rare rhythms filled up<" in image
    for words in ("mixed as the real ones are", "dashed: classically augmented"):
        assert f">{words}<" not in image, f"{words}: not drawn"


def test_a_single_point_is_plotted_in_its_panel_with_its_interval():
    points = tables.models(pd.DataFrame(sweeps("ptbxl", "diffwave")))
    image = evidence.curves(points, points)["More synthetic records"]
    width = float(re.search(r'width="([\d.]+)pt"', image)[1])
    panel = image[image.index('id="axes_1"') : image.index('id="axes_2"')]
    markers = re.findall(
        r'<use xlink:href="#\w+" x="([-\d.]+)" y="[-\d.]+" style="fill: #(?:0072b2|d55e00); stroke',
        panel,
    )
    assert len(markers) == 2
    assert all(0.3 * width < float(x) < width for x in markers)
    assert len(re.findall(r'd="M ([\d.]+) [\d.]+ \nL \1 [\d.]+ \n" clip-path', panel)) == 2, (
        "a line up and down for each"
    )


@pytest.mark.slow
def test_self_supervised_pre_training_is_a_curve_next_to_that_on_synthetic_records():
    points = tables.models(pd.DataFrame(sweeps("ptbxl", "diffwave")))
    scratch = points[points["sweep"] == "scratch"]
    own = pd.concat([points, scratch.assign(sweep="self_supervised")])
    name = "pre-trained without labels on real records"
    assert name not in evidence.curves(points, points)["Pre-training"]
    assert name in evidence.curves(own, points)["Pre-training"]
    assert "Pre-training" not in evidence.curves(own[own["sweep"].isin(evidence.ON_REAL)], points)
    (shown,) = page._sweeps(
        own, pd.DataFrame(columns=["generator"]), pd.DataFrame(columns=["generator"])
    )
    image = base64.b64decode(shown["images"]["Pre-training"].split(",")[1]).decode()
    assert name in image, "with the curves of each generator"


def test_curves_of_augmented_records_have_a_panel_of_their_own():
    points = tables.models(pd.DataFrame(sweeps("ptbxl", "diffwave")))
    panel = "training records classically augmented"
    assert panel in evidence.curves(points, points)["Pre-training"]
    tuned = points["sweep"].str.startswith("fine-tuning") & points["augmented"]
    images = evidence.curves(points[~tuned], points)
    assert panel not in images["Pre-training"], (
        "only the baseline was run, which has its place among the others"
    )
    assert panel in images["More synthetic records"]


def test_label_efficiency_beyond_the_curve_from_scratch_is_stated_in_words(report):
    label_efficiency = Tables(report).tables[f"Label efficiency, ptbxl, {GENERATORS[0]}"]
    assert label_efficiency[1:] == [
        ["training records without augmentation"],
        ["2", "–", "0.10", "less than 5 % less than 5 % to 5 %"],
        ["5", "0.20", "0.32", "14 % 6.5 % to 28 %"],
        ["20", "0.40", "0.65", "more than 100 % 80 % to more than 100 %"],
        ["training records classically augmented"],
        ["5", "0.20", "0.40", "20 % 12.5 % to 46.7 %"],
        ["20", "0.40", "0.50", "40 % – to –"],
    ]
    assert f"Label efficiency, ptbxl, {GENERATORS[1]}" not in report


def test_what_trainings_of_a_generator_differ_by_is_shown(report):
    table = Tables(report).tables[f"Several trainings of {GENERATORS[0]}, ptbxl"]
    assert table == [
        ["setting", "one training", "one training per seed"],
        ["TrSTeR", "0.20 0.10 to 0.30", "0.25 0.15 to 0.35"],
        ["TrRSTeR augmented", "–", "0.65 0.55 to 0.75"],
    ]


def test_every_score_is_shown_with_its_baseline_and_negative_control(report):
    tables = Tables(report).tables
    for caption in (
        "ptbxl, all rhythms",
        *(f"ptbxl, {page.RHYTHMS[rhythm]}" for rhythm in RHYTHMS),
    ):
        table = tables[caption]
        assert table[0] == ["score", *GENERATORS]
        for name, row in zip(page.SCORES, table[1:], strict=True):
            # All are worse than the baseline if less is better, the first generator's within its
            # interval.
            judged = name not in (*flags.UNMARKED, *flags.MORE_IS_BETTER, "mmd2")
            assert row == [
                page.SCORES[name] + " (mV)" * (name in page.AMPLITUDES),
                "7.25 0 to 9 1.5 … 99.5",
                f"8.25{' ▲' if judged else ''} 7.25 to 9 1.5 … 99.5",
            ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-0.01234, "−0.0123"), (999.4, "999"), (999.7, "1,000"), (12345.6, "12,346"), (np.nan, "–")],
)
def test_scores_have_three_digits_and_no_exponent(value, shown):
    assert page._number(value, ".3g") == shown


def test_rank_correlations_are_shown_with_their_intervals_the_largest_first(report):
    section = report[report.index('id="score-utility"') :]
    assert "+0.900" in section
    assert "−0.500 to −0.350" in section
    assert "data:image/svg+xml" in section[: section.index("</figure>")]
    assert section.index("<small>recall</small>") < section.index("<small>frechet</small>")


@pytest.mark.slow
def test_rank_correlations_without_intervals_have_their_reason_and_no_figure(inputs, tmp_path):
    few = utility_of({"recall": (0.9, 0.2)}, "too few record sets")
    for table, expected in ((few, "too few record sets"), (few.iloc[:0], "No record set has")):
        page.write(replace(inputs, utility=table), tmp_path / "report.html")
        text = (tmp_path / "report.html").read_text()
        section = text[text.index('id="score-utility"') : text.index('id="data"')]
        assert expected in section
        assert "<figure>" not in section


def test_the_figure_of_rank_correlations_has_every_score_and_setting():
    names = ("recall", "frechet", "copied_share", "mine")
    svg = figures.utility(utility_of(dict.fromkeys(names, (0.9, 0.2))), page.SCORES)
    for text in (
        "recall",
        "Fréchet distance, random convolutions",
        "share near training records",
        "mine",
        "TrSTeR",
        "TrRSTeR",
    ):
        assert f">{text}<" in svg


@pytest.mark.slow
def test_scores_beyond_their_floor_are_counted_by_rhythm(report):
    table = Tables(report).tables["ptbxl: scores beyond their baseline"]
    judged = len(page.SCORES) - len(flags.UNMARKED)
    beyond = judged - len(flags.MORE_IS_BETTER) - 1
    assert table[0] == ["generator", "all", *RHYTHMS]
    rows = [
        [name, *[f"{beyond if number else 0} of {judged}"] * (1 + len(RHYTHMS))]
        for number, name in enumerate(GENERATORS)
    ]
    assert table[1:] == rows


def test_counts_and_exclusions_add_up(report):
    counts = Tables(report).tables[
        "ptbxl: records by rhythm and split; no patient is in two splits"
    ]
    assert counts[1:] == [
        ["SR", "90", "5", "12", "107"],
        ["AFIB", "90", "5", "12", "107"],
        ["all", "180", "10", "24", "214"],
    ]
    assert (
        "<b>220</b> records in the source = <b>214</b> in the study + <b>6</b> excluded" in report
    )
    excluded = Tables(report).tables["Excluded records of ptbxl"]
    assert [row[:2] for row in excluded[1:]] == [["no rhythm", "5"], ["flat lead", "1"]]
    assert excluded[1][2] == "n0: codes: NORM n1: codes: NORM n2: codes: NORM"
    assert "V3 &lt;is&gt; constant" in report


def test_the_report_states_what_was_run(report):
    for part in (
        "0123456789ab",
        "with uncommitted changes",
        "<b>demo</b>",
        "dvc repro evaluate",
        "make ui",
        "study.seeds",
        "<td>null</td>",
    ):
        assert part in report


def test_each_rhythm_has_real_and_synthetic_ecgs(report):
    strips = re.findall(r'aria-label="([^"]*), leads II and V1"', report)
    assert strips[:3] == [
        "ptbxl, SR, simulated: record SR-test-0",
        "ptbxl, SR, diffwave: record SR-test-0",
        "ptbxl, SR, time_vqvae: record SR-test-0",
    ]
    assert len(strips) == 2 * len(RHYTHMS) * (1 + len(GENERATORS))


def test_nothing_is_fetched(report):
    assert not re.findall(r'(?:src|srcset|data|poster)="(?!data:)[^"]', report)
    assert not re.findall(r"@import|url\(", report)
    links = re.findall(r"<(\w+)[^>]*\shref=\"(?!#|data:)", report)
    assert set(links) == {"a"}


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes_and_a_sane_size(report, inputs, tmp_path):
    page.write(inputs, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == report
    assert len(report) < 2e6


def test_standardised_records_have_eight_leads_and_a_note(tmp_path):
    prepared = {"ptbxl": a_prepared_set(tmp_path / "ptbxl", origin="real", units="per_lead_std")}
    page.write(
        replace(
            study_inputs(tmp_path, prepared),
            synthetic={},
            views=study_tables([])["views"].reindex(columns=["dataset", "generator"]),
        ),
        tmp_path / "out.html",
    )
    text = (tmp_path / "out.html").read_text()
    assert "not in millivolts" in text
    assert 'data-lead="aVR"' not in text


def test_a_set_without_its_exclusions_is_refused_and_leaves_no_report(inputs, tmp_path):
    bare = a_record_set(tmp_path / "bare", "real", dict.fromkeys(SPLITS, 1))
    with pytest.raises(EcgforgeError, match=r"excluded\.csv is missing"):
        page.write(replace(inputs, prepared={"ptbxl": bare}), tmp_path / "reports" / "report.html")
    assert not (tmp_path / "reports" / "report.html").exists()


def test_the_best_generator_is_chosen_per_setting_and_never_a_baseline():
    rows = [
        ("", "majority", "TrRTeR", 0.99),
        ("", "resnet1d", "TrRTeR", 0.8),
        ("a", "resnet1d", "TrSTeR", 0.5),
        ("b", "resnet1d", "TrSTeR", 0.6),
        ("", "logistic_regression_rr", "TrRTeR", 0.4),
    ]
    found = tables.answer(pd.DataFrame(rows, columns=["generator", "backbone", "setting", "mean"]))
    assert found["TrRTeR"]["mean"] == 0.8
    assert found["TrSTeR"]["generator"] == "b"
    assert found["baseline"]["mean"] == 0.4
    assert found["TrRSTeR"] is None


def test_figures_are_the_same_bytes_for_the_same_table(inputs):
    f1 = inputs.of("ptbxl").summary.query("metric == 'f1'")
    first, second = (figures.macro_f1(f1, tables.SETTINGS, tables.BASELINES) for _ in range(2))
    assert first == second
    assert first != figures.macro_f1(
        f1.assign(mean=f1["mean"] / 2), tables.SETTINGS, tables.BASELINES
    )


def test_settings_are_evenly_spaced_with_equal_margins(inputs, monkeypatch):
    monkeypatch.setattr(figures, "svg", lambda figure: figure)
    f1 = inputs.of("ptbxl").summary.query("metric == 'f1'")
    (axes,) = figures.macro_f1(f1, tables.SETTINGS, tables.BASELINES).axes
    left, right = axes.get_xlim()
    ticks = axes.get_xticks()
    assert ticks.tolist() == list(range(len(tables.SETTINGS)))
    assert ticks[0] - left == right - ticks[-1] == 0.5


# ---- ECG paper
# ------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def traces(svg: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The x and y of each lead's points in mm on the paper, as an SVG reader would place them."""
    found = {}
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        if "data-lead" in path.attrib:
            left, top, scale = (
                float(part) for part in re.findall(r"[-\d.]+", path.attrib["transform"])
            )
            start, moves = re.fullmatch(r"M([^l]+)l(.*)", path.attrib["d"]).groups()
            steps = [re.findall(r"-?\d+", part) for part in (start, moves)]
            points = (
                np.cumsum(np.array([*steps[0], *steps[1]], dtype=float).reshape(-1, 2), axis=0)
                * scale
            )
            found.setdefault(path.attrib["data-lead"], (left + points[:, 0], top + points[:, 1]))
    return found


def test_a_second_is_25_mm_and_a_millivolt_10_mm():
    signals = np.zeros((1, 501))
    signals[0, 100], signals[0, 200], signals[0, 300] = 1.0, -0.5, 1.0
    svg = ecg_paper.draw(signals, 100, ["II"], "two beats")
    x, y = traces(svg)["II"]
    assert x[300] - x[100] == pytest.approx(2 * 25)
    assert y[0] - y[100] == pytest.approx(10)
    assert y[200] - y[0] == pytest.approx(5)
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert (root.attrib["width"], root.attrib["height"]) == (f"{width:g}mm", f"{height:g}mm")
    assert x[-1] <= width


def test_the_calibration_pulse_is_a_millivolt_for_a_fifth_of_a_second():
    svg = ecg_paper.draw(np.zeros((1, 100)), 100, ["I"], "flat")
    pulse = next(
        path.attrib["d"]
        for path in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if path.get("class") == "calibration"
    )
    assert re.search(r"v-10h5v10", pulse)


@settings(max_examples=25, deadline=None)
@given(rate=st.sampled_from([50, 100, 257, 360, 500, 1000]), seed=st.integers(0, 1000))
def test_rounding_does_not_add_up_over_a_record(rate, seed):
    signals = np.random.default_rng(seed).normal(0, 0.3, (1, 10 * rate))
    x, y = traces(ecg_paper.draw(signals, rate, ["II"], "noise"))["II"]
    stride = max(1, int(0.1 * rate / 25))
    kept = signals[0, ::stride]
    assert np.abs((x - x[0]) - np.arange(len(kept)) * stride * 25 / rate).max() <= 0.0051
    assert np.abs((y - y[0]) + 10 * (kept - kept[0])).max() <= 0.0101


def test_a_clinical_sheet_has_four_columns_that_go_on_in_time():
    signals = np.zeros((8, 1000))
    signals[LEADS.index("V4"), 800] = 1.0
    found = traces(ecg_paper.sheet(signals, 100, "mV", "twelve"))
    assert set(found) == set(STANDARD_LEADS)
    x, y = found["V4"]
    assert x[np.argmin(y)] == pytest.approx(10 + 8 * 25)
    assert found["aVR"][0][0] == pytest.approx(10 + 2.5 * 25)
    assert len({found[lead][0][0] for lead in ("I", "II", "III")}) == 1


def test_limb_leads_are_not_derived_from_standardised_leads():
    found = traces(ecg_paper.sheet(np.ones((8, 1000)), 100, "per_lead_std", "eight"))
    assert set(found) == set(LEADS)
    x, _ = found["V6"]
    assert x[-1] - x[0] == pytest.approx(5 * 25, abs=0.3)


def test_titles_cannot_break_the_drawing():
    svg = ecg_paper.draw(np.zeros((1, 10)), 100, ['<V1 & "2">'], '<script>"&')
    assert ElementTree.fromstring(svg).attrib["aria-label"] == '<script>"&'


@pytest.mark.slow
def test_the_report_says_what_would_decide_an_open_answer(inputs, tmp_path):
    words = "To decide it: about 4 times as many test patients."
    first, *others = inputs.answers
    page.write(
        replace(inputs, answers=[replace(first, to_decide=words), *others]), tmp_path / "open.html"
    )
    report = (tmp_path / "open.html").read_text()
    assert report.count('id="to-decide-') == 1
    assert f'<p id="to-decide-{first.dataset}">{words}</p>' in report
