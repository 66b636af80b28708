"""The gain that a planned study can detect on each dataset, and that a larger study could."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from rich.table import Table

from ecgforge import grid
from ecgforge.analysis import power
from ecgforge.analysis.claims import claims, question
from ecgforge.analysis.comparisons import CONDITION_KEYS, FEWEST, RARE, Pair, key
from ecgforge.analysis.power import Assumptions, Design
from ecgforge.analysis.verdicts import NEED_ALL
from ecgforge.params import Params

MORE_ROUNDS = 5
HIGHEST = 0.5  # a study that can only detect larger gains is of no use

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
    """Return a table of the gains that each plan can detect, see `gains`.

    Args:
        params: the parameters.
        records: of each dataset.
        hours: returns the time that a plan takes, for display.
    """
    shown = Table("study", title="the smallest gain in macro-F1 that the study can detect")
    for heading in (*params.datasets, "time"):
        shown.add_column(heading, justify="right")
    for plan in plans(params):
        found = gains(plan.params, records.times(plan.factor))
        shown.add_row(plan.name, *map(_words, found.values()), hours(plan))
    return shown


def claim_table(params: Params, records: Records) -> Table:
    """Return a table of the gains that the primary comparison of each claim can detect."""
    shown = Table("claim", title="the smallest gain that each claim can detect")
    for heading in params.datasets:
        shown.add_column(heading, justify="right")
    for claim, found in claim_gains(params, records).items():
        shown.add_row(
            claim, *(_words(found[one]) if one in found else "" for one in params.datasets)
        )
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
        "comparison. The interval of a sweep with one seed does not include this shift."
    )


def gains(params: Params, records: Records) -> dict[str, float | None]:
    """Return the gain that the primary comparison on each dataset can detect, see
    `analysis.power.Foreseen.detectable_gain`; None if it decides nothing.
    """
    rows = grid.table(params)
    asked = question(rows, params.classifier.backbone, params.primary_generator)
    study = _Study(params, records, rows)
    return {
        dataset: study.gain((dataset, asked[dataset].baseline, asked[dataset].primary))
        for dataset in params.datasets
    }


def claim_gains(params: Params, records: Records) -> dict[str, dict[str, float | None]]:
    """Return the gain that the primary comparison of each claim can detect, by claim and dataset.

    If validation records choose one of several points, the gain is the largest of theirs. The
    confidence is that of the verdict, which is higher if a claim has several primary comparisons.
    Claims that the study does not test are left out.
    """
    rows = grid.table(params)
    study, found = _Study(params, records, rows), {}
    for claim in claims(rows, params.classifier.backbone):
        pairs = [pair for pair in claim.pairs if min(study.trainings(pair))]
        datasets = list(dict.fromkeys(dataset for dataset, *_ in pairs))
        if not pairs or (claim.rule in NEED_ALL and len(pairs) < len(claim.pairs)):
            continue
        compared = len(datasets) * len(claim.metrics)
        gains: dict[str, float | None] = dict.fromkeys(datasets)
        for pair in pairs:
            seen = study.gain(pair, compared, claim.rare)
            gains[pair[0]] = max((one for one in (gains[pair[0]], seen) if one), default=None)
        found[claim.text] = gains
    return found


@dataclass
class _Study:
    """What the gains of a study's comparisons follow from.

    Attributes:
        params: its parameters.
        records: of each dataset.
        rows: its grid.
    """

    params: Params
    records: Records
    rows: pd.DataFrame

    def trainings(self, pair: Pair) -> tuple[int, int]:
        """Return the number of seeds of both conditions."""
        dataset, first, second = pair
        return self._seeds.get(key(dataset, first), 0), self._seeds.get(key(dataset, second), 0)

    @functools.cached_property
    def _seeds(self) -> dict[Hashable, int]:
        """The number of seeds by dataset and condition; of rounds only if the dataset has some."""
        crossed = self.rows["dataset"].map(lambda name: bool(self.params.rounds_of(name)))
        judged = self.rows[(self.rows["fold"] > 0) == crossed]
        return dict(judged.groupby(["dataset", *CONDITION_KEYS])["seed"].nunique())

    def gain(self, pair: Pair, compared: int = 1, rare: bool = False) -> float | None:
        """Return the gain that a comparison can detect; None if it decides nothing.

        Args:
            pair: the comparison.
            compared: primary comparisons of its claim, which hold together.
            rare: whether only records of rare rhythms are compared.
        """
        rounds = len(self.params.rounds_of(pair[0]))
        tested = (self.records.all if rounds else self.records.test)[pair[0]]
        if rare:
            total = sum(tested.values())
            tested = {name: count for name, count in tested.items() if count < RARE * total}
        trainings = self.trainings(pair)
        if min(trainings) == 0 or sum(tested.values()) < FEWEST:
            return None
        expected = _foreseen(tuple(tested.items()), trainings, rounds or 1)
        return expected.detectable_gain(1 - (1 - self.params.active.study.confidence) / compared)


@functools.cache
def _foreseen(
    tested: tuple[tuple[str, int], ...], trainings: tuple[int, int], rounds: int
) -> power.Foreseen:
    return power.foreseen(Design(dict(tested), trainings, rounds), Assumptions())


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
