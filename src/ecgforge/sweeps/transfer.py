"""Fine-tune classifiers of synthetic records by each method, with growing shares of real ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field, model_validator

from ecgforge.params import Params, distinct
from ecgforge.study.fine_tuning import UNFREEZINGS, Method
from ecgforge.sweeps.common.fine_tuning import FineTuning, FineTuningParameters

METHODS: tuple[Method, ...] = ("full", "linear_probe", "gradual_unfreezing")


class TransferParameters(FineTuningParameters):
    """Also the methods that are compared."""

    methods: Annotated[
        list[Method], Field(default_factory=lambda: [*METHODS], min_length=1), distinct()
    ]

    @model_validator(mode="after")
    def _methods_take_as_many_steps(self) -> Self:
        whole = UNFREEZINGS * self.training.evaluate_every
        if "gradual_unfreezing" in self.methods and self.training.steps % whole:
            raise ValueError(
                f"training.steps = {self.training.steps}: gradual unfreezing takes a third of them "
                f"{UNFREEZINGS} times, each a multiple of evaluate_every; choose a multiple of "
                f"{whole}"
            )
        return self


class Transfer(FineTuning):
    """The classifiers of TrSTeR, fine-tuned by each method; plain and augmented."""

    Parameters = TransferParameters

    def methods(self, params: Params) -> Iterable[tuple[str, Method]]:
        for method in self.parameters(params).methods:
            yield f"fine-tuning, {method}", method


SWEEP = Transfer()
