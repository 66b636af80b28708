"""Reasons to exclude a record; excluded.csv and the report have these words."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A reason to exclude a record."""

    UNREADABLE_FILE = "unreadable file"
    NOT_SUPPORTED = "not supported"
    OUTSIDE_FOLDER = "outside its folder"
    MISSING_FILE = "missing file"
    TRUNCATED_FILE = "truncated file"
    CHECKSUM_MISMATCH = "checksum mismatch"
    MISSING_LEAD = "missing lead"
    WRONG_RATE = "wrong sampling rate"
    WRONG_LENGTH = "wrong length"
    NON_FINITE = "non-finite sample"
    FLAT_LEAD = "flat lead"
    ABSURD_AMPLITUDE = "absurd amplitude"
    WRONG_UNITS = "wrong units"
    NO_RHYTHM = "no rhythm"
    CONTRADICTORY_RHYTHMS = "contradictory rhythms"
    SAME_RECORDING = "same recording"
    WITHDRAWN = "withdrawn by the publisher"
    PATIENT_WITHDRAWN = "patient withdrawn"
    DUPLICATE_ID = "duplicate id"
    RARE_RHYTHM = "rhythm below min_records"


DAMAGE = (
    Reason.UNREADABLE_FILE,
    Reason.OUTSIDE_FOLDER,
    Reason.MISSING_FILE,
    Reason.TRUNCATED_FILE,
    Reason.CHECKSUM_MISMATCH,
)


class BadRecord(Exception):  # noqa: N818  (it names the record's state, as the reasons do)
    """A record that cannot be used.

    Attributes:
        reason: one of `Reason`.
        detail: the values behind the reason.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
