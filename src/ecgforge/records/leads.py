"""The eight independent leads, and the four leads derived from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def twelve_leads(signals: np.ndarray, units: str) -> np.ndarray:
    """Derive the standard twelve leads from the eight independent ones.

    Einthoven: III = II - I. Goldberger: aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2.

    Args:
        signals: `[..., 8, samples]`, in the order of `LEADS`.
        units: of the signals; the equations need a common unit of all leads.

    Returns:
        `[..., 12, samples]`, in the order of `STANDARD_LEADS`.

    Raises:
        ValueError: `units` is not mV.
    """
    if units != "mV":
        raise ValueError(
            f"limb leads can be derived from I and II only in mV; these signals are in {units}"
        )
    one, two = signals[..., 0:1, :], signals[..., 1:2, :]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([*limb, signals[..., 2:, :]], axis=-2)


def limb_residual(leads: Mapping[str, np.ndarray]) -> float:
    """Return the relative error of recorded limb leads against the equations of Einthoven and
    Goldberger.

    Args:
        leads: signals of one record by lead name, in mV; the eight independent leads and any others
            of `STANDARD_LEADS`.

    Returns:
        The root mean square of the differences between the recorded III, aVR, aVL and aVF and the
        leads derived from I and II, divided by the root mean square of the derived leads. It is 0
        for consistent leads, and about the square root of 2 for leads unrelated to I and II. NaN if
        the record has none of these leads, or on overflow.
    """
    there = [lead for lead in STANDARD_LEADS if lead in leads and lead not in LEADS]
    if not there:
        return float("nan")
    with np.errstate(over="ignore", invalid="ignore"):
        # the limb leads are the first ones
        limb = twelve_leads(np.stack([leads["I"], leads["II"]]), "mV")
        due = limb[[STANDARD_LEADS.index(lead) for lead in there]]
        size = np.linalg.norm(due)
        off = np.linalg.norm(np.stack([leads[lead] for lead in there]) - due)
    return float(off / size) if size and np.isfinite([size, off]).all() else float("nan")
