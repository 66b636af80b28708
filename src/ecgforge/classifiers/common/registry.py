"""Classifiers by the name of their backbone: a backbone is a module in `ecgforge.classifiers` whose
`BACKBONE` is a `base.Classifier`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ecgforge.classifiers
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
    """Import the class of a backbone; the module, and torch with it, is loaded only now.

    Raises:
        EcgforgeError: no backbone has that name.
    """
    if backbone not in CLASSIFIERS:
        raise EcgforgeError(f"'{backbone}' is no backbone: known are {', '.join(CLASSIFIERS)}")
    module, attribute = CLASSIFIERS[backbone].split(":")
    return getattr(import_module(module), attribute)


def check_settings(settings: ClassifierSettings, where: str) -> ClassifierSettings:
    """Check what only the backbone itself knows of its parameters.

    Returns:
        The settings, with the defaults of the network.

    Raises:
        EcgforgeError: the backbone is unknown, or its network is not what it takes; names the key.
    """
    try:
        kind = classifier_class(settings.backbone)
    except EcgforgeError as error:
        raise EcgforgeError(f"{where}: {error}") from None
    network = checked(kind.Network, settings.network, f"{where}.network")
    return settings.model_copy(update={"network": network.model_dump()})


def create(
    settings: ClassifierSettings, rhythms: Sequence[str], scale: Tensor, seed: int
) -> Classifier:
    """Build a classifier with weights initialised from `seed`; for the other arguments see
    `Classifier`.
    """
    import torch

    kind = classifier_class(settings.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(checked(kind.Network, settings.network, "classifier.network"), rhythms, scale)


def save(classifier: Classifier, backbone: str, folder: Path) -> None:
    """Write weights.safetensors and classifier.json to `folder`; the same weights give the same
    bytes.
    """
    from ecgforge.training import saved

    description = {
        "backbone": backbone,
        "network": classifier.network.model_dump(),
        "rhythms": classifier.rhythms,
    }
    saved.write(classifier, description, folder, DESCRIPTION)


def load(folder: Path, label: str = "") -> Classifier:
    """Read what `save` wrote.

    Args:
        label: of the version whose files these are, for messages.

    Raises:
        EcgforgeError: the folder holds no classifier, or not a whole one.
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
        raise ValueError("its rhythms are no list of different names")
    return named
