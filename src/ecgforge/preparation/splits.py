"""Training, validation and test splits by patient: no patient is in two of them."""

from __future__ import annotations

import hashlib

import pandas as pd

from ecgforge.errors import EcgforgeError

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
    folded = table[table["fold"].notna()].sort_values("id").drop_duplicates("patient")
    splits = {
        patient: FOLDS[int(fold)]
        for patient, fold in zip(folded["patient"], folded["fold"], strict=True)
    }
    splits |= _by_hash(table[~table["patient"].isin(list(splits))])
    return table["patient"].map(splits)


def _by_hash(table: pd.DataFrame) -> dict[str, str]:
    order = {
        patient: hashlib.sha256(patient.encode()).digest() for patient in table["patient"].unique()
    }
    patients = {
        rhythm: sorted(group.unique(), key=order.__getitem__)
        for rhythm, group in table.groupby("rhythm")["patient"]
    }
    splits: dict[str, str] = {}
    for rhythm in sorted(patients, key=lambda rhythm: (len(patients[rhythm]), rhythm)):
        members = patients[rhythm]
        share = max(1, round(HELD_OUT * len(members))) if len(members) >= 3 else 0
        for split in ("test", "validation"):
            missing = share - sum(splits.get(patient) == split for patient in members)
            unassigned = [patient for patient in members if patient not in splits]
            splits |= dict.fromkeys(unassigned[: max(0, missing)], split)
    return {patient: splits.get(patient, "train") for patient in order}
