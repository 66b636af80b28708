"""The registry of classifiers by backbone.

A backbone is a module in `ecgforge.classifiers`; its `BACKBONE` is a `base.Classifier`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ecgforge.classifiers
from ecgforge import plugins
from ecgforge.errors import EcgforgeError
from ecgforge.params import ClassifierSettings, checked

if TYPE_CHECKING:
    from torch import Tensor

    from ecgforge.classifiers.common.base import Classifier
    from ecgforge.training.saved import Build

DESCRIPTION = "classifier.json"
SHARED = ("baselines", "common")
CLASSIFIERS = {
    found.name: f"ecgforge.classifiers.{found.name}:BACKBONE"
    for found in pkgutil.iter_modules(ecgforge.classifiers.__path__)
    if found.name not in SHARED
}


def classifier_class(backbone: str) -> type[Classifier]:
    """Import the class of a backbone, and torch with it.

    Raises:
        EcgforgeError: the backbone is unknown.
    """
    if backbone not in CLASSIFIERS:
        raise EcgforgeError(f"unknown backbone '{backbone}': use one of {', '.join(CLASSIFIERS)}")
    return plugins.load(CLASSIFIERS[backbone])


def check_settings(settings: ClassifierSettings, where: str) -> ClassifierSettings:
    """Check the network's parameters against the schema of the backbone.

    Returns:
        The settings, with the defaults of the network and of the search space.

    Raises:
        EcgforgeError: the backbone is unknown, or a parameter is invalid; the message has its key.
    """
    try:
        kind = classifier_class(settings.backbone)
    except EcgforgeError as error:
        raise EcgforgeError(f"{where}: {error}") from None
    network = checked(kind.Network, settings.network, f"{where}.network")
    tuning = settings.tuning.model_copy(update={"space": settings.tuning.space or {**kind.space}})
    return settings.model_copy(update={"network": network.model_dump(), "tuning": tuning})


def create(
    settings: ClassifierSettings, rhythms: Sequence[str], scale: Tensor, seed: int
) -> Classifier:
    """Build a classifier with weights initialised from `seed`; see `Classifier` for the other
    arguments.
    """
    import torch

    kind = classifier_class(settings.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(checked(kind.Network, settings.network, "classifier.network"), rhythms, scale)


def save(classifier: Classifier, backbone: str, folder: Path) -> None:
    """Write weights.safetensors and classifier.json to `folder`; equal weights give equal bytes."""
    from ecgforge.training import saved

    description = {
        "backbone": backbone,
        "network": classifier.network.model_dump(),
        "rhythms": classifier.rhythms,
    }
    saved.write(classifier, description, folder, DESCRIPTION)


def load(folder: Path, label: str = "") -> Classifier:
    """Read a classifier that `save` wrote.

    Args:
        folder: the folder of its files.
        label: name of the model version, for messages.

    Raises:
        EcgforgeError: the folder has no classifier, or an incomplete one.
    """
    from ecgforge.training import saved

    def described(about: Any, where: str) -> Build[Classifier]:
        kind, rhythms = classifier_class(about["backbone"]), _rhythms(about["rhythms"])
        network = checked(kind.Network, about["network"], where)
        return lambda weights: kind(network, rhythms, weights["scale"])

    return saved.read(Path(folder), DESCRIPTION, "classifier", described, label)


def _rhythms(named: Any) -> list[str]:
    if (
        not isinstance(named, list)
        or not named
        or not all(isinstance(one, str) for one in named)
        or len({*named}) < len(named)
    ):
        raise ValueError("its rhythms are not a list of unique names")
    return named
