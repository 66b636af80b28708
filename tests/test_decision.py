"""A decision that is tuned on validation records."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from ecgforge.study import decision


def unsure(counts: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth `[records]`, and calibrated probabilities `[records, rhythms]`."""
    rng = np.random.default_rng(seed)
    shares = np.array(counts) / sum(counts)
    truth = np.repeat(np.arange(len(counts)), counts)
    means = 1.5 * np.eye(len(counts))
    signs = means[truth] + rng.normal(size=(len(truth), len(counts)))
    logits = 1.5 * signs + np.log(shares + 1e-9)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return truth, odds / odds.sum(axis=1, keepdims=True)


def test_shares_are_smoothed_and_weigh_the_probabilities() -> None:
    found = decision.tuned(*unsure((80, 15, 0)))
    np.testing.assert_allclose(found.shares, np.array([81, 16, 1]) / 98)
    probabilities = np.array([[0.7, 0.2, 0.1], [0.9, 0.09, 0.01]])
    assert decision.Decision(found.shares, 0.0).of(probabilities).tolist() == [0, 0]
    # 0.7 * 98 / 81 < 0.2 * 98 / 16 < 0.1 * 98
    assert decision.Decision(found.shares, 1.0).of(probabilities).tolist() == [2, 0]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_tau_of_the_validation_records_is_taken(sign: int) -> None:
    truth, probabilities = unsure((300, 60, 20))
    if sign < 0:  # rare rhythms are decided for too often
        shares = np.bincount(truth) / len(truth)
        probabilities = probabilities * shares**-1.5
    found = decision.tuned(truth, probabilities)
    values = {
        tau: f1_score(
            truth, decision.Decision(found.shares, tau).of(probabilities), average="macro"
        )
        for tau in decision.TAUS
    }
    assert found.tau * sign > 0
    assert values[found.tau] == max(values.values())
    assert values[found.tau] > values[0.0] + 0.02


def test_equally_good_decisions_leave_the_operating_point() -> None:
    truth = np.array([0, 0, 0, 1])
    assert decision.tuned(truth, np.eye(2)[truth]).tau == 0
    # equally many records of each rhythm: tau changes nothing
    assert decision.tuned(np.array([0, 1]), np.array([[0.4, 0.6], [0.6, 0.4]])).tau == 0
    # right from tau = 0.4 on
    shares = np.array([4, 2]) / 6
    weak = 0.38 * np.log(shares[0] / shares[1])
    odds = np.exp([[2.0, 0], [2.0, 0], [2.0, 0], [weak, 0]])
    assert decision.tuned(truth, odds / odds.sum(axis=1, keepdims=True)).tau == 0.4
