"""A registered classifier with the preprocessing that it was trained on: what `ecgforge classify`
calls, and what MLflow serves.

`mlflow models serve -m models:/ecg-classifier-merged@champion --env-manager local` answers POST
/invocations. A request is

    {"inputs": [{"signals": [[...], ...], "sampling_rate": 500, "leads": ["I", "II", ...], "units":
    "mV"}, ...]}

where `signals` has a row of samples a lead, as they were recorded, `leads` names the rows, in any
order and with others beside the eight that are needed, and `units` is what every lead is in. The
answer is, record by record,

    {"predictions": [{"rhythm": "AFIB", "probabilities": {"SR": 0.02, ..., "AFIB": 0.91, ...}},
    ...]}
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from ecgforge import console
from ecgforge.classifiers.common import registry
from ecgforge.classifiers.common.base import Classifier
from ecgforge.errors import EcgforgeError
from ecgforge.model_versions import history, signing, versions
from ecgforge.model_versions.invalid_request import InvalidRequestError
from ecgforge.model_versions.pyfunc_signature import Service
from ecgforge.params import Preprocessing, StrictConfig, checked
from ecgforge.preparation.preprocessing import prepare_recording
from ecgforge.records.exclusions import BadRecord
from ecgforge.records.leads import LEADS
from ecgforge.records.record_set import About
from ecgforge.wfdb_io import files as wfdb_files
from ecgforge.wfdb_io.files import MAX_RATE

PREPROCESSING = "preprocessing.json"
AMPLITUDES = ("mV", "per_lead_std")
MESSAGE_LENGTH = 300  # characters of a refusal, at most
MOST = 1000  # records in a request
CHUNK = 64  # of them that the classifier sees at a time


class Request(StrictConfig):
    """One record of a request; `signals` is looked at as an array."""

    signals: Any
    sampling_rate: float  # Hz
    leads: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=100)]
    units: Annotated[str, Field(max_length=100)]


@dataclass(frozen=True)
class Judge:
    """A classifier, and how a recording becomes what it takes.

    Attributes:
        classifier: in evaluation mode.
        preprocessing, amplitude: as the records that it was trained on were prepared.
    """

    classifier: Classifier
    preprocessing: Preprocessing
    amplitude: str

    @classmethod
    def open(cls, folder: Path, label: str) -> Judge:
        """Read a version's files, whose label is for messages.

        Raises:
            EcgforgeError: they are not a classifier's, or of a version that does not know its
                preprocessing.
        """
        if not (folder / "classifier.json").exists():
            raise EcgforgeError(f"{label} is no classifier")
        if not (folder / PREPROCESSING).exists():
            raise EcgforgeError(
                f"{label} does not say how its records were prepared: it was registered by an "
                "older ecgforge; train it again"
            )
        preprocessing, amplitude = _taken(folder, label)
        return cls(registry.load(folder, label), preprocessing, amplitude)

    @torch.inference_mode()
    def probabilities(self, signals: np.ndarray) -> np.ndarray:
        """Return `[records, rhythms]` float64 for prepared signals, `[records, 8, samples]`."""
        return torch.softmax(self.classifier(torch.from_numpy(signals)).double(), 1).numpy()

    def predict(self, model_input: Any) -> list[dict[str, Any]]:
        """Answer a request, whole: one record that cannot be used refuses it.

        Raises:
            InvalidRequestError: says which record is wrong, and what is wrong with it.
        """
        if not isinstance(model_input, list) or not model_input:
            raise InvalidRequestError(
                "inputs must be a list of records, each with signals, sampling_rate, leads and "
                "units"
            )
        if len(model_input) > MOST:
            raise InvalidRequestError(
                f"inputs has {len(model_input)} records, and at most {MOST} are taken at a time"
            )
        signals = np.stack(
            [self._prepared(tree, f"inputs[{number}]") for number, tree in enumerate(model_input)]
        )
        rhythms = self.classifier.rhythms
        return [
            {
                "rhythm": rhythms[int(row.argmax())],
                "probabilities": dict(zip(rhythms, row.tolist(), strict=True)),
            }
            for start in range(0, len(signals), CHUNK)
            for row in self.probabilities(signals[start : start + CHUNK])
        ]

    def _prepared(self, tree: Any, where: str) -> np.ndarray:
        try:
            if isinstance(tree, dict) and len(tree) > 2 * len(Request.model_fields):
                raise EcgforgeError(
                    f"{where}: {len(tree)} keys, and it has {', '.join(Request.model_fields)} alone"
                )
            request = checked(Request, tree, where)
            signals = _array(request, self.preprocessing.duration, where)
            units = [request.units] * len(request.leads)
            recording = wfdb_files.arranged(signals, request.sampling_rate, request.leads, units)
            return prepare_recording(recording, self.preprocessing, self.amplitude)
        except BadRecord as bad:
            raise _refusal(f"{where}: {bad.reason}: {bad.detail}") from None
        except EcgforgeError as error:
            raise _refusal(str(error)) from None


def _refusal(told: str) -> InvalidRequestError:
    return InvalidRequestError(
        console.shown(" ".join(told[: 2 * MESSAGE_LENGTH].split()))[:MESSAGE_LENGTH]
    )


def _array(request: Request, duration: float, where: str) -> np.ndarray:
    """Return the signals, `[leads, samples]`, as much of them as is used; no more is looked at than
    their lengths.
    """
    rows = request.signals
    shape: tuple[int, ...] = ()
    while isinstance(rows, Sized) and not isinstance(rows, str | bytes | dict) and len(shape) < 3:
        shape = (*shape, len(rows))
        rows = rows[0] if len(rows) else None  # type: ignore[index]
    no_numbers = EcgforgeError(
        f"{where}: signals must be numbers, a row for each lead, and rows of one length"
    )
    if not shape:
        raise no_numbers
    if len(shape) != 2 or shape[0] != len(request.leads):
        raise EcgforgeError(
            f"{where}: signals has the shape {shape}, and needs a row for each of the "
            f"{len(request.leads)} leads named"
        )
    rate = request.sampling_rate
    # a record of any other rate is refused for it
    used = math.ceil(duration * rate) + 1 if 0 < rate <= MAX_RATE else 1
    try:
        if any(len(row) != shape[1] for row in request.signals):
            raise no_numbers
        signals = np.asarray([row[:used] for row in request.signals], dtype=np.float64)
    except (TypeError, ValueError, OverflowError, KeyError, RecursionError):
        raise no_numbers from None
    if signals.ndim != 2:
        raise no_numbers
    return signals


def service(about: About) -> Service:
    """Return how MLflow serves a classifier of record sets like that which `about` describes, one
    that `prepare` made.
    """
    preprocessing = about.made["preprocessing"]
    return Service(
        __name__,
        _example(preprocessing["duration"]),
        {PREPROCESSING: {**preprocessing, "amplitude": about.units}},
    )


def _taken(folder: Path, label: str) -> tuple[Preprocessing, str]:
    """How the records that a version takes are prepared, and their units;

    EcgforgeError where the file that says so is damaged.
    """
    tree = versions.read_json(folder, PREPROCESSING, label)
    amplitude = tree.pop("amplitude", None)
    if amplitude not in AMPLITUDES:
        raise EcgforgeError(
            f"{label}, {PREPROCESSING}: amplitude is none of {', '.join(AMPLITUDES)}; train and "
            "register the model again"
        )
    return checked(Preprocessing, tree, f"{label}, {PREPROCESSING}"), str(amplitude)


def differences(folder: Path, about: About, label: str) -> list[str]:
    """Say in what the records that `about` describes differ from those that the version with its
    files in `folder` takes; nothing where it does not say what it takes.
    """
    if not (folder / PREPROCESSING).exists():
        return []
    (taken, amplitude), made = _taken(folder, label), about.made.get("preprocessing", {})
    pairs = {
        "units": (amplitude, about.units),
        "sampling rate": (taken.sampling_rate, about.sampling_rate),
        "samples": (round(taken.duration * taken.sampling_rate), about.samples),
        "band": (_hertz(taken.band), _hertz(made.get("band", taken.band))),
    }
    return [
        f"{name} {here} in place of {wanted}"
        for name, (wanted, here) in pairs.items()
        if wanted != here
    ]


def _hertz(band: Sequence[float]) -> str:
    return f"[{', '.join(f'{edge:g}' for edge in band)}]"


def _example(duration: float) -> list[dict[str, Any]]:
    """A record of no patient: 70 pulses a minute, each lead with an amplitude of its own."""
    rate = 100  # Hz
    phase = np.arange(round(duration * rate)) / rate * 70 / 60 % 1 - 0.5
    pulses = np.linspace(0.5, 1.2, len(LEADS))[:, None] * np.exp(-0.5 * (phase / 0.03) ** 2)
    return [
        {
            "signals": pulses.round(2).tolist(),
            "sampling_rate": rate,
            "leads": list(LEADS),
            "units": "mV",
        }
    ]


def _load_pyfunc(path: str) -> Judge:
    """What MLflow calls to serve the version whose files it has put at `path`."""
    with signing.files_at(Path(path)) as (folder, version):
        if version and history.CHAMPION in version.aliases:
            history.warn(version.name)
        return Judge.open(folder, version.label if version else path)
