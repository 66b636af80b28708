"""The public Python API: load records, train a generator, generate records, score them, and test
whether they help a classifier. It needs neither DVC nor MLflow.

Signals are in mV, or in standard deviations of each lead, as `RecordSet.about.units` says. They
have the leads I, II and V1 to V6. For a wrong input, functions raise `EcgforgeError` with a message
of one line.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from ecgforge.analysis import statistics
from ecgforge.classifiers.common import registry as classifiers
from ecgforge.classifiers.common.base import Classifier, probabilities
from ecgforge.errors import EcgforgeError
from ecgforge.generators import synthesis
from ecgforge.generators import train as training
from ecgforge.generators.common import registry as generators
from ecgforge.generators.common.base import Generator
from ecgforge.params import Params, Preparation, SimulatedSource, Training
from ecgforge.preparation.prepare import RawSource, prepare
from ecgforge.quality import assess
from ecgforge.quality.flags import beyond_baseline
from ecgforge.records.record_set import RecordSet
from ecgforge.report import ecg_paper
from ecgforge.sources import folder as own
from ecgforge.sources import found, own_table, simulated
from ecgforge.sources.layouts import LAYOUTS
from ecgforge.stages import parameters
from ecgforge.tracking.store import checkout
from ecgforge.training import fit
from ecgforge.training.batches import Records
from ecgforge.workers import for_records

T = TypeVar("T", bound=Training)
Log = Callable[[dict[str, float], int], None]
SEED = 100  # of sampling, as in `params.Synthesis`


class Svg(str):
    """A drawing as SVG text; a notebook shows it as a picture."""

    def _repr_svg_(self) -> str:
        return str(self)


def load_params(path: str | Path | None = None, profile: str | None = None) -> Params:
    """Read a parameter file, with all defaults filled in.

    Args:
        path: the file; by default `params.yaml` of this folder or the nearest one above it.
        profile: a profile other than the active one.

    Raises:
        EcgforgeError: the file is missing, or a parameter is invalid; names the key.
    """
    return parameters.read(Path(path) if path else checkout() / "params.yaml", profile=profile)


def load_records(
    folder: str | Path,
    *,
    table: str | None = None,
    labels: Mapping[str, str | None] | None = None,
    units: Literal["mV", "per_lead_std"] = "mV",
    min_records: int = 5,
    params: Params | None = None,
    out: str | Path | None = None,
) -> RecordSet:
    """Load a folder of WFDB, EDF or DICOM files as a record set, split by patient. Or open a folder
    that is a record set already; then the other arguments have no effect.

    The rhythms and patients are in a CSV of the folder, or in the comments of the headers, as for
    `ecgforge init`. Records that cannot be used are in `excluded.csv` of the set's folder.

    Args:
        folder: the files, or a record set that a function or a stage wrote.
        table: the CSV in the folder, if several tables fit.
        labels: the rhythm or code of each label that ecgforge does not know; None ignores a label.
        units: `mV`, or `per_lead_std` to divide each lead by its standard deviation.
        min_records: rhythms with fewer records are left out.
        params: of the preprocessing; by default `load_params()`.
        out: a new folder for the set; by default a temporary one, removed when Python ends.

    Returns:
        The set. `signals()` is float32 `[records, 8, samples]`, at `about.sampling_rate` Hz.

    Raises:
        EcgforgeError: the folder has no records, labels or patients, or too many damaged files.
    """
    home = Path(folder)
    if (home / "about.json").exists():
        return RecordSet.open(home)
    settings = found.source(home, table)
    listed = found.labels(own_table.read(home, settings)["rhythm"].tolist())
    known = {label.text: label.code for label in listed if label.code and not label.is_code}
    settings = settings.model_copy(update={"map": known | dict(labels or {})})
    raw = _scratch() / "raw"
    own.fetch(raw, settings)
    simulated_here = any((raw / mark).exists() for mark in own.MARKS)
    source = RawSource(raw, own.catalogue(raw), own.RHYTHM_CODES, own.OTHER_RHYTHMS, simulated_here)
    return _prepared(source, "records", units, min_records, params, out)


def simulate_records(
    count: int = 400,
    *,
    seed: int = 0,
    min_records: int = 5,
    params: Params | None = None,
    out: str | Path | None = None,
) -> RecordSet:
    """Return a record set of simulated patients, to try the other functions without your records.

    Args:
        count: the number of simulated records.
        seed: of the simulation.
        min_records: rhythms with fewer records are left out.
        params, out: see `load_records`.

    Returns:
        The set, in mV.
    """
    raw, layout = _scratch() / "raw", LAYOUTS["ptbxl"]
    settings = SimulatedSource(kind="simulated", layout="ptbxl", records=count, seed=seed)
    simulated.write(raw, settings)
    source = RawSource(
        raw, layout.catalogue(raw), layout.RHYTHM_CODES, layout.OTHER_RHYTHMS, simulated=True
    )
    return _prepared(source, "simulated", "mV", min_records, params, out)


def train_generator(
    records: RecordSet,
    name: str = "diffwave",
    *,
    steps: int | None = None,
    seed: int | None = None,
    params: Params | None = None,
    log: Log | None = None,
) -> Generator:
    """Train a generator on the training split of a record set.

    Args:
        records: a set with training and validation records.
        name: diffwave, time_diffusion, time_vqvae, beat_diffusion or simulator.
        steps: optimiser steps of each phase; by default those of the parameters.
        seed: of the training; by default that of the parameters.
        params: with the generator's parameters; by default `load_params()`.
        log: is called with the losses and the step at each evaluation.

    Returns:
        The generator, on the CPU. It generates the rhythms of `records.about.rhythms`.

    Raises:
        EcgforgeError: the generator is unknown, or the loss is not finite.
    """
    used = params or load_params()
    settings = used.generator(name)
    phases = {phase: _shortened(one, steps) for phase, one in settings.training.items()}
    update: dict[str, Any] = {"training": phases} | ({} if seed is None else {"seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        return training.train(
            name,
            settings.model_copy(update=update),
            records,
            used.active.compute,
            Path(folder),
            log or _nothing,
        )


def synthesize(
    generator: Generator,
    records: RecordSet,
    count: int | Mapping[str, int],
    *,
    sampling: Mapping[str, Any] | None = None,
    seed: int = SEED,
    params: Params | None = None,
    out: str | Path | None = None,
) -> RecordSet:
    """Generate synthetic records.

    Args:
        generator: a trained generator.
        records: the set that trained the generator. The synthetic set has the same rhythms, units
            and length of records.
        count: records of each rhythm, or a mapping from rhythms to their numbers of records. All
            are in the training split.
        sampling: parameters of the sampling that differ from `params`. For Beat-Diffusion,
            `{"heart_rate": 120}` asks for 120 beats/min.
        seed: the same seed gives the same records; a larger set contains the smaller one.
        params: with the sampling of the generator; by default `load_params()`.
        out: a new folder for the set; by default a temporary one.

    Returns:
        The synthetic set.

    Raises:
        EcgforgeError: a rhythm is unknown or cannot have the heart rate, a sampling parameter is
            invalid, or a signal is not finite.
    """
    rhythms = records.about.rhythms
    wanted = dict(count) if isinstance(count, Mapping) else dict.fromkeys(rhythms, count)
    if unknown := [rhythm for rhythm in wanted if rhythm not in rhythms]:
        raise EcgforgeError(
            f"the records have no rhythm {', '.join(unknown)}: use {', '.join(rhythms)}"
        )
    used, name = params or load_params(), generators.generator_name(type(generator))
    chosen = {**used.generator(name).sampling, **(sampling or {})}
    folder = _folder(out, "synthetic")
    synthesis.synthesize(
        generator,
        name,
        chosen,
        {"train": wanted},
        used.active.synthesis.model_copy(update={"seed": seed}),
        used.active.compute,
        records,
        {"generator": name, "sampling": chosen, "seed": seed},
        folder,
    )
    return RecordSet.open(folder)


def draw(records: RecordSet, number: int = 0, title: str | None = None) -> Svg:
    """Draw a record on ECG paper, with 25 mm/s and 10 mm/mV.

    Args:
        records: a set, or a part of one.
        number: the position of the record in `records`, from 0.
        title: above the drawing; by default the rhythm and the id.

    Raises:
        EcgforgeError: there is no record with this number.
    """
    if not 0 <= number < len(records):
        raise EcgforgeError(f"there is no record {number}: the set has {len(records)} records")
    row = records.records.iloc[number]
    signals = records.signals(slice(number, number + 1))[0]
    about = records.about
    words = title if title is not None else f"{row['rhythm']}, {row['id']}"
    return Svg(ecg_paper.sheet(signals, about.sampling_rate, about.units, words))


def score(real: RecordSet, synthetic: RecordSet, *, params: Params | None = None) -> pd.DataFrame:
    """Compute the quality scores of synthetic records, with their real-vs-real baselines.

    Args:
        real: a set with training and test records; the generator learned from the training ones.
        synthetic: a set whose training records are scored.
        params: with the sizes of the samples; by default `load_params()`.

    Returns:
        A row for each rhythm (or `all`) and metric: value, low and high (95 % interval), baseline,
        negative_control, and beyond: whether the score is farther from the baseline than chance
        explains. `docs/explanation/quality.md` explains the scores and their units.

    Raises:
        EcgforgeError: the sets have different rates, lengths or units, or too few records.
    """
    settings = (params or load_params()).active.quality
    parts = real.split("train"), real.split("test"), synthetic.split("train")
    scores, _ = assess.assess(*parts, settings)
    return scores.assign(beyond=beyond_baseline(scores))


def train_classifier(
    real: RecordSet,
    synthetic: RecordSet | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    params: Params | None = None,
) -> Classifier:
    """Train a rhythm classifier on real records, or on real and synthetic ones.

    Args:
        real: a set with training and validation records; the latter choose the best weights.
        synthetic: a set whose training records are added to the real ones.
        steps: optimiser steps; by default those of the parameters.
        seed: of the training.
        params: with the classifier's parameters; by default `load_params()`.

    Returns:
        The classifier, on the CPU. It knows the rhythms of `real.about.rhythms`.

    Raises:
        EcgforgeError: the sets have different rhythms, or the loss is not finite.
    """
    if synthetic and synthetic.about.rhythms != real.about.rhythms:
        raise EcgforgeError(
            f"the sets have different rhythms: {', '.join(real.about.rhythms)}, and "
            f"{', '.join(synthetic.about.rhythms)}"
        )
    used = params or load_params()
    settings = used.classifier
    train = [one.split("train") for one in (real, synthetic) if one]
    scale = Records(train).scale()
    classifier = classifiers.create(settings, real.about.rhythms, scale, seed)
    with tempfile.TemporaryDirectory() as folder:
        fit.fit(
            classifier.objective(),
            train,
            [real.split("validation")],
            _shortened(settings.training, steps),
            used.active.compute,
            seed=seed,
            folder=Path(folder),
            log=_nothing,
        )
    return classifier.eval()


def classify(classifier: Classifier, records: RecordSet) -> pd.DataFrame:
    """Classify the records of a set, or of a part of one.

    Args:
        classifier: trained on records with the same preprocessing and units.
        records: the records; `load_records` prepares WFDB files. The command `ecgforge classify`
            takes WFDB files without labels.

    Returns:
        A row for each record: id, rhythm (the most probable one), and a column for each rhythm with
        its probability.
    """
    found = probabilities(classifier, records)
    rhythms = [classifier.rhythms[place] for place in found.argmax(axis=1)]
    table = pd.DataFrame({"id": records.records["id"].to_numpy(), "rhythm": rhythms})
    return table.join(pd.DataFrame(found, columns=list(classifier.rhythms)))


def evaluate(
    trained: Classifier | Sequence[Classifier],
    records: RecordSet,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Test a classifier on the test split of a record set.

    Args:
        trained: a classifier, or several that differ in the seed of the training.
        records: real records.
        confidence: of the intervals.
        resamples: of the bootstrap over patients and seeds.

    Returns:
        A row for each rhythm (or `macro`) and metric, such as `f1`: mean, low, high, seeds.

    Raises:
        EcgforgeError: a classifier does not know the rhythms of the records.
    """
    test = records.split("test")
    return statistics.interval(
        test.labels,
        _of_all(trained, test),
        test.records["patient"].to_numpy(),
        test.about.rhythms,
        confidence=confidence,
        resamples=resamples,
        seed=0,
    )


def compare(
    first: Classifier | Sequence[Classifier],
    second: Classifier | Sequence[Classifier],
    records: RecordSet,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Return how much better the second classifiers are than the first, on the same test records.

    Args:
        first: such as classifiers that were trained on real records. With several seeds, the
            interval includes the variation between trainings.
        second: such as classifiers that were trained on real and synthetic records.
        records: real records; their test split is used.
        confidence: of the intervals.
        resamples: of the bootstrap over patients and seeds.

    Returns:
        A row for each rhythm (or `macro`) and metric: estimate, low, high, p.

    Raises:
        EcgforgeError: a classifier does not know the rhythms of the records.
    """
    test = records.split("test")
    return statistics.difference(
        test.labels,
        _of_all(first, test),
        _of_all(second, test),
        test.records["patient"].to_numpy(),
        test.about.rhythms,
        confidence=confidence,
        resamples=resamples,
        seed=0,
    )


def save(model: Generator | Classifier, folder: str | Path) -> None:
    """Write a generator or a classifier to a folder: its weights and a description, but no code.

    Raises:
        EcgforgeError: the folder exists and has other files.
    """
    home = Path(folder)
    if home.exists() and not _is_model(home):
        raise EcgforgeError(f"{home} exists and has no model: name a new folder")
    if isinstance(model, Generator):
        generators.save(model, home)
        return
    names = classifiers.CLASSIFIERS
    backbone = next(name for name in names if classifiers.classifier_class(name) is type(model))
    classifiers.save(model, backbone, home)


def load(folder: str | Path) -> Generator | Classifier:
    """Read a generator or a classifier that `save` or a stage wrote, on the CPU.

    Raises:
        EcgforgeError: the folder has no model, or an incomplete one.
    """
    home = Path(folder)
    if (home / generators.DESCRIPTION).exists():
        return generators.load(home)
    return classifiers.load(home).eval()


def _is_model(folder: Path) -> bool:
    known = {generators.DESCRIPTION, classifiers.DESCRIPTION, "weights.safetensors"}
    return folder.is_dir() and {file.name for file in folder.iterdir()} <= known


def _of_all(trained: Classifier | Sequence[Classifier], test: RecordSet) -> np.ndarray:
    """Return the probabilities of all classifiers, `[classifiers, records, rhythms]`."""
    every = [trained] if isinstance(trained, Classifier) else trained
    for one in every:
        if tuple(one.rhythms) != test.about.rhythms:
            raise EcgforgeError(
                f"the classifier knows {', '.join(one.rhythms)}, and the records have "
                f"{', '.join(test.about.rhythms)}"
            )
    return np.stack([probabilities(one, test) for one in every])


def _prepared(
    source: RawSource,
    name: str,
    units: Literal["mV", "per_lead_std"],
    min_records: int,
    params: Params | None,
    out: str | Path | None,
) -> RecordSet:
    folder = _folder(out, "prepared")
    settings = Preparation(min_records=min_records, amplitude=units)
    used = params or load_params()
    workers = for_records(len(source.catalogue))
    prepare({name: source}, folder, used.preprocessing, settings, workers)
    return RecordSet.open(folder)


def _shortened(settings: T, steps: int | None) -> T:
    """Return the settings with about as many steps: a multiple of the steps between evaluations."""
    if steps is None:
        return settings
    if steps < 1:
        raise EcgforgeError(f"{steps} steps: use 1 or more")
    evaluations = max(1, round(steps / settings.evaluate_every))
    every = -(-steps // evaluations)
    update = {
        "steps": every * evaluations,
        "evaluate_every": every,
        "warmup_steps": min(settings.warmup_steps, steps // 4),
    }
    return settings.model_copy(update=update)


def _folder(out: str | Path | None, name: str) -> Path:
    if out is None:
        return _scratch() / name
    if Path(out).exists():
        raise EcgforgeError(f"{out} exists already: name a new folder")
    return Path(out)


def _scratch() -> Path:
    """Return a new temporary folder, removed at the end of Python."""
    folder = tempfile.mkdtemp(prefix="ecgforge-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _nothing(metrics: dict[str, float], step: int) -> None:
    """Log nothing."""
