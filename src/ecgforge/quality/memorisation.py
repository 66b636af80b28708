"""Memorisation scores: distances of synthetic records to training records, compared with those of
held-out records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from ecgforge.quality.distances import nearest
from ecgforge.quality.stored import Rows

NEAR_QUANTILE = 0.01  # quantile of held-out records that defines a near record
# features `[records, features]`, which do not depend on the positions of beats; rhythms `[records]`
Embedded = tuple[Rows, np.ndarray]
PART = 4096  # records in memory


@dataclass(frozen=True)
class NearestNeighbours:
    """Nearest-neighbour distances between a record set, training records and held-out records.

    Attributes:
        query, rhythms: `nearness` of the set's records, and their rhythms, `[records]`.
        authentic: which of them are authentic, see `authentic`, `[records]`.
        holdout, holdout_rhythms: `nearness` of held-out records of other patients, and their
            rhythms.
        members, member_rhythms: distances of training records to their nearest record of the set,
            and their rhythms.
        outsiders: distances of held-out records to their nearest record of the set.
    """

    query: np.ndarray
    rhythms: np.ndarray
    authentic: np.ndarray
    holdout: np.ndarray
    holdout_rhythms: np.ndarray
    members: np.ndarray
    member_rhythms: np.ndarray
    outsiders: np.ndarray

    @classmethod
    def measure(cls, judged: Embedded, training: Embedded, held_out: Embedded) -> NearestNeighbours:
        """Compare all records of `judged` with all training and held-out records."""
        return cls.measure_all([judged], training, held_out)[0]

    @classmethod
    def measure_all(
        cls, sets: Sequence[Embedded], training: Embedded, held_out: Embedded
    ) -> list[NearestNeighbours]:
        """Return `measure` of each set. The distances of held-out to training records are computed
        once.
        """
        (known, known_rhythms), (others, other_rhythms) = training, held_out
        holdout, _, _ = nearest(others, known)
        usual = nearness(holdout, other_rhythms, holdout, other_rhythms)
        found = []
        for records, rhythms in sets:
            query, places, members = nearest(records, known)
            found.append(
                cls(
                    nearness(query, rhythms, holdout, other_rhythms),
                    rhythms,
                    authentic(query, places, known),
                    usual,
                    other_rhythms,
                    members,
                    known_rhythms,
                    nearest(others, records)[0],
                )
            )
        return found

    def of(self, rhythm: str) -> NearestNeighbours:
        """Return the part of one rhythm; the nearest neighbours stay the same."""
        query, holdout, members = (
            self.rhythms == rhythm,
            self.holdout_rhythms == rhythm,
            self.member_rhythms == rhythm,
        )
        return NearestNeighbours(
            self.query[query],
            self.rhythms[query],
            self.authentic[query],
            self.holdout[holdout],
            self.holdout_rhythms[holdout],
            self.members[members],
            self.member_rhythms[members],
            self.outsiders[holdout],
        )

    def fewest(self) -> int:
        """Return the size of the smallest group of records."""
        return min(len(self.query), len(self.holdout), len(self.members))

    def scores(self, threshold: float) -> dict[str, float]:
        """Return all scores.

        Args:
            threshold: `near` of the held-out records of all rhythms; one rhythm has too few records
                for a quantile of 1 %.

        Returns:
            `dcr_ratio`: the median nearness divided by that of held-out records; 1 for held-out
                records, 0 for copies.
            `copied_share`: the share of records nearer than the threshold; 0.01 for held-out
                records, 1 for copies.
            `authenticity`: the share of authentic records.
            `membership_auc`: see `membership_auc`.
        """
        return {
            "dcr_ratio": float(ratio(self.query, self.holdout)),
            "copied_share": float(np.mean(self.query < threshold)),
            "authenticity": float(self.authentic.mean()),
            "membership_auc": membership_auc(self.members, self.outsiders),
        }


def near(holdout: np.ndarray) -> float:
    """Return the 1 % quantile of the nearness of held-out records.

    The comparison with held-out records follows Meehan, Chaudhuri & Dasgupta (AISTATS 2020).
    """
    return float(np.quantile(holdout, NEAR_QUANTILE))


def nearness(
    distances: np.ndarray, rhythms: np.ndarray, holdout: np.ndarray, holdout_rhythms: np.ndarray
) -> np.ndarray:
    """Return relative distances to the nearest training record, `[records]`.

    The unit is the median distance of held-out records of the same rhythm, or of all held-out
    records if none has the rhythm. A rare rhythm has few training records at large distances;
    with plain distances, a uniform mix of rhythms would look novel, and copies of rare records
    would not look like copies.

    Args:
        distances, holdout: distances of records, and of held-out records, to their nearest training
            record.
        rhythms, holdout_rhythms: the rhythms of both.
    """
    usual = {
        rhythm: np.median(holdout[holdout_rhythms == rhythm])
        for rhythm in np.unique(holdout_rhythms)
    }
    other = np.median(holdout)
    return distances / np.array([usual.get(rhythm, other) for rhythm in rhythms])


def ratio(query: np.ndarray, holdout: np.ndarray) -> np.ndarray:
    """Return the median of distances divided by that of held-out records, over the last axis."""
    return np.asarray(np.median(query, axis=-1) / np.median(holdout, axis=-1))


def authentic(distances: np.ndarray, places: np.ndarray, training: Rows) -> np.ndarray:
    """Return which synthetic records are authentic, `[records]` bool; their share is the
    authenticity.

    A record is a copy if it is nearer to its nearest training record than any other training record
    (Alaa et al., ICML 2022, sec. 4). No copy is authentic, but not all held-out records are: some
    are mutual nearest neighbours of a training record (two in three on a line, fewer in more
    dimensions). The score therefore needs the share of held-out records as its baseline.

    Args:
        distances, places: distance and index of each record's nearest training record, `[records]`.
        training: embedded training records, `[records, features]`, two or more.
    """
    copied, place = np.unique(places, return_inverse=True)
    parts = [copied[start : start + PART] for start in range(0, len(copied), PART)]
    other = np.concatenate([nearest(training[part], training, own=part)[0] for part in parts])
    return distances > other[place]


def membership_auc(members: np.ndarray, outsiders: np.ndarray) -> float:
    """Return the AUC of a membership inference attack: 0.5 is chance, copies give 1.

    This is the full black-box attack of Chen et al. (GAN-Leaks, CCS 2020), which knows only the
    synthetic records: the nearer a record is to a synthetic record, the more likely it is a
    training record. Few synthetic records are near only few training records, so the AUC increases
    with their number.

    Args:
        members, outsiders: distances of training records, and of held-out records of other
            patients, to their nearest synthetic record, `[any number]`.
    """
    trained = np.repeat([1, 0], [len(members), len(outsiders)])
    return float(roc_auc_score(trained, -np.concatenate([members, outsiders])))
