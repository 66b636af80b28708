"""Typed schema of params.yaml, the only source of parameters.

A section rejects unknown keys and values out of range. `Params.read` turns each error into one line
with the key, the value and the allowed values. A field has a default if one value serves every
profile. A profile with a `base` states only its differences from that profile (see `merge_patch`).

The schema leaves `network` and `sampling` open: each generator and classifier declares these
sections, with defaults, next to its code. `ecgforge.stages.parameters` checks and completes them.
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

from ecgforge import rounds
from ecgforge.errors import EcgforgeError

MOST_MERGED = 8  # sources of the merged dataset; the stage `merge` in dvc.yaml lists as many
S = TypeVar("S", bound=BaseModel)
T = TypeVar("T")


def distinct(name: Callable[[Any], object] = lambda one: one) -> AfterValidator:
    """Reject a list in which two entries have the same `name`: results are stored by name."""

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
    """A section of the parameters: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulatedSource(StrictConfig):
    """Simulated patients, written in the file layout of a published data set."""

    kind: Literal["simulated"]  # type of the source
    layout: Literal["ptbxl", "chapman"]  # file layout of the records
    records: Positive  # number of simulated records
    seed: Seed  # random seed of the simulation


class PhysionetSource(StrictConfig):
    """A published data set, from PhysioNet or from any mirror of it that fsspec can read."""

    kind: Literal["physionet"]  # type of the source
    layout: Literal["ptbxl", "chapman"]  # the published data set
    mirror: str  # URL or path of the data set
    limit_per_rhythm: Positive | None = None  # records of each rhythm; null takes all
    connections: Annotated[int, Field(ge=1, le=64)] = 8  # parallel downloads


class FolderSource(StrictConfig):
    """Your own records in WFDB, EDF or DICOM: a folder, and a CSV table or labels in the headers.

    The table has the columns record, patient and rhythm, and may have age and sex. `ecgforge init`
    finds the values of these parameters.
    """

    kind: Literal["folder"]  # type of the source
    layout: Literal["folder"] = "folder"  # file layout of the records
    path: str  # folder of the records
    table: str | None  # CSV file in that folder; null reads the comments of the headers
    separator: Literal[",", ";", "\t", "|"] = ","  # between the cells of the CSV file
    # the column of the CSV file for each of these, if it has another name; `patient: record` if
    # each record is its own patient
    columns: dict[Literal["record", "patient", "rhythm", "age", "sex"], str] = {}
    # label of the records -> rhythm or code; null ignores a label
    map: dict[str, str | None] = {}


Source = Annotated[SimulatedSource | PhysionetSource | FolderSource, Field(discriminator="kind")]


class Preprocessing(StrictConfig):
    """Steps applied to every record: see `ecgforge.preparation.preprocessing`."""

    sampling_rate: Annotated[int, Field(ge=50, le=1000)]  # Hz, of the prepared records
    duration: Annotated[float, Field(gt=0, le=60)]  # s, of the prepared records
    # Hz, lower and upper cut-off frequency of the band-pass filter
    band: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    # mV, largest deviation of a published record from its median
    max_amplitude: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _band_fits(self) -> Self:
        low, high = self.band
        if not low < high < self.sampling_rate / 2:
            raise ValueError(
                "band must rise, and must end below half the sampling rate, "
                f"{self.sampling_rate / 2:g} Hz"
            )
        return self


class Preparation(StrictConfig):
    """How records become a record set.

    `amplitude: per_lead_std` divides each lead of a record by its standard deviation, for sources
    that publish standardised leads. `mV` keeps millivolts and rejects other units. A record with a
    damaged file is excluded. A share of damaged records above `max_damaged` is an error, because
    the raw records as a whole are then in doubt.
    """

    min_records: Positive  # a rhythm with fewer records is excluded
    max_damaged: Share = 0.01  # share of records with damaged files
    amplitude: Literal["mV", "per_lead_std"]  # unit of the prepared signals


class Training(StrictConfig):
    """Settings of one training loop.

    Lengths are in optimiser steps, so that record sets of different sizes compare. A batch holds a
    record with probability proportional to n^-class_balance_power, where n is the number of records
    with its rhythm: 0 keeps the frequencies of the record set, 1 gives every rhythm the same
    frequency.
    """

    steps: Positive  # optimiser steps
    batch_size: Positive = 32  # records in a batch
    learning_rate: Annotated[float, Field(gt=0, le=1)]  # peak learning rate
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the AdamW optimiser
    warmup_steps: Annotated[int, Field(ge=0)]  # optimiser steps of linear warm-up
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0  # largest norm of the gradient
    # decay of the averaged weights, which are the ones kept; 0 keeps the last weights
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.98
    class_balance_power: Share = 0.5  # 0 keeps the frequencies of rhythms, 1 equalises them
    evaluate_every: Positive  # steps; also the interval between checkpoints
    # evaluations without improvement before training stops; null trains all steps
    patience: Positive | None = None

    @model_validator(mode="after")
    def _check_interval(self) -> Self:
        if self.steps % self.evaluate_every:
            raise ValueError(
                f"steps ({self.steps}) must be a multiple of evaluate_every ({self.evaluate_every})"
            )
        return self


class ClassifierTraining(Training):
    """The training loop of a classifier."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01  # of the AdamW optimiser


class PreTraining(ClassifierTraining):
    """A training without labels: see `ecgforge.classifiers.common.contrastive`.

    All records are drawn equally often, since their rhythms are not known.
    """

    class_balance_power: Annotated[float, Field(ge=0, le=0)] = 0.0  # 0: rhythms are not known
    temperature: Annotated[float, Field(gt=0)] = 0.1  # divides the similarities of views
    projection: Positive = 64  # width of the projection, on which the loss is defined


class Range(StrictConfig):
    """A range of numbers, both ends included.

    `log` samples the logarithm uniformly.
    """

    low: float  # smallest value
    high: float  # largest value
    log: bool = False  # sample the logarithm uniformly

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("low must be above 0 if log is true")
        return self


class Float(Range):
    """A real number in a range."""

    kind: Literal["float"] = "float"  # type of the range


class Int(Range):
    """An integer in a range."""

    kind: Literal["int"]  # type of the range
    low: int  # smallest value
    high: int  # largest value


class Categorical(StrictConfig):
    """One of several unordered values."""

    kind: Literal["categorical"] = "categorical"  # type of the range
    choices: Annotated[list[bool | int | float | str], Field(min_length=2)]  # the values


def _kind(dimension: Any) -> Any:
    """Return the kind of a dimension, which need not be stated.

    A dimension with `choices` is categorical, any other is a range of real numbers.
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
    """A search for better parameters, scored on validation records.

    `space` gives the range of each parameter by its dotted key. The first trial has the parameters
    of the profile. `n_trials` is the number of all trials of the study, so a higher number
    continues it; 0 turns tuning off. `workers` is the number of trials that run in parallel.
    """

    n_trials: Annotated[int, Field(ge=0)] = 0  # trials of the whole study; 0 turns tuning off
    workers: Positive = 1  # trials that run in parallel
    seed: Seed = 100  # random seed of the search
    # range of each parameter, by dotted key; without any, that of the class
    space: dict[str, Dimension] = Field(default_factory=dict)


class ClassifierTuning(Tuning):
    """Tuning of the study's classifier.

    The score of a trial is the mean over `repeats` trainings with different seeds.
    """

    repeats: Positive = 1  # trainings per trial, with different seeds


class GeneratorTuning(Tuning):
    """Tuning of a generator: each trial generates `records` records of each rhythm.

    If `fast` is true, the search also minimises the generation time of a record. The best trial is
    then the best of the trials that are not slower than the first one.
    """

    records: Positive = 20  # synthetic records of each rhythm per trial
    fast: bool = False  # also minimise the generation time


def _below_network_or_sampling(changes: dict[str, Any]) -> dict[str, Any]:
    for key in changes:
        if not key.startswith(("network.", "sampling.")):
            raise ValueError(f"{key}: a change has a dotted key, such as sampling.guidance")
    nested(changes)
    return changes


# values by dotted key
Ablation = Annotated[dict[str, Any], AfterValidator(_below_network_or_sampling)]


class GeneratorSettings(StrictConfig):
    """A generator: its network, the training of each phase, its sampling, and its ablations."""

    seed: Seed = 0  # random seed of the training
    network: dict[str, Any] = Field(default_factory=dict)  # declared by the generator
    training: dict[Name, Training] = Field(default_factory=dict)  # training loop of each phase
    sampling: dict[str, Any] = Field(default_factory=dict)  # declared by the generator
    ablations: dict[Name, Ablation] = Field(default_factory=dict)  # values by dotted key, by name
    # excluded from the parameters of a training: results do not depend on the search
    tuning: Annotated[GeneratorTuning, Field(exclude=True)] = GeneratorTuning()

    @property
    def tunes_training(self) -> bool:
        """Whether a search can change more than the sampling. The spaces of classes cannot."""
        return any(not key.startswith("sampling.") for key in self.tuning.space)

    def variations(self) -> dict[str, GeneratorSettings]:
        """Return the settings of each ablation, by name."""
        tree = {"network": self.network, "sampling": self.sampling}
        return {
            name: self.model_copy(update=merge_patch(tree, nested(changes)))
            for name, changes in self.ablations.items()
        }


class Synthesis(StrictConfig):
    """Number of synthetic records per rhythm in each split; each split has its own random seeds.

    `train: match_real` generates as many training records as there are real ones, the same number
    for each rhythm.
    """

    train: Positive | Literal["match_real"]  # training records of each rhythm
    validation: Positive  # validation records of each rhythm
    test: Positive  # test records of each rhythm
    chunk: Positive  # records in memory at a time
    seed: Seed = 100  # random seed of sampling


class ClassifierSettings(StrictConfig):
    """A classifier's network and its training."""

    backbone: Name  # the key of the entry in `classifiers`
    network: dict[str, Any]  # declared by the backbone
    training: ClassifierTraining  # the training loop
    # used for the study's classifier only; excluded from the parameters of a training
    tuning: Annotated[ClassifierTuning, Field(exclude=True)] = ClassifierTuning()


class Augmentation(StrictConfig):
    """Random changes of real training records: see `ecgforge.classifiers.common.augmentation`."""

    max_time_shift: Annotated[float, Field(ge=0)] = 2.0  # s, largest shift in either direction
    # standard deviation of the logarithm of the gain
    gain: Annotated[float, Field(ge=0, le=1)] = 0.1
    # standard deviation, relative to that of the lead
    noise: Annotated[float, Field(ge=0, le=1)] = 0.05
    # standard deviation of baseline wander, relative to that of the lead
    wander: Annotated[float, Field(ge=0, le=1)] = 0.1
    lead_dropout: Share = 0.05  # probability that a lead is set to zero


class Study(StrictConfig):
    """Seeds and statistics of the settings."""

    seeds: Seeds  # one training of each experiment per seed
    augmentation: Augmentation = Augmentation()  # classical augmentation
    # share of synthetic records in the training data of TrRSTeR
    synthetic_share: Annotated[float, Field(gt=0, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95  # level of the confidence intervals
    resamples: Positive  # bootstrap resamples
    # smallest gain that counts, in units of the metric: a verdict calls a smaller one not enough
    smallest_gain: Annotated[float, Field(ge=0, lt=1)] = 0.02


Percents = Annotated[
    list[Annotated[float, Field(gt=0, le=1000)]], Field(min_length=1), distinct("{:g}".format)
]
Shares = Annotated[
    list[Annotated[float, Field(gt=0, le=100)]], Field(min_length=1), distinct("{:g}".format)
]


class Sweeps(StrictConfig):
    """The seeds of the sweeps, and a section for each sweep.

    Each sweep declares its section next to its code, see `ecgforge.sweeps`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    seeds: Seeds  # one training of each experiment per seed; a subset of study.seeds

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """The sections of the sweeps, by name."""
        return self.__pydantic_extra__


class Quality(StrictConfig):
    """The size of the quality scores' samples."""

    records: Annotated[int, Field(ge=20)]  # records that a score compares
    permutations: Annotated[int, Field(ge=1)]  # permutations of a permutation test
    # plots of embeddings; umap compiles for half a minute in each process
    views: Annotated[list[Literal["pca", "tsne", "umap"]], Field(min_length=1)]
    seed: Seed = 0  # random seed of the subsets


class Compute(StrictConfig):
    """Where training and sampling run.

    A change of `threads` changes the summation order on a CPU, and with it the last digits of
    results.

    A training uses one device, whatever the value of `devices`. `ecgforge repro` gives each cell
    that runs in parallel a GPU of its own. The workers of a tuning use one GPU each.
    """

    accelerator: Literal["auto", "cpu", "gpu"]  # `auto` uses a GPU if there is one
    devices: Positive = 1  # processes or GPUs that generate synthetic records in parallel
    # floating-point format, in Lightning's terms
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    threads: Positive  # CPU threads of a training


class Profile(StrictConfig):
    """A named set of parameters, from the sources of the records to the size of the study."""

    sources: dict[Name, Source]  # by name
    preparation: Preparation
    generators: dict[Name, GeneratorSettings]  # by name
    synthesis: Synthesis
    classifiers: dict[Name, ClassifierSettings]  # by name
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
    """A pair of datasets: a classifier is trained on one and tested on the other."""

    train: Name  # dataset of the training records
    test: Name  # dataset of the test records


class SweepTargets(StrictConfig):
    """What the sweeps cover: one cell for each combination. An empty list turns its sweeps off."""

    datasets: Names  # datasets that the sweeps train on
    generators: Names  # generators whose records the sweeps use
    sweeps: Names  # names of sweeps
    real_sweeps: Names  # names of sweeps on real records alone
    backbones: Names  # classifiers to compare with the study's classifier
    generator_seeds: Names  # generators to train from several seeds
    # pairs of datasets: train on one, test on the other
    cross_dataset: Annotated[
        list[DatasetPair], distinct(lambda pair: f"{pair.train} to {pair.test}")
    ]
    equal_size: Names = []  # sources to compare with as many records of the merged dataset
    # most cells for each sweep of a dataset and generator; more cells use more machines
    parts: Positive = 1


class ClassifierGates(StrictConfig):
    """Conditions for a classifier to become champion, on the real test records.

    `ecgforge.registry.gates` defines the gates.
    """

    # macro-F1 difference to the champion: its confidence interval must lie above
    margin: Annotated[float, Field(ge=-1, le=1)]
    # the same difference to each baseline, while there is no champion
    baseline_margin: Annotated[float, Field(ge=-1, le=1)]
    recall_margin: Share  # largest drop of a rhythm's recall against the champion
    calibration_error: Share  # largest expected calibration error
    latency: Annotated[float, Field(gt=0)]  # ms per record, largest
    size: Annotated[float, Field(gt=0)]  # MB of weights, largest


class GeneratorGates(StrictConfig):
    """Conditions for a generator to become champion, on its synthetic records.

    `ecgforge.registry.gates` defines the gates. The real-vs-real baseline is the value of the same
    score for other real records.
    """

    two_sample: Share  # largest accuracy of the two-sample test, above its baseline
    coverage: Share  # largest drop of coverage below its baseline
    # bpm, largest Wasserstein-1 distance above its baseline
    heart_rate: Annotated[float, Field(ge=0)]
    # points, largest Wasserstein-1 distance above its baseline
    rr_cv: Annotated[float, Field(ge=0)]
    copied_share: Share  # largest share of copied records, above its baseline
    # smallest ratio of the median distances to the closest training record
    dcr_ratio: Annotated[float, Field(ge=0, le=1)]
    membership_auc: Share  # largest area under the ROC curve of the membership test


class Gates(StrictConfig):
    """Conditions for a version to become champion."""

    classifier: ClassifierGates
    generator: GeneratorGates


class Signing(StrictConfig):
    """Key files that sign and verify champions; without them, nothing is signed."""

    private_key: str | None = None  # PEM file, relative to the project
    public_key: str | None = None  # PEM file, relative to the project


class Params(StrictConfig):
    """The content of params.yaml."""

    profile: str  # name of the active profile
    sources: SomeNames  # sources to prepare
    datasets: SomeNames  # datasets of the study
    # cross-fitting: the number of rounds by dataset; see `ecgforge.rounds`
    folds: dict[Name, Annotated[int, Field(ge=3, le=10)]] = {}
    # sources of the dataset `merged`; [] means that there is no such dataset
    merged: Annotated[Names, Field(max_length=MOST_MERGED)]
    generators: SomeNames  # generators to train
    backbone: Name  # the study's classifier
    sweep_targets: SweepTargets  # what the sweeps cover
    preprocessing: Preprocessing  # steps applied to every record
    gates: Gates  # conditions for promotion
    signing: Signing = Signing()  # keys that sign champions
    # patients whose records are excluded, by source; `ecgforge withdraw` writes them
    withdrawn: dict[Name, list[Annotated[str, Field(min_length=1)]]] = {}
    profiles: dict[Name, Profile]  # by name

    @property
    def active(self) -> Profile:
        return self.profiles[self.profile]

    @property
    def classifier(self) -> ClassifierSettings:
        """The settings of the study's classifier in the active profile."""
        return self.classifier_settings(self.backbone)

    @property
    def primary_generator(self) -> str:
        """The generator whose records answer the study's question; no result chooses it.

        It is the first generator of the sweeps, or of the study where the sweeps have none.
        """
        return [*self.sweep_targets.generators, *self.generators][0]

    def with_profile(self, name: str | None) -> Params:
        """Return these parameters with another active profile.

        Raises:
            EcgforgeError: the profile does not exist.
        """
        if name is None:
            return self
        if name not in self.profiles:
            raise EcgforgeError(
                f"'{name}' is not a profile; the profiles are {', '.join(self.profiles)}"
            )
        return self.model_copy(update={"profile": name})

    @property
    def rounds(self) -> list[rounds.Round]:
        """The rounds of cross-fitting of all datasets."""
        counts = [(name, self.folds[name]) for name in self.datasets if name in self.folds]
        return [one for name, count in counts for one in rounds.rounds(name, count)]

    @property
    def record_sets(self) -> list[str]:
        """The datasets, and the rounds of cross-fitting."""
        return [*self.datasets, *(one.name for one in self.rounds)]

    @property
    def ablated(self) -> list[str]:
        """The generators of the sweep `ablation`: those of the sweeps that have ablations."""
        return [name for name in self.sweep_targets.generators if self.generator(name).ablations]

    @property
    def sweep_record_sets(self) -> list[str]:
        """The datasets that the sweeps train on; for a cross-fitted one, its rounds."""
        return [
            name
            for dataset in self.sweep_targets.datasets
            for name in self.rounds_of(dataset) or [dataset]
        ]

    @property
    def equal_size_pairs(self) -> list[DatasetPair]:
        """The merged dataset to train on and a source to test on; rounds where it has them."""
        folds = self.folds.get("merged")
        return (
            [
                DatasetPair(train=train.name, test=test.name)
                for source in self.sweep_targets.equal_size
                for train, test in zip(
                    rounds.rounds("merged", folds), rounds.rounds(source, folds), strict=True
                )
            ]
            if folds
            else [
                DatasetPair(train="merged", test=source) for source in self.sweep_targets.equal_size
            ]
        )

    def rounds_of(self, dataset: str) -> list[str]:
        """Return the names of the rounds of a dataset; none where it is not cross-fitted."""
        return [one.name for one in self.rounds if one.dataset == dataset]

    def source(self, name: str) -> Source:
        """Return a source of the active profile; EcgforgeError if it does not exist."""
        return _named(name, self.active.sources, "source")

    def generator(self, name: str) -> GeneratorSettings:
        """Return a generator's settings in the active profile; EcgforgeError if there are none."""
        return _named(name, self.active.generators, "generator")

    def classifier_settings(self, backbone: str) -> ClassifierSettings:
        """Return a classifier's settings in the active profile; EcgforgeError if there are none."""
        return _named(backbone, self.active.classifiers, "classifier")

    @field_validator("merged")
    @classmethod
    def _two_or_more(cls, sources: list[str]) -> list[str]:
        if len(sources) == 1:
            raise ValueError("name two sources or more, or none for no merged dataset")
        return sources

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
        parts = [source for source in self.merged if source in self.datasets]
        pairs = [dataset for pair in targets.cross_dataset for dataset in (pair.train, pair.test)]
        if targets.equal_size and "merged" not in self.datasets:
            raise ValueError(
                "sweep_targets.equal_size: it needs the dataset 'merged'; add it to datasets, or "
                "use []"
            )
        for listed, known, where in (
            (self.merged, self.sources, "merged"),
            (self.datasets, [*self.sources, *["merged" for _ in self.merged[:1]]], "datasets"),
            (targets.datasets, self.datasets, "sweep_targets.datasets"),
            (targets.generators, self.generators, "sweep_targets.generators"),
            (targets.generator_seeds, self.generators, "sweep_targets.generator_seeds"),
            (pairs, self.datasets, "sweep_targets.cross_dataset"),
            (targets.equal_size, parts, "sweep_targets.equal_size"),
            ([*self.folds], [*self.sources, "merged"], "folds"),
        ):
            for one in listed:
                if one not in known:
                    raise ValueError(f"{where}: '{one}' is not one of {', '.join(known)}")
        for name in (*self.sources, *self.datasets):
            if rounds.parse(name):
                raise ValueError(f"'{name}' has the form of a round of cross-fitting: rename it")
        for name, profile in self.profiles.items():
            if unknown := set(profile.sweeps.seeds) - set(profile.study.seeds):
                raise ValueError(
                    f"profiles.{name}.sweeps.seeds: {min(unknown)} is not one of study.seeds"
                )
            # `match_real` makes as many synthetic records as real ones, so at most half of the
            # union.
            if profile.synthesis.train == "match_real" and profile.study.synthetic_share > 0.5:
                share = profile.study.synthetic_share
                raise ValueError(
                    f"profiles.{name}.study.synthetic_share = {share:g}: at most 0.5 with "
                    "synthesis.train = match_real; lower it, or set synthesis.train to a "
                    "number of records of each rhythm"
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
                        f"{where}: '{one}' is listed in {listed_in} but not defined here"
                    )
        return self

    @classmethod
    def read(cls, path: Path) -> Params:
        """Read and validate a whole params.yaml.

        Raises:
            EcgforgeError: the file is missing, is not YAML, or has unknown keys or bad values; the
                message names each.
        """
        tree = read_tree(path, "run this in the project's folder, or name the file with --params")
        if not isinstance(tree, dict):
            raise EcgforgeError(f"{path} has no keys: it is not a file of parameters")
        return checked(cls, tree, str(path))


def read_tree(path: Path, missing: str) -> Any:
    """Return the content of a parameter file on top of its `base`, another parameter file.

    Each key of the file replaces the same key of the base. Its profiles are added by name. If it
    names sources, the keys of the base that name datasets do not count.

    Args:
        path: the file; `base` is relative to its folder.
        missing: see `read_yaml`.

    Raises:
        EcgforgeError: see `read_yaml`; or the base has a base, too.
    """
    tree = read_yaml(path, missing)
    if not isinstance(tree, dict) or "base" not in tree:
        return tree
    named = tree.pop("base")
    if not isinstance(named, str):
        raise EcgforgeError(f"{path}: base = {named!r}: name a parameter file, such as params.yaml")
    base = read_yaml(path.parent / named, f"correct `base` in {path}")
    if not isinstance(base, dict) or "base" in base:
        raise EcgforgeError(f"{path}: base = {named!r}: name a parameter file without a base")
    profiles = [one.get("profiles") for one in (base, tree)]
    both = {
        name: profile for one in profiles if isinstance(one, dict) for name, profile in one.items()
    }
    return {**base, **_of_own_sources(tree), **tree, "profiles": both}


def _of_own_sources(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that name datasets, for a file with its own sources: each source is a
    dataset, and nothing is merged, cross-fitted or swept.
    """
    if "sources" not in tree:
        return {}
    lists = [name for name in SweepTargets.model_fields if name != "parts"]
    no_sweeps: dict[str, Any] = {name: [] for name in lists}
    return {"datasets": tree["sources"], "merged": [], "folds": {}, "sweep_targets": no_sweeps}


def read_yaml(path: Path, missing: str) -> Any:
    """Return the content of a YAML file, parsed as DVC does.

    Args:
        missing: what to do if the file does not exist; ends the error message.

    Raises:
        EcgforgeError: the file does not exist, is not YAML, or has a key twice.
    """
    try:
        return YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise EcgforgeError(f"{path} does not exist: {missing}") from None
    # ruamel raises the other two for invalid dates and numbers.
    except (YAMLError, ValueError, OverflowError) as error:
        raise EcgforgeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def merge_patch(tree: Any, patch: Any) -> Any:
    """Return `tree` with the changes in `patch`, by the rules of JSON Merge Patch (RFC 7396).

    Mappings merge key by key, null removes a key (so that its default applies), and any other value
    replaces the old one.
    """
    if not isinstance(tree, dict) or not isinstance(patch, dict):
        return patch
    merged = tree | {key: merge_patch(tree.get(key), value) for key, value in patch.items()}
    return {key: value for key, value in merged.items() if key not in patch or value is not None}


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Return values by dotted key as a tree.

    Raises:
        ValueError: a key is below a key that has a value of its own.
    """
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise ValueError(f"{key}: {part} has a value of its own")
        branch[last] = value
    return tree


def expanded(tree: Any) -> Any:
    """Return the tree of a params.yaml with every profile merged onto its `base`.

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
        raise EcgforgeError(f"'{name}' is not a {what} of the profile; it has {', '.join(known)}")
    return known[name]


def checked(section: type[S], tree: Any, where: str) -> S:
    """Validate `tree` as `section`; the error is one line that starts with `where`.

    Raises:
        EcgforgeError: names each bad key, its value, and the allowed values.
    """
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        details = _without_inherited(error.errors(), tree)
        raise EcgforgeError(
            f"{where}: " + "; ".join(_refusal(detail) for detail in details)
        ) from None


def _without_inherited(details: Sequence[Any], tree: Any) -> list[Any]:
    """Leave out a profile's errors that its base has too: they are reported at the base."""
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


_SHORT = reprlib.Repr()  # shortens long and deep values
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
    if detail["type"] == "string_pattern_mismatch":  # only names have a pattern
        reason = "a name starts with a lower-case letter, followed by letters, digits and _"
        key = key.removesuffix(".[key]")
    try:
        value = _SHORT.repr(detail["input"])
    except ValueError:
        value = "an integer with thousands of digits"
    return f"{key} = {value}: {reason}" if key else reason
