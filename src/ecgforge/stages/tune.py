"""Look for better parameters of a classifier or a generator, by a study of trials on validation records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ecgforge.files import whole
from ecgforge.params import Params


def classifier(file: Path, dataset: str, real: Path, out: Path) -> None:
    """Write the part of the parameters in `file` that tuning changes for the classifier on `dataset`; nothing at 0 trials."""
    tuning = Params.read(file).active.classifier.tuning
    if not tuning.n_trials:  # without loading what trials need
        write({}, out)
        return
    from ecgforge.stages import parameters, trials_of_tuning

    write(trials_of_tuning.classifier(parameters.read(file), dataset, real), out)


def generator(file: Path, dataset: str, name: str, real: Path, out: Path) -> None:
    """Write the part of the parameters in `file` that tuning changes for the generator `name` on `dataset`; nothing at 0 trials."""
    tuning = Params.read(file).generator(name).tuning
    if not tuning.n_trials:
        write({}, out)
        return
    from ecgforge.stages import parameters, trials_of_tuning

    write(trials_of_tuning.generator(parameters.read(file), dataset, name, real), out)


def write(change: dict[str, Any], out: Path) -> None:
    """Write a part of a profile's parameters, which `--tuned` puts in place of what the profile says."""
    with whole(out) as scratch:
        scratch.write_text(yaml.safe_dump(change))
