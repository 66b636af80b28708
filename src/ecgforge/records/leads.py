"""The eight independent leads, and the four that follow from them."""

from __future__ import annotations

import numpy as np

LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def twelve_leads(signals: np.ndarray, units: str) -> np.ndarray:
    """Derive the standard twelve leads from the eight independent ones.

    Einthoven: III = II - I. Goldberger: aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2.

    Args:
        signals: `[..., 8, samples]`, in the order of `LEADS`.
        units: the signals' units; the relations hold for amplitudes alone.

    Returns:
        `[..., 12, samples]`, in the order of `STANDARD_LEADS`.

    Raises:
        ValueError: `units` is not mV, so that leads are not on one scale.
    """
    if units != "mV":
        raise ValueError(f"limb leads follow from I and II only in mV, and these signals are in {units}")
    one, two = signals[..., 0:1, :], signals[..., 1:2, :]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([*limb, signals[..., 2:, :]], axis=-2)
