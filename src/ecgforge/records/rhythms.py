"""The rhythm vocabulary, and how a record's published label codes become its one rhythm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from ecgforge.records.exclusions import BadRecord, Reason

RHYTHMS = ("SR", "SB", "ST", "SA", "AFIB", "AFLT", "SVT")


def rhythm_of(
    codes: Iterable[str], rhythm_codes: Mapping[str, str], other_rhythms: Set[str]
) -> str:
    """Return the rhythm that `codes` name.

    The rule: a record has a rhythm when its codes name exactly one of the vocabulary, by however
    many codes, and no rhythm outside of it. Codes that name no rhythm (diagnoses, wave forms) don't
    count.

    Args:
        codes: the record's label codes, as published.
        rhythm_codes: from a code to a rhythm of `RHYTHMS`.
        other_rhythms: codes of rhythms outside the vocabulary, such as a paced rhythm.

    Raises:
        BadRecord: no rhythm, or rhythms that contradict each other.
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
