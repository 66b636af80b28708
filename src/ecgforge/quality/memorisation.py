"""Are synthetic records nearer to the training records than a stranger's record is?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

STRANGERS = 0.01  # of held-out records, which are that near to a training record by chance
Embedded = tuple[np.ndarray, np.ndarray]  # records, `[records, features]`, so that where in a record a beat lies is not seen; rhythms
PART = 256  # records whose distances to all others are held at a time: a whole matrix of 40,000 records takes 13 GB


@dataclass(frozen=True)
class Memory:
    """How near the records of one set lie to training records, how near strangers do, and what the set tells of both.

    Attributes:
        own, rhythms: `nearness` of the set's records and their rhythms, `[records]`.
        authentic: which are no copies by `authentic`, `[records]`.
        strange, strange_rhythms: the same of held-out records, whose patients are not in training.
        members, member_rhythms: distances of training records to their nearest record of the set, and their rhythms.
        outsiders: those of held-out records.
    """

    own: np.ndarray
    rhythms: np.ndarray
    authentic: np.ndarray
    strange: np.ndarray
    strange_rhythms: np.ndarray
    members: np.ndarray
    member_rhythms: np.ndarray
    outsiders: np.ndarray

    @classmethod
    def measure(cls, judged: Embedded, training: Embedded, held_out: Embedded) -> Memory:
        """Compare all records of `judged` with all of the others."""
        (records, rhythms), (known, known_rhythms), (strangers, their_rhythms) = judged, training, held_out
        own, places, members = _between(records, known)
        strange, _, _ = _between(strangers, known)
        return cls(
            nearness(own, rhythms, strange, their_rhythms),
            rhythms,
            authentic(own, places, known),
            nearness(strange, their_rhythms, strange, their_rhythms),
            their_rhythms,
            members,
            known_rhythms,
            _between(strangers, records)[0],
        )

    def of(self, rhythm: str) -> Memory:
        """Return that of the records of one rhythm, who are near to what they were near to."""
        own, strange, members = self.rhythms == rhythm, self.strange_rhythms == rhythm, self.member_rhythms == rhythm
        return Memory(
            self.own[own],
            self.rhythms[own],
            self.authentic[own],
            self.strange[strange],
            self.strange_rhythms[strange],
            self.members[members],
            self.member_rhythms[members],
            self.outsiders[strange],
        )

    def fewest(self) -> int:
        """Return how many records there are of the kind that has fewest."""
        return min(len(self.own), len(self.strange), len(self.members))

    def scores(self, threshold: float) -> dict[str, float]:
        """Return all scores.

        Args:
            threshold: `near` of all rhythms' strangers, since of one rhythm's 1 % is none.

        Returns:
            `nearest_ratio`: the median nearness over that of strangers, 1 for strangers and 0 for copies.
            `copied_share`: records nearer than the threshold, 0.01 for strangers and 1 for copies.
            `authenticity`: the share of authentic records.
            `membership_auc`: see there.
        """
        return {
            "nearest_ratio": ratio(self.own, self.strange),
            "copied_share": float(np.mean(self.own < threshold)),
            "authenticity": float(self.authentic.mean()),
            "membership_auc": membership_auc(self.members, self.outsiders),
        }


def near(strange: np.ndarray) -> float:
    """Return the nearness that 1 % of strangers have by chance.

    After Meehan, Chaudhuri & Dasgupta (AISTATS 2020), who ask whether a generator's records lie nearer to its training records than
    held-out ones do.
    """
    return float(np.quantile(strange, STRANGERS))


def nearness(distances: np.ndarray, rhythms: np.ndarray, strange: np.ndarray, strange_rhythms: np.ndarray) -> np.ndarray:
    """Return distances to the nearest training record in units of a stranger's, `[records]`: the median of held-out records of the same
    rhythm, or of all where none has it.

    A rare rhythm has few training records, and strangers of it lie far from them; in plain distances, an even mix of rhythms would
    pass for novelty, and copies of rare records for strangers.

    Args:
        distances, strange: of records, and of held-out ones, to their nearest training record.
        rhythms, strange_rhythms: theirs.
    """
    usual = {rhythm: np.median(strange[strange_rhythms == rhythm]) for rhythm in np.unique(strange_rhythms)}
    return distances / np.array([usual.get(rhythm, np.median(strange)) for rhythm in rhythms])


def ratio(own: np.ndarray, strange: np.ndarray) -> float:
    """Return the median of distances over that of strangers' ones."""
    return float(np.median(own) / np.median(strange))


def authentic(distances: np.ndarray, places: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Say which synthetic records are no copies with noise of a training record, `[records]` bool; their share is the authenticity.

    Alaa et al. (ICML 2022, sec. 4): a record is a copy where it lies nearer to its nearest training record than that record's nearest
    other training record does. Of copies none is authentic, and of strangers not all are, since some of them and a training record are
    each other's nearest: two in three on a line, fewer in more dimensions. So read it beside the share of held-out records.

    Args:
        distances, places: of synthetic records' nearest training records, `[records]`.
        training: embedded records, `[records, features]`, two or more.
    """
    copied, place = np.unique(places, return_inverse=True)
    # The least of a record's distances to training records is that to itself. A copy, since a view holds all distances.
    other = np.concatenate([np.partition(part, 1, axis=1)[:, 1].copy() for part in _distances(training[copied], training)])
    return distances > other[place]


def membership_auc(members: np.ndarray, outsiders: np.ndarray) -> float:
    """Return how well an attacker who has only the synthetic records tells who was trained on: 0.5 where nothing leaks, 1 for copies.

    The full black-box attack of Chen et al. (GAN-Leaks, CCS 2020): the nearer a record's nearest synthetic record, the more likely it
    was trained on. The value is the area under the attacker's ROC curve. Few synthetic records can lie near only few training
    records, so it grows with their number.

    Args:
        members, outsiders: how far training records, and held-out ones of other patients, lie from their nearest synthetic record,
            `[any number]`.
    """
    trained = np.repeat([1, 0], [len(members), len(outsiders)])
    return float(roc_auc_score(trained, -np.concatenate([members, outsiders])))


def _between(records: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each record's distance to its nearest one of the others, that one's place, and each of the others' distance to its nearest record."""
    nearest, places, back = [], [], np.full(len(others), np.inf)
    for part in _distances(records, others):
        nearest.append(part.min(axis=1))
        places.append(part.argmin(axis=1))
        back = np.minimum(back, part.min(axis=0))
    return np.concatenate(nearest), np.concatenate(places), back


def _distances(records: np.ndarray, others: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the distances to all `others`, `[PART, others]`, of one part of the records after the other."""
    for start in range(0, len(records), PART):
        yield cdist(records[start : start + PART], others)
