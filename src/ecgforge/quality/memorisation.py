"""Are synthetic records nearer to the training records than a stranger's record is?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

STRANGERS = 0.01  # of held-out records, which are that near to a training record by chance
# records, `[records, features]`, so that where in a record a beat lies is not seen; rhythms
Embedded = tuple[np.ndarray, np.ndarray]
# records whose distances to all others are held at a time: a whole matrix of 40,000 records takes
# 13 GB
PART = 256


@dataclass(frozen=True)
class NearestNeighbours:
    """How near the records of one set lie to training records, how near strangers do, and what the
    set tells of both.

    Attributes:
        query, rhythms: `nearness` of the set's records and their rhythms, `[records]`.
        authentic: which are no copies by `authentic`, `[records]`.
        holdout, holdout_rhythms: the same of held-out records, whose patients are not in training.
        members, member_rhythms: distances of training records to their nearest record of the set,
            and their rhythms.
        outsiders: those of held-out records.
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
        """Compare all records of `judged` with all of the others."""
        (records, rhythms), (known, known_rhythms), (strangers, their_rhythms) = (
            judged,
            training,
            held_out,
        )
        query, places, members = _between(records, known)
        holdout, _, _ = _between(strangers, known)
        return cls(
            nearness(query, rhythms, holdout, their_rhythms),
            rhythms,
            authentic(query, places, known),
            nearness(holdout, their_rhythms, holdout, their_rhythms),
            their_rhythms,
            members,
            known_rhythms,
            _between(strangers, records)[0],
        )

    def of(self, rhythm: str) -> NearestNeighbours:
        """Return that of the records of one rhythm, who are near to what they were near to."""
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
        """Return how many records there are of the kind that has fewest."""
        return min(len(self.query), len(self.holdout), len(self.members))

    def scores(self, threshold: float) -> dict[str, float]:
        """Return all scores.

        Args:
            threshold: `near` of all rhythms' strangers, since of one rhythm's 1 % is none.

        Returns:
            `dcr_ratio`: the median nearness over that of strangers, 1 for strangers and 0 for
                copies.
            `copied_share`: records nearer than the threshold, 0.01 for strangers and 1 for copies.
            `authenticity`: the share of authentic records.
            `membership_auc`: see there.
        """
        return {
            "dcr_ratio": ratio(self.query, self.holdout),
            "copied_share": float(np.mean(self.query < threshold)),
            "authenticity": float(self.authentic.mean()),
            "membership_auc": membership_auc(self.members, self.outsiders),
        }


def near(holdout: np.ndarray) -> float:
    """Return the nearness that 1 % of strangers have by chance.

    After Meehan, Chaudhuri & Dasgupta (AISTATS 2020), who ask whether a generator's records lie
    nearer to its training records than held-out ones do.
    """
    return float(np.quantile(holdout, STRANGERS))


def nearness(
    distances: np.ndarray, rhythms: np.ndarray, holdout: np.ndarray, holdout_rhythms: np.ndarray
) -> np.ndarray:
    """Return distances to the nearest training record in units of a stranger's, `[records]`: the
    median of held-out records of the same rhythm, or of all where none has it.

    A rare rhythm has few training records, and strangers of it lie far from them; in plain
    distances, an even mix of rhythms would pass for novelty, and copies of rare records for
    strangers.

    Args:
        distances, holdout: of records, and of held-out ones, to their nearest training record.
        rhythms, holdout_rhythms: theirs.
    """
    usual = {
        rhythm: np.median(holdout[holdout_rhythms == rhythm])
        for rhythm in np.unique(holdout_rhythms)
    }
    return distances / np.array([usual.get(rhythm, np.median(holdout)) for rhythm in rhythms])


def ratio(query: np.ndarray, holdout: np.ndarray) -> float:
    """Return the median of distances over that of strangers' ones."""
    return float(np.median(query) / np.median(holdout))


def authentic(distances: np.ndarray, places: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Say which synthetic records are no copies with noise of a training record, `[records]` bool;
    their share is the authenticity.

    Alaa et al. (ICML 2022, sec. 4): a record is a copy where it lies nearer to its nearest training
    record than that record's nearest other training record does. Of copies none is authentic, and
    of strangers not all are, since some of them and a training record are each other's nearest: two
    in three on a line, fewer in more dimensions. So read it beside the share of held-out records.

    Args:
        distances, places: of synthetic records' nearest training records, `[records]`.
        training: embedded records, `[records, features]`, two or more.
    """
    copied, place = np.unique(places, return_inverse=True)
    # The least of a record's distances to training records is that to itself. A copy, since a view
    # holds all distances.
    other = np.concatenate(
        [
            np.partition(part, 1, axis=1)[:, 1].copy()
            for part in _distances(training[copied], training)
        ]
    )
    return distances > other[place]


def membership_auc(members: np.ndarray, outsiders: np.ndarray) -> float:
    """Return how well an attacker who has only the synthetic records tells who was trained on: 0.5
    where nothing leaks, 1 for copies.

    The full black-box attack of Chen et al. (GAN-Leaks, CCS 2020): the nearer a record's nearest
    synthetic record, the more likely it was trained on. The value is the area under the attacker's
    ROC curve. Few synthetic records can lie near only few training records, so it grows with their
    number.

    Args:
        members, outsiders: how far training records, and held-out ones of other patients, lie from
            their nearest synthetic record, `[any number]`.
    """
    trained = np.repeat([1, 0], [len(members), len(outsiders)])
    return float(roc_auc_score(trained, -np.concatenate([members, outsiders])))


def _between(records: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each record's distance to its nearest one of the others, that one's place, and each of the
    others' distance to its nearest record.
    """
    nearest, places, back = [], [], np.full(len(others), np.inf)
    for part in _distances(records, others):
        nearest.append(part.min(axis=1))
        places.append(part.argmin(axis=1))
        back = np.minimum(back, part.min(axis=0))
    return np.concatenate(nearest), np.concatenate(places), back


def _distances(records: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the distances to all `others`, `[PART, others]`, of one part of the records after the
    other.
    """
    for start in range(0, len(records), PART):
        yield cdist(records[start : start + PART], others)
