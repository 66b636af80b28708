"""The base class of classifiers: signals `[batch, 8, samples]` in the record set's units to logits
`[batch, rhythms]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ecgforge.params import Dimension, Float, StrictConfig
from ecgforge.records.record_set import RecordSet
from ecgforge.training.batches import in_order
from ecgforge.training.objective import Objective

Change = Callable[[Tensor, torch.Generator], Tensor]


class Classifier(nn.Module, ABC):
    """A rhythm classifier. It stores the scale of its training signals and divides its input by it.

    Attributes:
        Network: the parameters of the backbone.
        space: ranges of parameters, by dotted key, for a tuning that names none.

    Args:
        network: parameters of the backbone.
        rhythms: classes, in the order of the logits.
        scale: `[leads]`, each lead's standard deviation over the training split, in the record
            set's units.
    """

    Network: ClassVar[type[StrictConfig]]
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.learning_rate": Float(low=0.0001, high=0.05, log=True),
        "training.weight_decay": Float(low=0.0001, high=0.3, log=True),
        "training.class_balance_power": Float(low=0, high=1),
    }
    head: nn.Module

    def __init__(self, network: StrictConfig, rhythms: Sequence[str], scale: Tensor) -> None:
        super().__init__()
        self.network = network
        self.rhythms = tuple(rhythms)
        self.register_buffer("scale", scale.float())
        self.scale: Tensor

    @abstractmethod
    def features(self, signals: Tensor) -> Tensor:
        """Map signals of unit scale, `[batch, leads, samples]`, to the input of the head, `[batch,
        features]`.
        """

    def forward(self, signals: Tensor) -> Tensor:
        """Map signals in the record set's units, `[batch, leads, samples]`, to logits, `[batch,
        rhythms]`.
        """
        return self.head(self.features(signals / self.scale[:, None]))

    @property
    @abstractmethod
    def parts(self) -> list[nn.Module]:
        """All trained modules, from the head to the stem, in the order of gradual unfreezing."""

    def objective(self, trained: int | None = None, change: Change | None = None) -> Objective:
        """Return the training objective: cross-entropy, with validation by macro-F1.

        Args:
            trained: number of `parts` to train, from the head on. The others stay unchanged, with
                their normalisation statistics.
            change: applied to the signals of training batches, with a random generator.
        """
        moved = self.parts[:trained]
        asleep = self.parts[len(moved) :]

        def loss(signals: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, Tensor]:
            # a loaded classifier is in evaluation mode, and so are parts that slept before
            for part in moved:
                part.train()
            for part in asleep:
                part.eval()
            changed = change(signals, random) if change else signals
            return {"loss": cross_entropy(self(changed), labels)}

        def validate(signals: Tensor, labels: Tensor, _: torch.Generator) -> dict[str, Tensor]:
            return {"logits": self(signals), "labels": labels}

        parameters = [parameter for part in moved for parameter in part.parameters()]
        return Objective(
            self, parameters, loss, validate, _validation_metrics, "f1_macro", higher_is_better=True
        )


def _validation_metrics(outputs: list[dict[str, Tensor]]) -> dict[str, float]:
    # imported here, since only training needs it
    from torchmetrics.functional.classification import multiclass_f1_score

    logits = torch.cat([output["logits"] for output in outputs]).float()
    labels = torch.cat([output["labels"] for output in outputs])
    found = multiclass_f1_score(logits, labels, logits.shape[1], average="macro")
    return {"loss": float(cross_entropy(logits, labels)), "f1_macro": float(found)}


@torch.inference_mode()
def probabilities(classifier: Classifier, records: RecordSet, batch_size: int = 256) -> np.ndarray:
    """Return class probabilities, `[records, rhythms]` float64; read records in batches."""
    classifier.eval()
    found = [
        torch.softmax(_logits(classifier, records.signals(index)), 1).cpu()
        for index in in_order(len(records), batch_size)
    ]
    return torch.cat(found).numpy()


def _logits(classifier: Classifier, signals: np.ndarray) -> Tensor:
    """Return logits, `[batch, rhythms]` float64, on the device of the classifier.

    The head computes in float32, also under autocast: with the 8 bits of bfloat16, many records
    would have equal probabilities.
    """
    device = classifier.scale.device
    features = classifier.features(torch.from_numpy(signals).to(device) / classifier.scale[:, None])
    with torch.autocast(device.type, enabled=False):
        return classifier.head(features.float()).double()


@torch.inference_mode()
def embed(classifier: Classifier, signals: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Return the features of signals in the record set's units, `[records, features]`."""
    parts = torch.from_numpy(signals).split(batch_size)
    return (
        torch.cat([classifier.eval().features(part / classifier.scale[:, None]) for part in parts])
        .double()
        .numpy()
    )
