"""Records of a training set: counts by rhythm, nested selections, patients kept whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgforge.errors import EcgforgeError
from ecgforge.records.record_set import About, RecordSet
from ecgforge.study import mixtures

COUNTS = st.dictionaries(
    st.sampled_from(["SR", "SB", "ST", "SA", "AFIB"]), st.integers(1, 300), min_size=1
)


def record_set(rhythms: list[str], patients: list[str]) -> RecordSet:
    table = pd.DataFrame(
        {
            "id": [str(number) for number in range(len(rhythms))],
            "patient": patients,
            "rhythm": rhythms,
        }
    )
    return RecordSet(
        Path("set"),
        About(100, 1000, "mV", tuple(dict.fromkeys(rhythms)), "real", {}),
        table,
        np.arange(len(table)),
    )


def test_proportion_keeps_the_mix_of_rhythms() -> None:
    assert mixtures.allotment({"SR": 80, "SB": 20}, 50, "proportion") == {"SR": 40, "SB": 10}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (5, {"SR": 0, "SB": 0, "AFIB": 5}),
        (30, {"SR": 0, "SB": 10, "AFIB": 20}),
        (230, {"SR": 20, "SB": 100, "AFIB": 110}),
    ],
)
def test_to_balance_the_rarest_rhythms_are_filled_up(wanted: int, expected: dict[str, int]) -> None:
    assert mixtures.allotment({"SR": 100, "SB": 20, "AFIB": 10}, wanted, "balance") == expected


@given(COUNTS, st.integers(0, 2000))
def test_balance_uses_all_records_and_skips_no_rhythm(real: dict[str, int], wanted: int) -> None:
    found = mixtures.allotment(real, wanted, "balance")
    assert 0 <= wanted - sum(found.values()) < len(real), "less than one record a rhythm is left"
    filled = [real[rhythm] + count for rhythm, count in found.items() if count]
    assert len(set(filled)) <= 1, "all that are filled up reach one level"
    if filled:
        assert all(real[rhythm] >= filled[0] for rhythm, count in found.items() if not count)


@given(COUNTS, st.integers(0, 2000))
def test_proportions_are_kept_to_half_a_record(real: dict[str, int], wanted: int) -> None:
    found = mixtures.allotment(real, wanted, "proportion")
    assert all(
        abs(found[rhythm] - wanted * count / sum(real.values())) <= 0.5
        for rhythm, count in real.items()
    )


def test_a_larger_selection_holds_a_smaller_one() -> None:
    records = record_set(["SR", "AFIB"] * 10, [str(number) for number in range(20)])
    few, more = (
        mixtures.first(records, counts) for counts in ({"SR": 2, "AFIB": 3}, {"SR": 5, "AFIB": 3})
    )
    assert (few.counts(), more.counts()) == ({"SR": 2, "AFIB": 3}, {"SR": 5, "AFIB": 3})
    assert set(few.records["id"]) < set(more.records["id"])
    assert len(mixtures.first(records, {"SR": 1})) == 1, (
        "a rhythm that is not asked for is left out"
    )
    with pytest.raises(EcgforgeError, match="has 10 training records of AFIB and 11 are needed"):
        mixtures.first(records, {"AFIB": 11})
    assert mixtures.first(records, {"AFIB": 10}).counts()["AFIB"] == 10, (
        "all that there are can be had"
    )
    with pytest.raises(EcgforgeError, match="has 0 training records of ST and 1 are needed"):
        mixtures.first(records, {"SR": 1, "ST": 1})


def test_a_part_has_complete_patients_of_every_rhythm_and_grows() -> None:
    rhythms = ["SR"] * 60 + ["AFIB"] * 20 + ["SB"] * 3
    records = record_set(
        rhythms,
        [f"p{number // 2}" for number in range(60)] + [f"q{number}" for number in range(23)],
    )
    tenth, half, whole = (mixtures.part(records, share, seed=3) for share in (0.1, 0.5, 1.0))
    assert tenth.counts() == {"SR": 6, "AFIB": 2, "SB": 1}
    assert half.counts() == {"SR": 30, "AFIB": 10, "SB": 2}
    assert len(whole) == len(records)
    assert set(tenth.records["id"]) < set(half.records["id"])
    assert (tenth.records[tenth.records["rhythm"] == "SR"].groupby("patient").size() == 2).all(), (
        "no patient is torn apart"
    )
    assert set(tenth.records["id"]) != set(mixtures.part(records, 0.1, seed=4).records["id"])


def test_records_are_removed_by_rhythm_and_by_patient() -> None:
    rhythms = ["SR"] * 60 + ["AFIB"] * 21
    patients = [f"p{number // 3}" for number in range(81)]
    records = record_set(rhythms, patients)
    few, more = (
        mixtures.without(records, counts, seed=3)
        for counts in ({"SR": 10, "AFIB": 2}, {"SR": 31, "AFIB": 20})
    )
    assert (few.counts(), more.counts()) == ({"SR": 50, "AFIB": 19}, {"SR": 29, "AFIB": 1})
    assert set(more.records["id"]) < set(few.records["id"])
    for kept, torn in ((few, 2), (more, 2)):
        sizes = kept.records.groupby("patient").size()
        assert (sizes != 3).sum() == torn, "one patient of each rhythm at most"
    assert set(few.records["id"]) != set(
        mixtures.without(records, {"SR": 10, "AFIB": 2}, seed=4).records["id"]
    )
    assert len(mixtures.without(records, {"SR": 60}, seed=3)) == 21, "other rhythms stay"
