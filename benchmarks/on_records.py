"""How good the synthetic records of a finished study are, beside jittered training records, surrogates without beats, and the floor.

    .venv/bin/python benchmarks/on_records.py ptbxl

Run it in the study's folder, after `dvc repro`. Rows are judged by the dataset's real test records, which no generator has seen: the
share of TrRTeR's macro-F1 that a classifier reaches when it is trained on the row alone (TrSTeR) or beside the real training records
(TrRSTeR), by the study's own classifier and by random convolutions with ridge regression, which share no code; and scores of
`ecgforge.quality`. The floor is real training records of other patients than those they are compared with.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import f1_score

from ecgforge.quality import distribution, manifold, memorisation, physiology, two_sample
from ecgforge.records.record_set import RecordSet

SEED = 0


def jittered(signals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift within 5 s, gain by a tenth, and noise of a twentieth of each lead's standard deviation."""
    samples = signals.shape[-1]
    shifted = np.stack([np.roll(one, rng.integers(-samples // 2, samples // 2), axis=-1) for one in signals])
    noise = rng.standard_normal(signals.shape) * shifted.std(axis=-1, keepdims=True) / 20
    return (shifted * rng.normal(1, 0.1, (len(signals), 1, 1)) + noise).astype(np.float32)


def surrogates(signals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same spectra and correlations between leads with random phases (Theiler et al. 1992): no beat is left."""
    spectrum = np.fft.rfft(signals)
    turn = np.exp(2j * np.pi * rng.random((len(signals), 1, spectrum.shape[-1])))
    return np.fft.irfft(spectrum * turn, signals.shape[-1]).astype(np.float32)


def macro_f1(features: np.ndarray, labels: np.ndarray, tested: np.ndarray, truth: np.ndarray) -> float:
    model = RidgeClassifierCV(np.logspace(-1, 5, 13), class_weight="balanced").fit(features, labels)
    return float(f1_score(truth, model.predict(tested), average="macro"))


def evenly(labels: np.ndarray, most: dict[int, int], rng: np.random.Generator) -> np.ndarray:
    """Places of as many records of each label as `most` says, label by label."""
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in most.items()]
    return np.concatenate(chosen)


def by_study(results: Path, dataset: str) -> dict[str, dict[str, float]]:
    """Shares of TrRTeR that the study's own classifier reaches, by generator; mean over seeds."""
    table = pd.read_csv(results, keep_default_na=False)
    f1 = table[(table["dataset"] == dataset) & (table["rhythm"] == "macro") & (table["metric"] == "f1")]
    f1 = f1[~f1["backbone"].isin(["majority", "logistic_regression_rr"])]
    means = f1.groupby(["generator", "setting"])["value"].mean()
    real = means["", "TrRTeR"]
    generators = [name for name in f1["generator"].unique() if name]
    return {name: {f"{setting} own": means[name, setting] / real for setting in ("TrSTeR", "TrRSTeR")} for name in generators}


def main() -> None:
    dataset = sys.argv[1]
    rng = np.random.default_rng(SEED)
    real = RecordSet.open(Path("data/prepared") / dataset)
    train, test = real.split("train"), real.split("test")
    rate = real.about.sampling_rate
    signals, labels, held_out, truth = train.signals(), train.labels, test.signals(), test.labels
    embedding = distribution.Embedding.fit(signals, SEED)
    features, tested = embedding(signals), embedding(held_out)
    counts = {label: int((truth == label).sum()) for label in np.unique(truth)}
    reference = evenly(truth, counts, rng)
    judged_by = held_out[reference], tested[reference]
    measured = physiology.measure(judged_by[0], rate)
    real_f1 = macro_f1(features, labels, tested, truth)
    print(f"{dataset}: {len(train)} training and {len(test)} test records; TrRTeR by ridge {real_f1:.3f}")

    sets = {
        "floor": (signals, labels),
        "jittered": (jittered(signals, rng), labels),
        "surrogates": (surrogates(signals, rng), labels),
    }
    for folder in sorted((Path("data/synthetic") / dataset).iterdir()):
        made = RecordSet.open(folder).split("train")
        sets[folder.name] = (made.signals(), made.labels)
    own = by_study(Path("reports/results.csv"), dataset)
    rows = {}
    for name, (made, made_labels) in sets.items():
        embedded = features if name == "floor" else embedding(made)
        chosen = evenly(made_labels, counts, rng)
        other = physiology.measure(made[chosen], rate)
        strangers = tested[::2]
        row = dict(own.get(name, {}))
        if name != "floor":
            row["TrSTeR ridge"] = macro_f1(embedded, made_labels, tested, truth) / real_f1
            both = np.concatenate([features, embedded]), np.concatenate([labels, made_labels])
            row["TrRSTeR ridge"] = macro_f1(*both, tested, truth) / real_f1
        people = np.concatenate([test.records["patient"].to_numpy()[reference], [f"{name} {i}" for i in chosen]])
        row["two-sample"] = two_sample.accuracy(judged_by[1], embedded[chosen], people, SEED)
        for measure in physiology.MEASURES:
            row[f"{measure} W1"] = physiology.wasserstein(measured[measure].to_numpy(), other[measure].to_numpy())
        row |= manifold.scores(judged_by[1], embedded[chosen])
        row |= memorisation.scores(features, strangers, tested[1::2] if name == "floor" else embedded)
        rows[name] = row
    with pd.option_context("display.width", 240, "display.max_columns", None):
        print(pd.DataFrame(rows).T.round(3).to_string(na_rep="-"))


if __name__ == "__main__":
    main()
