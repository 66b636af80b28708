"""Read the parameters and check them whole, with what generators and classifiers alone know of theirs, before any work starts."""

from __future__ import annotations

from pathlib import Path

from ecgforge.classifiers.registry import check_settings as check_classifier
from ecgforge.generators.registry import check_settings as check_generator
from ecgforge.params import Params


def read(path: Path) -> Params:
    """Read params.yaml and check every profile in it.

    Raises:
        EcgforgeError: an unknown key, a bad value, an unknown generator or backbone; names the key.
    """
    params = Params.read(path)
    for profile_name, profile in params.profiles.items():
        for name, settings in profile.generators.items():
            where = f"{path}: profiles.{profile_name}.generators.{name}"
            check_generator(name, settings, where)
            for variation, changed in settings.variations().items():
                check_generator(name, changed, f"{where}.ablations.{variation}")
        check_classifier(profile.classifier, f"{path}: profiles.{profile_name}.classifier")
        for number, other in enumerate(profile.sweeps.backbones):
            check_classifier(other, f"{path}: profiles.{profile_name}.sweeps.backbones.{number}")
    return params
