"""Read and check the parameters, with those that only generators and classifiers can check, before
any work starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ecgforge.classifiers.common.registry import check_settings as check_classifier
from ecgforge.errors import EcgforgeError
from ecgforge.generators.common.registry import check_settings as check_generator
from ecgforge.outputs import overlap
from ecgforge.params import (
    Params,
    Profile,
    Sweeps,
    checked,
    expanded,
    merge_patch,
    read_tree,
    read_yaml,
)
from ecgforge.sources.registry import read_from
from ecgforge.sweeps.common import registry as sweeps
from ecgforge.tuning import space
from ecgforge.tuning.space import S

RAW = Path("data/raw")
WRITTEN = (Path("data/prepared"), Path("data/synthetic"), Path("models"), Path("reports"))


def read(path: Path, tuned: Sequence[Path] | None = None, profile: str | None = None) -> Params:
    """Read params.yaml, replace what tuning found better values for, and fill in all defaults.

    Args:
        tuned: files of `tune-classifier` and `tune-generator`: parts of the profile in use.
        profile: the profile in use, if other than that of the file.

    Raises:
        EcgforgeError: an unknown key, a bad value, an unknown generator or backbone; names the key.
    """
    params = of_sources(path).with_profile(profile)
    if tuned:
        tree = expanded(read_tree(path, "it was there a moment ago"))
        for file in tuned:
            tree["profiles"][params.profile] = merge_patch(
                tree["profiles"][params.profile], _found(file)
            )
        params = checked(Params, tree, ", ".join(map(str, (path, *tuned)))).with_profile(profile)
    needed = _sweeps(params, path)
    profiles = {
        name: _completed(
            profile, f"{path}: profiles.{name}", needed if name == params.profile else set()
        )
        for name, profile in params.profiles.items()
    }
    return params.model_copy(update={"profiles": profiles})


def of_sources(path: Path) -> Params:
    """Read params.yaml as far as sources need it, without the torch that `read` imports.

    Raises:
        EcgforgeError: an unknown key, a bad value, or a source where the study writes; names the
            key.
    """
    params = Params.read(path)
    _refuse_own_outputs(params, path)
    return params


def _sweeps(params: Params, path: Path) -> set[str]:
    """Return the sweeps that run somewhere and need their sections."""
    targets = params.sweep_targets
    for key, listed, known in (
        ("sweeps", targets.sweeps, sweeps.OF_GENERATORS),
        ("real_sweeps", targets.real_sweeps, sweeps.ON_REAL),
    ):
        for name in listed:
            if name not in known:
                raise EcgforgeError(
                    f"{path}: sweep_targets.{key}: '{name}' is not one of {', '.join(known)}"
                )
    return {
        *targets.sweeps,
        *targets.real_sweeps,
        *(["transfer"] if targets.datasets else []),
        *(["generator_seeds"] if targets.generator_seeds else []),
    }


def _completed(profile: Profile, where: str, needed: set[str]) -> Profile:
    """Return a checked profile with the defaults of networks, samplings and sweeps.

    Args:
        needed: sweeps whose sections must be there.
    """
    generators, classifiers = {}, {}
    for name, generator in profile.generators.items():
        place = f"{where}.generators.{name}"
        generators[name] = complete = check_generator(name, generator, place)
        for variation, changed in complete.variations().items():
            check_generator(name, changed, f"{place}.ablations.{variation}")
        _check_space(generator, complete, partial(check_generator, name), place)
    for name, classifier in profile.classifiers.items():
        place = f"{where}.classifiers.{name}"
        classifiers[name] = settings = check_classifier(classifier, place)
        _check_space(classifier, settings, check_classifier, place)
    given = profile.sweeps.sections
    if unknown := set(given) - set(sweeps.SWEEPS):
        known = ", ".join(("seeds", *sweeps.SWEEPS))
        raise EcgforgeError(f"{where}.sweeps.{min(unknown)}: unknown key; known are {known}")
    sections = {
        name: checked(sweeps.get(name).Parameters, given.get(name, {}), f"{where}.sweeps.{name}")
        for name in sweeps.SWEEPS
        if name in given or name in needed or not sweeps.get(name).requires_parameters
    }
    filled = {name: section.model_dump(mode="json") for name, section in sections.items()}
    complete_sweeps = Sweeps(seeds=profile.sweeps.seeds, **filled)
    parts = {"generators": generators, "classifiers": classifiers, "sweeps": complete_sweeps}
    return profile.model_copy(update=parts)


def _check_space(given: S, complete: S, check: Callable[[S, str], object], where: str) -> None:
    """Check a search space; that of the class only if there are trials, since the profile's values
    can be outside of it.
    """
    wanted = complete if given.tuning.n_trials else given
    space.check(complete, wanted.tuning.space, check, f"{where}.tuning.space")


def resolved(params: Params) -> dict[str, Any]:
    """Return the parameters in use, with all defaults: the sections of the profile are at the top
    level.

    Sections are in the order of the schema. `selected` has the names in use of sources and
    generators, whose settings are under `sources` and `generators`. `params` comes from `read`, or
    networks lack their defaults.
    """
    profile, shared = (
        params.active,
        params.model_dump(mode="json", exclude={"profiles", "sources", "generators"}),
    )
    tree = profile.model_dump(mode="json")
    for name, generator in profile.generators.items():
        tree["generators"][name]["tuning"] = generator.tuning.model_dump(mode="json")
    for name, classifier in profile.classifiers.items():
        del tree["classifiers"][name]["backbone"]  # the key says it
        tree["classifiers"][name]["tuning"] = classifier.tuning.model_dump(mode="json")
    selected = {"sources": params.sources, "generators": params.generators}
    # a list for each source, since the stage of each source depends on its own list
    withdrawn = {name: sorted(params.withdrawn.get(name, [])) for name in params.sources}
    return shared | {"withdrawn": withdrawn, "selected": selected} | tree


def overlapping_output(folder: Path, source: str, project: Path) -> Path | None:
    """Return an output of the study that overlaps the folder of a source, relative to the project;
    None if there is none.
    """
    outputs = (RAW / source, *WRITTEN)
    return next((one for one in outputs if overlap(project / folder, project / one)), None)


def _refuse_own_outputs(params: Params, path: Path) -> None:
    """Refuse a source that is read from where the study writes: its records would be replaced by
    what is made of them.
    """
    for profile_name, profile in params.profiles.items():
        for name, source in profile.sources.items():
            for key, folder in read_from(source).items():
                for home in {Path.cwd(), path.parent.resolve()}:
                    if written := overlapping_output(folder, name, home):
                        raise EcgforgeError(
                            f"{path}: profiles.{profile_name}.sources.{name}.{key} = "
                            f"{str(folder)!r} overlaps {written}, which the study "
                            "replaces: keep your own records outside data/"
                        )


def _found(file: Path) -> dict[str, Any]:
    found = read_yaml(file, "run `dvc repro`, or `ecgforge tune-classifier` or `tune-generator`")
    if not isinstance(found, dict):
        raise EcgforgeError(f"{file} holds no parameters")
    return found
