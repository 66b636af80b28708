"""Cross-fitting: every record is tested on once, by models that have not seen its patient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import registry_project as project
from ecgforge import rounds
from ecgforge.analysis.quality import over_rounds
from ecgforge.errors import EcgforgeError
from ecgforge.files import md5
from ecgforge.model_versions import versions
from ecgforge.params import Params
from ecgforge.preparation import splits
from ecgforge.preparation.cross_fitting import write_round
from ecgforge.records.record_set import SPLITS, RecordSet, write_record_set
from ecgforge.stages import classify, cross_fitting, synthesize, train_generator
from ecgforge.study import predictions

ROOT = Path(__file__).parents[1]


def patients(rhythms: list[str], folds: list[float] | None = None) -> pd.DataFrame:
    """One record of each patient."""
    names = [f"p{number}" for number in range(len(rhythms))]
    fold = folds or [np.nan] * len(rhythms)
    return pd.DataFrame({"id": names, "patient": names, "rhythm": rhythms, "fold": fold})


@given(
    st.lists(st.sampled_from(["SR", "AFIB", "SA"]), min_size=3, max_size=60),
    st.integers(3, 10),
    st.randoms(use_true_random=False),
)
@pytest.mark.slow
def test_groups_have_equally_many_of_each_rhythm_in_any_order(rhythms, count, random):
    table = patients(rhythms)
    groups = splits.deal(table, count)
    sizes = pd.crosstab(table["rhythm"], groups).reindex(columns=range(count), fill_value=0)
    assert (sizes.max(axis=1) - sizes.min(axis=1)).max() <= 1
    totals = sizes.sum()
    assert totals.max() - totals.min() <= 1, "rare rhythms do not all go to the first group"
    order = random.sample(range(len(table)), len(table))
    pd.testing.assert_series_equal(splits.deal(table.iloc[order], count).sort_index(), groups)


def test_published_folds_decide_and_neighbours_form_a_group():
    table = patients(["SR"] * 20, [*range(1, 11), *range(1, 11)])
    groups = splits.deal(table, 5)
    assert groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] * 2
    assert splits.deal(table, 10).tolist() == [*range(10)] * 2


def test_all_records_of_a_patient_are_in_one_group():
    table = patients(["SR", "AFIB"] * 20).assign(patient=np.repeat([f"p{n}" for n in range(20)], 2))
    assert (splits.deal(table, 4).groupby(table["patient"]).nunique() == 1).all()


@given(st.integers(3, 10))
def test_each_record_is_tested_on_once_and_validates_once(count):
    groups = pd.Series(np.arange(3 * count) % count)
    assigned = [splits.in_round(groups, number, count) for number in range(1, count + 1)]
    for split, times in (("test", 1), ("validation", 1), ("train", count - 2)):
        assert (sum((one == split).astype(int) for one in assigned) == times).all()


@pytest.mark.parametrize("name", ["ptbxl_2of5", "my_own_set_10of10"])
def test_a_round_is_named_and_found_by_its_name(name: str):
    found = rounds.parse(name)
    assert found is not None
    assert (found.name, rounds.base(name)) == (name, found.dataset)
    assert rounds.parse(found.dataset) is None


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A project with the record set ptbxl, three rounds of it, and trainings of few steps."""
    monkeypatch.chdir(tmp_path)
    project.make(tmp_path)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"folds": {"ptbxl": 3}}
    demo = tree["profiles"]["demo"]
    short = {"steps": 4, "evaluate_every": 2, "warmup_steps": 1, "batch_size": 8}
    demo["generators"]["diffwave"]["network"] |= {"layers": 1, "channels": 8}
    demo["generators"]["diffwave"]["training"]["denoiser"] |= short
    demo["generators"]["diffwave"]["sampling"]["steps"] = 1
    demo["synthesis"] |= {"train": 12, "validation": 2, "test": 2}
    demo["classifiers"]["resnet1d"]["network"] |= {"widths": [4]}
    demo["classifiers"]["resnet1d"]["training"] |= short
    demo["study"] |= {"seeds": [0], "synthetic_share": 0.2}
    demo["sweeps"]["seeds"] = [0]
    return Params.model_validate(tree)


def make_round(params: Params, name: str) -> RecordSet:
    out = Path("data/prepared") / name
    cross_fitting.cross_fit(params, name, Path("data/prepared/ptbxl"), out)
    return RecordSet.open(out)


def test_rounds_hold_the_records_of_their_dataset(params: Params) -> None:
    dataset = RecordSet.open(Path("data/prepared/ptbxl"))
    found = [make_round(params, one.name) for one in params.rounds]
    for one in found:
        np.testing.assert_array_equal(one.signals(), dataset.signals())
        assert one.about.made["by_rhythm"]["SR"].keys() == set(SPLITS)
        counts = {name: sum(one.split(name).counts().values()) for name in SPLITS}
        assert counts == {"train": 62, "validation": 62, "test": 62}
    tested = pd.concat([one.split("test").records["id"] for one in found])
    assert sorted(tested) == sorted(dataset.records["id"])


def test_a_merged_set_deals_patients_as_its_sources_do(params: Params, tmp_path: Path) -> None:
    alone = RecordSet.open(Path("data/prepared/ptbxl"))
    table = alone.records.assign(fold=np.nan)
    both = pd.concat([table, table.assign(dataset="other")], ignore_index=True)
    for column in ("id", "patient"):
        both[column] = both["dataset"] + "-" + both[column]
    with write_record_set(tmp_path / "merged", alone.about) as writer:
        writer.append(np.concatenate([alone.signals()] * 2), both)
    chosen = params.rounds[0]
    write_round(alone, chosen, tmp_path / "a")
    merged = RecordSet.open(tmp_path / "merged")
    write_round(merged, replace(chosen, dataset="merged"), tmp_path / "b")
    one, two = (RecordSet.open(tmp_path / name).records["split"] for name in "ab")
    assert two.tolist() == [*one, *one]


@pytest.mark.parametrize("name", ["ptbxl", "ptbxl_4of3", "ptbxl_1of5", "chapman_1of3"])
def test_what_is_no_round_of_the_parameters_is_refused(params: Params, name: str) -> None:
    with pytest.raises(
        EcgforgeError, match="is not a round of cross-fitting; there are ptbxl_1of3"
    ):
        cross_fitting.cross_fit(params, name, Path("data/prepared/ptbxl"), Path("out"))


def trained(params: Params, name: str) -> dict[str, str]:
    """Run the stages of a round; return the digests of all that they learned or generated."""
    real, made = Path("data/prepared") / name, Path("data/synthetic") / name / "diffwave"
    generator, classifiers = Path("models/generators") / name, Path("models/classifiers") / name
    train_generator.train(params, name, "diffwave", real, generator)
    synthesize.synthesize(params, name, "diffwave", generator, real, made)
    out = Path("results") / name
    classify.on_real(params, name, real, classifiers / "real", out / "real")
    folders = (real, made, classifiers / "real", classifiers / "diffwave", out / "diffwave")
    classify.on_synthetic(params, name, "diffwave", *folders)
    weights = sorted(classifiers.rglob("*.safetensors"))
    assert len(weights) == 5
    files = [*weights, *sorted(generator.rglob("*.safetensors")), made / "signals.npy"]
    return {str(file): md5(file) for file in files}


@pytest.mark.slow
def test_a_copy_in_the_tested_group_changes_nothing_that_a_round_learns(params: Params) -> None:
    """Copies of a loud record are planted in the test split, and then in the training split."""
    name, source = params.rounds[0].name, Path("data/prepared/ptbxl/signals.npy")
    records, clean = make_round(params, name), np.load(source)
    registered = versions.all_versions()
    before = trained(params, name)
    assert versions.all_versions() == registered, "models of a round cannot become champion"
    changed = {}
    for split in ("test", "train"):
        signals = clean.copy()
        rows = records.split(split).rows[:20]
        signals[rows] = 9 * np.sin(np.arange(signals.shape[-1]) / 3)
        np.save(source, signals)
        make_round(params, name)
        after = trained(params, name)
        changed[split] = {file for file in before if after[file] != before[file]}
    assert changed["test"] == set()
    assert changed["train"] == set(before), "the check sees a copy where it may be seen"


def rows(fold: int, ids: list[str], probability: float = 0.9) -> pd.DataFrame:
    keys = {"dataset": "ptbxl", "generator": "", "backbone": "resnet1d", "sweep": "", "point": ""}
    keys |= {"setting": "TrRTeR", "augmented": False, "fold": fold, "draw": 0, "seed": 0}
    facts = {"id": ids, "patient": ids, "truth": "SR", "p_SR": probability, "p_ST": 1 - probability}
    return pd.DataFrame(facts).assign(**keys)


def test_rounds_judge_where_there_are_rounds() -> None:
    own, first, second = rows(0, ["a"]), rows(1, ["a", "b"]), rows(2, ["c"])
    both = pd.concat([own, first, second])
    found = predictions.pooled(both)
    assert found["id"].tolist() == ["a", "b", "c"]
    assert predictions.pooled(own)["id"].tolist() == ["a"]
    other = rows(0, ["d"]).assign(sweep="cross_dataset")
    assert predictions.pooled(pd.concat([both, other]))["id"].tolist() == ["a", "b", "c", "d"]
    accuracy = predictions.results(found, [key for key in predictions.KEYS if key != "fold"])
    assert len(accuracy) == len(predictions.results(own)), "one row for all rounds"


def test_quality_over_rounds_has_rounds_as_clusters() -> None:
    keys = {"dataset": "ptbxl_1of3", "generator": "diffwave", "rhythm": "all"}
    values = pd.DataFrame({"metric": ["recall", "mmd_p"], "value": [0.2, 0.04]})
    values = values.assign(
        low=[0.1, np.nan], high=[0.3, np.nan], baseline=0.9, negative_control=0.0
    )
    one = values.assign(**keys)
    each = [one.assign(dataset=f"ptbxl_{n}of3", value=[0.2 + 0.1 * n, 0.04]) for n in (0, 1, 2)]
    found = over_rounds(each, 0.95).set_index("metric")
    assert found.loc["recall", "value"] == pytest.approx(0.3)
    half = 4.3027 * 0.1 / 3**0.5  # t with two degrees of freedom
    assert found.loc["recall", ["low", "high"]].tolist() == pytest.approx(
        [0.3 - half, 0.3 + half], abs=1e-4
    )
    assert found.loc["mmd_p", "value"] < 0.01, "three small p-values are more than one"
    assert set(found["dataset"]) == {"ptbxl"}
    pd.testing.assert_frame_equal(over_rounds([one], 0.95), one)


@pytest.mark.parametrize(
    ("metric", "least", "most"),
    [
        ("recall", 0, 1),
        ("heart_rate_ks", 0, 1),
        ("heart_rate_w1", 0, 2.75135),
        ("qrs_constancy", -1.55135, 2.75135),
    ],
)
def test_limits_over_rounds_stay_in_the_range_of_the_score(
    metric: str, least: float, most: float
) -> None:
    keys = {"generator": "diffwave", "rhythm": "all", "metric": metric}
    known = {"low": 0.1, "high": 0.9, "baseline": 0.9, "negative_control": 0.0}
    each = [
        pd.DataFrame([{"dataset": f"ptbxl_{n}of3", **keys, "value": value, **known}])
        for n, value in ((1, 0.1), (2, 0.1), (3, 1.6))
    ]
    found = over_rounds(each, 0.95).iloc[0]
    assert (found["low"], found["high"]) == pytest.approx((least, most), abs=1e-4)
