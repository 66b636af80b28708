"""The classifiers by the name of their backbone. A new one is a file with a `base.Classifier` in it, and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ecgforge.errors import EcgforgeError
from ecgforge.params import ClassifierSettings, checked

if TYPE_CHECKING:
    from ecgforge.classifiers.base import Classifier

CLASSIFIERS = {
    "resnet1d": "ecgforge.classifiers.resnet1d:ResNet1d",
    "xresnet1d": "ecgforge.classifiers.xresnet1d:XResNet1d",
    "transformer": "ecgforge.classifiers.transformer:Transformer",
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


def check_settings(settings: ClassifierSettings, where: str) -> None:
    """Check what only the backbone itself knows of its parameters.

    Raises:
        EcgforgeError: the backbone is unknown, or its network is not what it takes; names the key.
    """
    try:
        kind = classifier_class(settings.backbone)
    except EcgforgeError as error:
        raise EcgforgeError(f"{where}: {error}") from None
    checked(kind.Network, settings.network, f"{where}.network")
