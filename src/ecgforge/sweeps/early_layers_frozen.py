"""Fine-tune classifiers of synthetic records with their early layers frozen."""

from __future__ import annotations

from collections.abc import Iterable

from ecgforge.params import Params
from ecgforge.study.fine_tuning import Method
from ecgforge.sweeps.common.fine_tuning import FineTuning


class EarlyLayersFrozen(FineTuning):
    """The late half of the classifiers of TrSTeR, trained with shares of the real records."""

    def methods(self, params: Params) -> Iterable[tuple[str, Method]]:
        yield self.name, "early_layers_frozen"


SWEEP = EarlyLayersFrozen()
