"""Look for better parameters of a classifier or a generator, by a study of trials on validation
records.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ecgforge.errors import EcgforgeError
from ecgforge.files import atomic_write
from ecgforge.params import Params


def tune(file: Path, dataset: str, generator: str | None, real: Path, out: Path) -> None:
    """Write the part of the parameters in `file` that tuning changes for a generator on `dataset`,
    or for the classifier; nothing at 0 trials.

    On a cluster, several workers can run the trials; the first one writes the result.

    Raises:
        EcgforgeError: the study has no such dataset, or a trial cannot run.
    """
    params, change = Params.read(file), {}
    if dataset not in params.record_sets:
        raise EcgforgeError(
            f"the study has no dataset '{dataset}': use one of {', '.join(params.record_sets)}"
        )
    # else without loading what trials need
    if (params.generator(generator) if generator else params.classifier).tuning.n_trials:
        from ecgforge.stages import parameters, trials_of_tuning

        found = trials_of_tuning.tuned(parameters.read(file), dataset, generator, real)
        if found is None:
            return
        change = found
    write(change, out)


def write(change: dict[str, Any], out: Path) -> None:
    """Write a part of a profile's parameters, which `--tuned` puts in place of what the profile
    says.
    """
    with atomic_write(out) as scratch:
        scratch.write_text(yaml.safe_dump(change))
