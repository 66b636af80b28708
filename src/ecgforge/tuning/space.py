"""Search spaces: parameters by dotted key, and how a trial's values change the settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ecgforge.errors import EcgforgeError
from ecgforge.params import (
    Categorical,
    ClassifierSettings,
    Dimension,
    Float,
    GeneratorSettings,
    StrictConfig,
    checked,
    merge_patch,
    nested,
)

Point = dict[str, Any]  # values by dotted key
Space = Mapping[str, Dimension]
S = TypeVar("S", bound=ClassifierSettings | GeneratorSettings)

TUNABLE = ("network", "training", "sampling")
INSIDE = 0.382  # relative position in a range: neither an end nor a round value


def applied(settings: S, point: Point) -> S:
    """Return settings with the values of a point.

    Raises:
        EcgforgeError: the values are not valid together; names the key.
    """
    tree = merge_patch(settings.model_dump(), nested(point))
    kept = {key: value for key, value in settings if key not in tree}
    return checked(type(settings), tree | kept, "tuning")


def defaults(settings: StrictConfig, space: Space, where: str) -> Point:
    """Return the settings' own values as a point of `space`.

    Raises:
        EcgforgeError: a key does not exist, or its value is outside of its range; names the key.
    """
    found = {}
    for key, dimension in space.items():
        value: Any = settings.model_dump() if key.split(".")[0] in TUNABLE else None
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None or isinstance(value, dict):
            raise EcgforgeError(f"{where}.{key}: {', '.join(TUNABLE)} have no such parameter")
        if isinstance(dimension, Categorical):
            if value not in dimension.choices:
                raise EcgforgeError(
                    f"{where}.{key}: the value without tuning, {value!r}, must be one of choices"
                )
        elif not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
            raise EcgforgeError(
                f"{where}.{key}: the value without tuning, {value!r}, must lie between low and high"
            )
        found[key] = value
    return found


def corners(space: Space) -> Iterator[Point]:
    """Yield all points at ends of ranges and at choices, and one point inside the ranges."""
    yield {key: _inside(dimension) for key, dimension in space.items()}
    for values in itertools.product(*map(_ends, space.values())):
        yield dict(zip(space, values, strict=True))


def check(
    settings: S, space: Space, check_settings: Callable[[S, str], object], where: str
) -> None:
    """Check that the keys of a space exist, and that all its points give valid settings.

    Args:
        check_settings: the check of `stages.parameters`; takes the settings and their key for
            messages.

    Raises:
        EcgforgeError: names the key.
    """
    if settings.tuning.n_trials and not space:
        raise EcgforgeError(f"{where}: trials need at least one parameter to vary")
    defaults(settings, space, where)
    for point in corners(space):
        try:
            check_settings(applied(settings, point), "")
        except EcgforgeError as error:
            chosen = ", ".join(f"{key} = {value!r}" for key, value in point.items())
            raise EcgforgeError(
                f"{where}: a trial with {chosen} would be invalid ({str(error).lstrip(':. ')})"
            ) from None


def _inside(dimension: Dimension) -> Any:
    if isinstance(dimension, Categorical):
        return dimension.choices[0]
    value = dimension.low + INSIDE * (dimension.high - dimension.low)
    return value if isinstance(dimension, Float) else round(value)


def _ends(dimension: Dimension) -> list[Any]:
    return (
        list(dimension.choices)
        if isinstance(dimension, Categorical)
        else [dimension.low, dimension.high]
    )


def suggest(trial: Any, space: Space) -> Point:
    """Return a value for every dimension, chosen by an Optuna trial."""
    found = {}
    for key, dimension in space.items():
        if isinstance(dimension, Categorical):
            found[key] = trial.suggest_categorical(key, dimension.choices)
        elif isinstance(dimension, Float):
            found[key] = trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)
        else:
            found[key] = trial.suggest_int(key, dimension.low, dimension.high, log=dimension.log)
    return found
