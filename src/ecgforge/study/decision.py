"""A classifier's decision between rhythms, tuned on validation records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgforge.study.metrics import macro_f1

# by distance from 0, so that the first of equally good values changes least
TAUS = sorted((step / 20 for step in range(-20, 21)), key=lambda tau: (abs(tau), -tau))


@dataclass(frozen=True)
class Decision:
    """Decide for the rhythm with the largest probability times share ** -tau.

    This adds -tau * log(share) to the logit of each rhythm (Menon et al., Long-tail learning via
    logit adjustment, ICLR 2021). With tau > 0, rare rhythms are decided for more often; with
    tau = 0, the most probable rhythm wins.

    Attributes:
        shares: of the rhythms in the validation records, `[rhythms]`.
        tau: see above.
    """

    shares: np.ndarray
    tau: float

    def of(self, probabilities: np.ndarray) -> np.ndarray:
        """Return class indices, `[records]`, for probabilities `[records, rhythms]`."""
        found: np.ndarray = (probabilities * self.shares**-self.tau).argmax(axis=1)
        return found


def tuned(truth: np.ndarray, probabilities: np.ndarray) -> Decision:
    """Return the decision with the best macro-F1 on validation records.

    Args:
        truth: of the validation records, class indices `[records]`.
        probabilities: `[records, rhythms]`.
    """
    rhythms = probabilities.shape[1]
    # one more of each, since a rhythm can be missing
    counts = np.bincount(truth, minlength=rhythms) + 1
    decisions = [Decision(counts / counts.sum(), tau) for tau in TAUS]
    return max(decisions, key=lambda one: macro_f1(truth, one.of(probabilities), rhythms))
