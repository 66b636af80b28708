"""Read the parameters and check them whole, with what generators and classifiers alone know of theirs, before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecgforge.classifiers.common.registry import check_settings as check_classifier
from ecgforge.errors import EcgforgeError
from ecgforge.generators.common.registry import check_settings as check_generator
from ecgforge.outputs import overlap
from ecgforge.params import Params, checked, read_yaml
from ecgforge.sources.registry import read_from
from ecgforge.tuning import space

RAW = Path("data/raw")
WRITTEN = (Path("data/prepared"), Path("data/synthetic"), Path("models"), Path("reports"))


def read(path: Path, tuned: Sequence[Path] | None = None) -> Params:
    """Read params.yaml, put what tuning found in place of it, and check every profile in it.

    Args:
        tuned: what `tune-classifier` and `tune-generator` wrote: parts of the profile in use.

    Raises:
        EcgforgeError: an unknown key, a bad value, an unknown generator or backbone; names the key.
    """
    params = Params.read(path)
    _refuse_own_outputs(params, path)
    if tuned:
        tree = read_yaml(path, "it was there a moment ago")
        for file in tuned:
            tree["profiles"][params.profile] = space.merged(tree["profiles"][params.profile], _found(file))
        params = checked(Params, tree, ", ".join(map(str, (path, *tuned))))
    for profile_name, profile in params.profiles.items():
        for name, settings in profile.generators.items():
            where = f"{path}: profiles.{profile_name}.generators.{name}"
            check_generator(name, settings, where)
            for variation, changed in settings.variations().items():
                check_generator(name, changed, f"{where}.ablations.{variation}")
            space.check(settings, settings.tuning.space, partial(check_generator, name), f"{where}.tuning.space")
        where = f"{path}: profiles.{profile_name}.classifier"
        check_classifier(profile.classifier, where)
        space.check(profile.classifier, profile.classifier.tuning.space, check_classifier, f"{where}.tuning.space")
        for number, other in enumerate(profile.sweeps.backbones):
            check_classifier(other, f"{path}: profiles.{profile_name}.sweeps.backbones.{number}")
    return params


def _refuse_own_outputs(params: Params, path: Path) -> None:
    """Refuse a source that is read from where the study writes: its records would be replaced by what is made of them."""
    for profile_name, profile in params.profiles.items():
        for name, source in profile.sources.items():
            for key, folder in read_from(source).items():
                for written in (RAW / name, *WRITTEN):
                    if any(overlap(home / folder, home / written) for home in {Path.cwd(), path.parent.resolve()}):
                        raise EcgforgeError(
                            f"{path}: profiles.{profile_name}.sources.{name}.{key} = {str(folder)!r} overlaps {written}, which the study "
                            "replaces: keep your own records outside data/"
                        )


def _found(file: Path) -> dict[str, Any]:
    found = read_yaml(file, "run `dvc repro`, or `ecgforge tune-classifier` or `tune-generator`")
    if not isinstance(found, dict):
        raise EcgforgeError(f"{file} holds no parameters")
    return found
