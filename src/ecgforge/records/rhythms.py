"""The rhythm vocabulary, and the rhythm of a record from its published label codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from ecgforge.records.exclusions import BadRecord, Reason

RHYTHMS = ("SR", "SB", "ST", "SA", "AFIB", "AFLT", "SVT")
SINUS = ("SR", "SB", "ST", "SA")  # they differ in their intervals, and not in their beats
BY_RATE = ("SR", "SB", "ST")  # they differ only in the rate


def rhythm_of(
    codes: Iterable[str], rhythm_codes: Mapping[str, str], other_rhythms: Set[str]
) -> str:
    """Return the rhythm of a record.

    The codes must map to exactly one rhythm of the vocabulary, and to no rhythm outside it. Other
    codes (diagnoses, wave forms) are ignored.

    Args:
        codes: the record's label codes, as published.
        rhythm_codes: maps codes to rhythms of `RHYTHMS`.
        other_rhythms: codes of rhythms outside the vocabulary, such as a paced rhythm.

    Raises:
        BadRecord: the record has no rhythm, or several.
    """
    codes = list(codes)
    named = sorted(
        {rhythm_codes[code] for code in codes if code in rhythm_codes}, key=RHYTHMS.index
    )
    others = sorted(set(codes) & other_rhythms)
    if not named:
        raise BadRecord(Reason.NO_RHYTHM, f"codes: {', '.join(codes) or 'none'}")
    if len(named) > 1 or others:
        raise BadRecord(Reason.CONTRADICTORY_RHYTHMS, ", ".join([*named, *others]))
    return named[0]
