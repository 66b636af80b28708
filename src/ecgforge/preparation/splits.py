"""Training, validation and test splits by patient: no patient is in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ecgforge.errors import EcgforgeError
from ecgforge.records.record_set import SPLITS

FOLDS = {**dict.fromkeys(range(1, 9), "train"), 9: "validation", 10: "test"}
HELD_OUT = 0.1  # share of each rhythm's patients in the test split, and in the validation split


def assign(table: pd.DataFrame) -> pd.Series:
    """Assign each record of one source to a split.

    A published `fold` decides, as PTB-XL recommends (Wagner et al. 2020): 1-8 train, 9 validation,
    10 test. If a patient's records have different folds, the record with the lowest id decides.

    All other patients are split 80/10/10 within each rhythm, in the order of a hash of the
    patient's id. The rhythms are processed from the rarest to the most common. Each takes its share
    of test patients and then of validation patients, at least one of each if it has three patients.
    A patient counts for each rhythm of their records, so rhythms that share patients can get less
    or more than their share.

    Args:
        table: columns id, patient, rhythm, fold (1-10, or NaN), in any order of rows.

    Returns:
        `train`, `validation` or `test` for each record, with the table's index.

    Raises:
        EcgforgeError: a fold is not from 1 to 10.
    """
    unknown = table.loc[table["fold"].notna() & ~table["fold"].isin(list(FOLDS)), "fold"]
    if len(unknown):
        raise EcgforgeError(
            f"fold {unknown.iloc[0]:g} in the catalogue: folds are 1 to 10, or left empty"
        )
    splits = {patient: FOLDS[fold] for patient, fold in _published(table).items()}
    splits |= _by_hash(table[~table["patient"].isin(list(splits))])
    return table["patient"].map(splits)


def deal(table: pd.DataFrame, count: int) -> pd.Series:
    """Deal the patients of one source into groups of about equal size, for cross-fitting.

    A published `fold` decides: neighbouring folds form a group. All other patients are dealt within
    each rhythm, the rarest first, in the order of a hash of the patient's id: each to the group
    with the fewest patients of this rhythm, or of all rhythms where several have equally few.

    Args:
        table: columns id, patient, rhythm, fold (1-10, or NaN), in any order of rows.
        count: the number of groups, at most 10.

    Returns:
        The group of each record, 0 to `count` - 1, with the table's index.
    """
    groups = {patient: (fold - 1) * count // 10 for patient, fold in _published(table).items()}
    found = table["patient"].map(groups)
    sizes = {
        rhythm: np.bincount(part.dropna().astype(int), minlength=count)
        for rhythm, part in found.groupby(table["rhythm"])
    }
    for rhythm, members in _by_rarity(table[found.isna()]):
        for patient in members:
            if patient not in groups:
                total = np.sum(list(sizes.values()), axis=0)
                groups[patient] = int(np.lexsort((total, sizes[rhythm]))[0])
            sizes[rhythm][groups[patient]] += 1
    return table["patient"].map(groups)


def in_round(groups: pd.Series, number: int, count: int) -> pd.Series:
    """Return the splits of a round of cross-fitting.

    Args:
        groups: of `deal`.
        number: of the round, 1 to `count`: the group `number` - 1 is the test split, the next one
            validation, and all others are the training split.
        count: the number of groups.
    """
    return groups.map({number - 1: "test", number % count: "validation"}).fillna("train")


def by_rhythm(table: pd.DataFrame, rhythms: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count records by rhythm and split."""
    counts = pd.crosstab(table["rhythm"], table["split"]).reindex(
        index=list(rhythms), columns=list(SPLITS), fill_value=0
    )
    found: dict[str, dict[str, int]] = counts.to_dict("index")
    return found


def _published(table: pd.DataFrame) -> dict[str, int]:
    """Return the published fold of each patient who has one."""
    folded = table[table["fold"].notna()].sort_values("id").drop_duplicates("patient")
    return dict(zip(folded["patient"], folded["fold"].astype(int), strict=True))


def _by_rarity(table: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return rhythms with their patients in the order of a hash, those with the fewest first."""
    order = {
        patient: hashlib.sha256(patient.encode()).digest() for patient in table["patient"].unique()
    }
    patients = {
        str(rhythm): sorted(group.unique(), key=order.__getitem__)
        for rhythm, group in table.groupby("rhythm")["patient"]
    }
    return sorted(patients.items(), key=lambda one: (len(one[1]), one[0]))


def _by_hash(table: pd.DataFrame) -> dict[str, str]:
    splits: dict[str, str] = {}
    for _, members in _by_rarity(table):
        share = max(1, round(HELD_OUT * len(members))) if len(members) >= 3 else 0
        for split in ("test", "validation"):
            missing = share - sum(splits.get(patient) == split for patient in members)
            unassigned = [patient for patient in members if patient not in splits]
            splits |= dict.fromkeys(unassigned[: max(0, missing)], split)
    return {patient: splits.get(patient, "train") for patient in table["patient"].unique()}
