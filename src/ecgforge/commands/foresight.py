"""The gain that a planned study can see on each dataset, and what a larger study would see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.table import Table

from ecgforge import grid
from ecgforge.analysis import power
from ecgforge.analysis.claims import question
from ecgforge.analysis.comparisons import FEWEST
from ecgforge.analysis.power import Assumptions, Design
from ecgforge.params import Params

MORE_ROUNDS = 5
HIGHEST = 0.5  # a study that can only see a larger gain sees nothing of use

Counts = Mapping[str, Mapping[str, int]]  # records by dataset and rhythm


@dataclass(frozen=True)
class Records:
    """The records of each dataset, known or expected.

    Attributes:
        all: in all splits.
        test: in the test split.
    """

    all: Counts
    test: Counts

    def times(self, factor: int) -> Records:
        """Return as many times as many records."""
        return Records(*(_times(counts, factor) for counts in (self.all, self.test)))


@dataclass(frozen=True)
class Plan:
    """A study as it is planned, or larger.

    Attributes:
        name: for display.
        params: its parameters.
        factor: times as many records as there are.
    """

    name: str
    params: Params
    factor: int = 1


def plans(params: Params) -> Iterator[Plan]:
    """Yield the study as planned, with more rounds, with one more seed, and with more records."""
    yield Plan("as planned", params)
    folds = {dataset: max(MORE_ROUNDS, params.folds.get(dataset, 1)) for dataset in params.datasets}
    if folds != params.folds:
        every = params.model_copy(update={"folds": folds})
        yield Plan(f"{MORE_ROUNDS} rounds of cross-fitting", every)
    yield Plan("one more seed", _with_a_seed(params))
    yield Plan("twice the records", params, 2)


def table(params: Params, records: Records, hours: Callable[[Plan], str]) -> Table:
    """Return a table of the gains that each plan can see, see `gains`.

    Args:
        params: the parameters.
        records: of each dataset.
        hours: returns the time that a plan takes, for display.
    """
    shown = Table("study", title="the gain in macro-F1 that the study can see")
    for heading in (*params.datasets, "time"):
        shown.add_column(heading, justify="right")
    for plan in plans(params):
        found = gains(plan.params, records.times(plan.factor))
        shown.add_row(plan.name, *map(_words, found.values()), hours(plan))
    return shown


def notes(params: Params) -> str:
    """Return what the table of gains means and assumes, in one line."""
    assumed, confidence = Assumptions(), params.active.study.confidence
    return (
        f"A gain of synthetic records ({params.primary_generator}) of this size is found with "
        f"{power.POWER:.0%} power, at {confidence:.0%} confidence. Assumed: recall "
        f"{assumed.recall:g}; two trainings differ on {assumed.seeds_differ:.0%} of the records, "
        f"with and without synthetic records on {assumed.settings_differ:.0%}; a training shifts "
        f"macro-F1 by {assumed.shift:g}. A dash: fewer than {FEWEST} test records, or no "
        "comparison."
    )


def gains(params: Params, records: Records) -> dict[str, float | None]:
    """Return the gain that the primary comparison on each dataset can see, see
    `analysis.power.Foreseen.detectable_gain`; None if it decides nothing.
    """
    rows = grid.table(params)
    asked = question(rows, params.classifier.backbone, params.primary_generator)
    found: dict[str, float | None] = {}
    for dataset in params.datasets:
        rounds = len(params.rounds_of(dataset))
        one = rows[(rows["dataset"] == dataset) & ((rows["fold"] > 0) == (rounds > 0))]
        first, second = (
            one[(one[list(condition)] == condition).all(axis=1)]["seed"].nunique()
            for condition in (asked[dataset].baseline, asked[dataset].primary)
        )
        tested = (records.all if rounds else records.test)[dataset]
        found[dataset] = None
        if min(first, second) and sum(tested.values()) >= FEWEST:
            expected = power.foreseen(Design(tested, (first, second), rounds or 1), Assumptions())
            found[dataset] = expected.detectable_gain(params.active.study.confidence)
    return found


def _with_a_seed(params: Params) -> Params:
    """Return parameters with one more seed of the classifiers, and of the generators that have
    several.
    """
    active = params.active
    study = active.study.model_copy(update={"seeds": _one_more(active.study.seeds)})
    sections = dict(active.sweeps.sections)
    if "generator_seeds" in sections:
        section = sections["generator_seeds"]
        sections["generator_seeds"] = section | {"seeds": _one_more(section["seeds"])}
    sweeps = active.sweeps.model_copy(update=sections)
    active = active.model_copy(update={"study": study, "sweeps": sweeps})
    return params.model_copy(update={"profiles": {**params.profiles, params.profile: active}})


def _one_more(seeds: list[int]) -> list[int]:
    return [*seeds, max(seeds) + 1]


def _times(counts: Counts, factor: int) -> Counts:
    return {
        dataset: {rhythm: factor * count for rhythm, count in of_dataset.items()}
        for dataset, of_dataset in counts.items()
    }


def _words(gain: float | None) -> str:
    if gain is None:
        return "–"
    return f"{gain:.2f}" if gain <= HIGHEST else f"over {HIGHEST:g}"
