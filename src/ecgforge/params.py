"""The typed form of params.yaml, the only source of parameters.

A section refuses unknown keys and values out of range. `Params.read` turns each refusal into one
line with the key, the value and what is allowed. A field has a default where one value serves every
profile. A profile with a `base` states only what differs from that profile (see `merge_patch`).

Networks and samplings are open here: each generator and classifier declares its own sections, with
their defaults, next to its code. `ecgforge.stages.parameters` checks and completes them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML, YAMLError

from ecgforge.errors import EcgforgeError

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")


def distinct(name: Callable[[Any], object] = lambda one: one) -> AfterValidator:
    """Refuse a list that has one `name` twice: results are kept by it, and those of both would pass
    for one.
    """

    def check(listed: Sequence[Any]) -> Sequence[Any]:
        names = [name(one) for one in listed]
        if twice := [one for place, one in enumerate(names) if one in names[:place]]:
            raise ValueError(f"{twice[0]} is there twice")
        return listed

    return AfterValidator(check)


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Names = Annotated[list[Name], distinct()]
SomeNames = Annotated[Names, Field(min_length=1)]
Seeds = Annotated[list[Seed], Field(min_length=1), distinct()]


class StrictConfig(BaseModel):
    """A part of the parameters: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulatedSource(StrictConfig):
    """Simulated patients, written as the site named by `layout` publishes its records."""

    kind: Literal["simulated"]
    layout: Literal["ptbxl", "chapman"]
    records: Positive
    seed: Seed


class PhysionetSource(StrictConfig):
    """A published data set, from PhysioNet or from any mirror of it that fsspec can read."""

    kind: Literal["physionet"]
    layout: Literal["ptbxl", "chapman"]
    mirror: str
    limit_per_rhythm: Positive | None = None  # null takes all records
    connections: Annotated[int, Field(ge=1, le=64)] = 8


class FolderSource(StrictConfig):
    """One's own WFDB records: a folder, and in it a CSV with the columns record, patient, rhythm
    (age, sex if known).
    """

    kind: Literal["folder"]
    layout: Literal["folder"]
    path: str
    table: str


Source = Annotated[SimulatedSource | PhysionetSource | FolderSource, Field(discriminator="kind")]


class Preprocessing(StrictConfig):
    """What every record goes through: see `ecgforge.preparation.preprocessing`."""

    sampling_rate: Annotated[int, Field(ge=50, le=1000)]  # Hz
    duration: Annotated[float, Field(gt=0, le=60)]  # s
    band: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]  # Hz
    max_amplitude: Annotated[float, Field(gt=0)]  # mV, of the record as published, about its median

    @model_validator(mode="after")
    def _band_fits(self) -> Self:
        low, high = self.band
        if not low < high < self.sampling_rate / 2:
            raise ValueError(
                f"band must rise and end below half the sampling rate, {self.sampling_rate / 2:g} "
                "Hz"
            )
        return self


class Preparation(StrictConfig):
    """How records become a record set.

    `amplitude: per_lead_std` divides each lead of a record by its standard deviation, for sources
    that publish standardised leads; `mV` keeps millivolts and refuses other units. A record whose
    file is damaged is set aside, but a larger share of them than `max_damaged` says that the raw
    records themselves are at fault, and is an error.
    """

    min_records: Positive
    max_damaged: Share = 0.01
    amplitude: Literal["mV", "per_lead_std"]


class Training(StrictConfig):
    """One training loop's settings; lengths are in optimiser steps so that record sets of any size
    compare.

    `class_balance_power` is the power that evens out rhythms in the batches: a record is drawn with
    probability n^-class_balance_power, n being the number of records of its rhythm; 0 draws as they
    are, 1 draws every rhythm equally often.
    """

    steps: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)]
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    # of the averaged weights that are kept; 0 keeps the last ones
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    class_balance_power: Share = 0.5
    evaluate_every: Positive  # steps; also the distance of checkpoints
    patience: Positive | None = None  # evaluations without improvement; null trains all steps

    @model_validator(mode="after")
    def _whole_stretches(self) -> Self:
        if self.steps % self.evaluate_every:
            raise ValueError(
                f"steps ({self.steps}) must be a multiple of evaluate_every ({self.evaluate_every})"
            )
        return self


class Range(StrictConfig):
    """A number between two others, both of them included;

    `log` spreads trials evenly over its magnitudes.
    """

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("low must be above 0 where log is true")
        return self


class Float(Range):
    """Any number of a range."""

    kind: Literal["float"] = "float"


class Int(Range):
    """A whole number of a range."""

    kind: Literal["int"]
    low: int
    high: int


class Categorical(StrictConfig):
    """One of several values, in no order."""

    kind: Literal["categorical"] = "categorical"
    choices: Annotated[list[bool | int | float | str], Field(min_length=2)]


def _kind(dimension: Any) -> Any:
    """Return the kind of a dimension that need not state it:

    `choices` are categorical, a range is one of floats.
    """
    if isinstance(dimension, dict):
        return dimension.get("kind", "categorical" if "choices" in dimension else "float")
    return getattr(dimension, "kind", None)


Dimension = Annotated[
    Annotated[Float, Tag("float")]
    | Annotated[Int, Tag("int")]
    | Annotated[Categorical, Tag("categorical")],
    Discriminator(_kind),
]


class Tuning(StrictConfig):
    """A search for better parameters on validation records;

    `space` gives the range of each one by its dotted key.

    The first trial has the parameters of the profile. `n_trials` counts all trials of the study, so
    a higher number continues it; 0 keeps the parameters. `workers` trials run in parallel.
    """

    n_trials: Annotated[int, Field(ge=0)] = 0
    workers: Positive = 1
    seed: Seed = 100
    space: dict[str, Dimension] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_space(self) -> Self:
        if self.n_trials and not self.space:
            raise ValueError("space: trials need at least one parameter to change")
        return self


class ClassifierTuning(Tuning):
    """Of a classifier: the score of a trial is the mean of `repeats` trainings with different
    seeds.
    """

    repeats: Positive = 1


class GeneratorTuning(Tuning):
    """Of a generator: a trial draws `records` of each rhythm.

    With `fast`, the search also minimises the time to draw a record, and the best trial is the best
    of those that are no slower than the first one.
    """

    records: Positive
    fast: bool = False


class Ablation(StrictConfig):
    """The keys of a generator's network and sampling that a variation changes, merged by
    `merge_patch`.
    """

    network: dict[str, Any] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=dict)


class GeneratorSettings(StrictConfig):
    """A generator's network, the training of each of its phases, its sampling, and variations by
    name that a sweep compares.
    """

    seed: Seed = 0
    network: dict[str, Any]
    training: dict[Name, Training]
    sampling: dict[str, Any]
    ablations: dict[str, Ablation] = Field(default_factory=dict)
    # what looks for parameters is none of them
    tuning: Annotated[GeneratorTuning, Field(exclude=True)]

    def variations(self) -> dict[str, GeneratorSettings]:
        """The settings of each variation, by name."""
        return {
            name: self.model_copy(
                update={
                    "network": merge_patch(self.network, change.network),
                    "sampling": merge_patch(self.sampling, change.sampling),
                }
            )
            for name, change in self.ablations.items()
        }


class Synthesis(StrictConfig):
    """Synthetic records per rhythm in each split, each drawn from seeds of its own.

    `train: match_real` makes as many training records as there are real ones, spread evenly over
    the rhythms.
    """

    train: Positive | Literal["match_real"]
    validation: Positive
    test: Positive
    chunk: Positive  # records held in memory at a time
    seed: Seed = 100


class ClassifierSettings(StrictConfig):
    """A classifier's network and its training.

    `backbone` is the key of the entry in the profile's `classifiers`.
    """

    backbone: Name
    network: dict[str, Any]
    training: Training
    # of the study's classifier alone
    tuning: Annotated[ClassifierTuning, Field(exclude=True)] = ClassifierTuning()


class Augmentation(StrictConfig):
    """Classical changes of training records: see `ecgforge.classifiers.common.augmentation`."""

    max_time_shift: Annotated[float, Field(ge=0)] = 2.0  # s, the most either way
    gain: Annotated[float, Field(ge=0, le=1)] = 0.1  # standard deviation of its logarithm
    noise: Annotated[float, Field(ge=0, le=1)] = 0.05  # of a lead's standard deviation
    wander: Annotated[float, Field(ge=0, le=1)] = 0.1  # of a lead's standard deviation, baseline
    lead_dropout: Share = 0.05  # of leads that are silent


class Study(StrictConfig):
    """The settings' seeds and statistics.

    `synthetic_share` is the share of synthetic records in TrRSTeR's training set.
    """

    seeds: Seeds
    augmentation: Augmentation = Augmentation()
    synthetic_share: Annotated[float, Field(gt=0, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    resamples: Positive


Method = Literal["full", "linear_probe", "gradual_unfreezing"]  # which weights a fine-tuning moves
UNFREEZINGS = 3  # of a gradual one: the head, the upper half, all
Percents = Annotated[
    list[Annotated[float, Field(gt=0, le=1000)]], Field(min_length=1), distinct("{:g}".format)
]
Shares = Annotated[
    list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=1), distinct("{:g}".format)
]


class Sweeps(StrictConfig):
    """The seeds of the sweeps, and a section for each sweep.

    A sweep declares its section next to its code, see `ecgforge.sweeps`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    seeds: Seeds

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """The sections of sweeps by name."""
        return self.__pydantic_extra__


class Quality(StrictConfig):
    """How many records a quality score looks at, and how often it permutes them."""

    records: Annotated[int, Field(ge=20)]
    permutations: Annotated[int, Field(ge=1)]
    # umap compiles for half a minute in each process
    views: Annotated[list[Literal["pca", "tsne", "umap"]], Field(min_length=1)]
    seed: Seed = 0


class Compute(StrictConfig):
    """Where training and sampling run.

    `threads` fixes the reduction order of the CPU, so it is part of what makes bytes repeat.

    One training uses one device, whatever `devices` says. Several GPUs are used by cells side by
    side, each started with a CUDA_VISIBLE_DEVICES of its own, and by the workers of a tuning, which
    have one each.
    """

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Positive = 1  # processes or GPUs that draw synthetic records side by side
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    threads: Positive


class Profile(StrictConfig):
    """A named set of parameters, from the source of the records to the size of the study."""

    sources: dict[Name, Source]
    preparation: Preparation
    generators: dict[Name, GeneratorSettings]
    synthesis: Synthesis
    classifiers: dict[Name, ClassifierSettings]
    study: Study
    sweeps: Sweeps
    quality: Quality
    compute: Compute

    @field_validator("classifiers", mode="before")
    @classmethod
    def _named_by_their_keys(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        for name, entry in tree.items():
            if isinstance(entry, dict) and entry.get("backbone", name) != name:
                raise ValueError(
                    f"{name}.backbone: the key of an entry is its backbone; remove this line"
                )
        return {
            name: {"backbone": name} | entry if isinstance(entry, dict) else entry
            for name, entry in tree.items()
        }


class DatasetPair(StrictConfig):
    """Two datasets: train on one, test on the other."""

    train: Name
    test: Name


class Merged(StrictConfig):
    """Two sources that make the dataset `merged`."""

    first: Name
    second: Name

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.first == self.second:
            raise ValueError("first and second must differ")
        return self


class SweepTargets(StrictConfig):
    """Where the sweeps run: a cell for each combination; nowhere, where lists are empty."""

    datasets: Names
    generators: Names
    sweeps: Names
    backbones: Names  # classifiers that are compared with the study's
    generator_seeds: Names  # generators that are trained from several seeds
    cross_dataset: Annotated[
        list[DatasetPair], distinct(lambda pair: f"{pair.train} to {pair.test}")
    ]


class ClassifierGates(StrictConfig):
    """What a classifier must show on the real test records to become champion: see
    `ecgforge.registry.gates`.
    """

    # the interval of its macro-F1 less the champion's must lie above
    margin: Annotated[float, Field(ge=-1, le=1)]
    # the same with each baseline for champion, as long as there is none
    baseline_margin: Annotated[float, Field(ge=-1, le=1)]
    recall_margin: Share  # a rhythm's recall may be that much below the champion's
    calibration_error: Share  # at most
    latency: Annotated[float, Field(gt=0)]  # ms a record, at most
    size: Annotated[float, Field(gt=0)]  # MB of weights, at most


class GeneratorGates(StrictConfig):
    """What a generator's records must show to make it champion: see `ecgforge.registry.gates`."""

    two_sample: Share  # accuracy of telling them from real records, above its baseline, at most
    coverage: Share  # below its baseline, at most
    # bpm, Wasserstein distance above its baseline, at most
    heart_rate: Annotated[float, Field(ge=0)]
    rr_cv: Annotated[float, Field(ge=0)]  # points, Wasserstein distance above its baseline, at most
    copied_share: Share  # above its baseline, at most
    dcr_ratio: Annotated[float, Field(ge=0, le=1)]  # at least
    membership_auc: Share  # at most


class Gates(StrictConfig):
    """What a version must pass to become champion."""

    classifier: ClassifierGates
    generator: GeneratorGates


class Signing(StrictConfig):
    """Files of the keys by which champions are signed and checked, from the project's folder;
    nothing is signed without.
    """

    private_key: str | None = None
    public_key: str | None = None


class Params(StrictConfig):
    """All of params.yaml; `active` is the profile in use."""

    profile: str
    sources: SomeNames
    datasets: SomeNames
    merged: Annotated[list[Merged], Field(max_length=1)]
    generators: SomeNames
    backbone: Name  # of the study's classifier
    sweep_targets: SweepTargets
    preprocessing: Preprocessing
    gates: Gates
    signing: Signing = Signing()
    profiles: dict[Name, Profile]

    @property
    def active(self) -> Profile:
        return self.profiles[self.profile]

    @property
    def classifier(self) -> ClassifierSettings:
        """The settings of the study's classifier in the profile in use."""
        return self.classifier_settings(self.backbone)

    def with_profile(self, name: str | None) -> Params:
        """Return these with another profile in use; EcgforgeError if there is no such one."""
        if name is None:
            return self
        if name not in self.profiles:
            raise EcgforgeError(f"'{name}' is no profile: known are {', '.join(self.profiles)}")
        return self.model_copy(update={"profile": name})

    def source(self, name: str) -> Source:
        """Return a source of the profile in use; EcgforgeError if it has no such one."""
        return _named(name, self.active.sources, "source")

    def generator(self, name: str) -> GeneratorSettings:
        """Return a generator's settings in the profile in use;

        EcgforgeError if it has no such one.
        """
        return _named(name, self.active.generators, "generator")

    def classifier_settings(self, backbone: str) -> ClassifierSettings:
        """Return a classifier's settings in the profile in use;

        EcgforgeError if it has no such one.
        """
        return _named(backbone, self.active.classifiers, "classifier")

    @model_validator(mode="before")
    @classmethod
    def _expand_bases(cls, tree: Any) -> Any:
        return expanded(tree)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        if self.profile not in self.profiles:
            raise ValueError(f"profile: '{self.profile}' is not one of {', '.join(self.profiles)}")
        targets = self.sweep_targets
        if self.backbone in targets.backbones:
            raise ValueError(f"sweep_targets.backbones: {self.backbone} is the study's classifier")
        pairs = [dataset for pair in targets.cross_dataset for dataset in (pair.train, pair.test)]
        joined = [source for pair in self.merged for source in (pair.first, pair.second)]
        for listed, known, where in (
            (joined, self.sources, "merged"),
            (self.datasets, [*self.sources, *["merged" for _ in self.merged]], "datasets"),
            (targets.datasets, self.datasets, "sweep_targets.datasets"),
            (targets.generators, self.generators, "sweep_targets.generators"),
            (targets.generator_seeds, self.generators, "sweep_targets.generator_seeds"),
            (pairs, self.datasets, "sweep_targets.cross_dataset"),
        ):
            for one in listed:
                if one not in known:
                    raise ValueError(f"{where}: '{one}' is not one of {', '.join(known)}")
        for name, profile in self.profiles.items():
            if unknown := set(profile.sweeps.seeds) - set(profile.study.seeds):
                raise ValueError(
                    f"profiles.{name}.sweeps.seeds: {min(unknown)} is not one of study.seeds"
                )
            # As many synthetic records as real ones are no more than half of the whole.
            if profile.synthesis.train == "match_real" and profile.study.synthetic_share > 0.5:
                share = profile.study.synthetic_share
                raise ValueError(
                    f"profiles.{name}.study.synthetic_share = {share:g}: at most 0.5 with "
                    "synthesis.train = match_real; lower it, or give "
                    "synthesis.train a number of records of each rhythm"
                )
        for kind, listed, listed_in in (
            ("sources", self.sources, "sources"),
            ("generators", self.generators, "generators"),
            ("classifiers", [self.backbone], "backbone"),
            ("classifiers", targets.backbones, "sweep_targets.backbones"),
        ):
            for one in listed:
                if one not in getattr(self.active, kind):
                    where = f"profiles.{self.profile}.{kind}"
                    raise ValueError(
                        f"{where}: '{one}' is named in {listed_in} but not described here"
                    )
        return self

    @classmethod
    def read(cls, path: Path) -> Params:
        """Read and validate a params.yaml whole.

        Raises:
            EcgforgeError: the file is missing, is not YAML, or holds unknown keys or bad values;
                each is named.
        """
        tree = read_yaml(path, "run this in the project's folder, or name the file with --params")
        return checked(cls, tree, str(path))


def read_yaml(path: Path, missing: str) -> Any:
    """Return what a YAML file holds, as DVC reads it.

    Args:
        missing: what to do where it is not there, for whoever reads the error.

    Raises:
        EcgforgeError: the file is missing, is not YAML, or names a key twice.
    """
    try:
        return YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise EcgforgeError(f"{path} does not exist: {missing}") from None
    # ruamel passes on what a date or a number is not
    except (YAMLError, ValueError, OverflowError) as error:
        raise EcgforgeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def merge_patch(tree: Any, patch: Any) -> Any:
    """Return `tree` with the changes in `patch`, by the rules of JSON Merge Patch (RFC 7396).

    Mappings merge key by key, null removes a key (its default then holds), any other value replaces
    the old one.
    """
    if not isinstance(tree, dict) or not isinstance(patch, dict):
        return patch
    merged = tree | {key: merge_patch(tree.get(key), value) for key, value in patch.items()}
    return {key: value for key, value in merged.items() if key not in patch or value is not None}


def expanded(tree: Any) -> Any:
    """Return the tree of a params.yaml with every profile merged onto its `base`; a base comes
    before what builds on it.

    Raises:
        ValueError: a base is unknown, or bases form a cycle.
    """
    profiles = tree.get("profiles") if isinstance(tree, dict) else None
    if not isinstance(profiles, dict):
        return tree
    found: dict[Any, Any] = {}

    def expand(name: Any, builds: tuple[Any, ...]) -> None:
        profile = profiles[name]
        if isinstance(profile, dict) and "base" in profile:
            base = profile["base"]
            if not isinstance(base, str) or base not in profiles:
                raise ValueError(
                    f"profiles.{name}.base: {base!r} is not one of {', '.join(map(str, profiles))}"
                )
            if base in (chain := (*builds, name)):
                raise ValueError(
                    f"profiles.{name}.base: profiles build on each other in a cycle: "
                    f"{' -> '.join((*chain, base))}"
                )
            expand(base, chain)
            profile = merge_patch(
                found[base], {key: value for key, value in profile.items() if key != "base"}
            )
        found.setdefault(name, profile)

    for name in profiles:
        expand(name, ())
    return {**tree, "profiles": found}


def _named(name: str, known: dict[str, T], what: str) -> T:
    if name not in known:
        raise EcgforgeError(f"'{name}' is no {what} of the profile: known are {', '.join(known)}")
    return known[name]


def checked(section: type[S], tree: Any, where: str) -> S:
    """Validate `tree` as `section`, telling every refusal in one line that starts with `where`.

    Raises:
        EcgforgeError: names each bad key, its value, and what is allowed.
    """
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        details = _without_inherited(error.errors(), tree)
        raise EcgforgeError(
            f"{where}: " + "; ".join(_refusal(detail) for detail in details)
        ) from None


def _without_inherited(details: Sequence[Any], tree: Any) -> list[Any]:
    """Leave out the errors of a profile that are errors of its base too: they are named where they
    were written.
    """
    profiles = tree.get("profiles") if isinstance(tree, dict) else None
    if not isinstance(profiles, dict):
        return list(details)
    bases = {
        name: profile.get("base") for name, profile in profiles.items() if isinstance(profile, dict)
    }
    known = {(detail["loc"], detail["msg"]) for detail in details}

    def in_base(detail: Any) -> bool:
        if len(detail["loc"]) < 2:
            return False
        section, name, *path = detail["loc"]
        return (
            section == "profiles" and (("profiles", bases.get(name), *path), detail["msg"]) in known
        )

    return [detail for detail in details if not in_base(detail)]


_SHORT = reprlib.Repr()  # however long or deep the value is
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def _refusal(detail: Any) -> str:
    key = ".".join(
        str(part)
        for part in detail["loc"]
        if part not in ("simulated", "physionet", "folder", "float", "int", "categorical")
    )[:200]
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if detail["type"] == "missing":
        return f"{key}: missing"
    reason = detail["msg"].removeprefix("Value error, ")
    try:
        value = _SHORT.repr(detail["input"])
    except ValueError:
        value = "a number of thousands of digits"
    return f"{key} = {value}: {reason}" if key else reason
