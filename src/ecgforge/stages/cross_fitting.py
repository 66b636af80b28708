"""Write the record set of a round of cross-fitting."""

from __future__ import annotations

from pathlib import Path

from ecgforge import rounds
from ecgforge.errors import EcgforgeError
from ecgforge.outputs import refuse
from ecgforge.params import Params
from ecgforge.preparation.cross_fitting import write_round
from ecgforge.records.record_set import RecordSet


def cross_fit(params: Params, name: str, prepared: Path, out: Path) -> None:
    """Write the round `name` of the dataset in `prepared` to `out`.

    Raises:
        EcgforgeError: `name` is not a round of the parameters, or see `write_round`.
    """
    chosen = rounds.parse(name)
    if chosen is None or chosen not in params.rounds:
        known = ", ".join(one.name for one in params.rounds) or "none: `folds` is empty"
        raise EcgforgeError(f"'{name}' is not a round of cross-fitting; there are {known}")
    refuse(out, [prepared])
    write_round(RecordSet.open(prepared), chosen, out)
