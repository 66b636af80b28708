"""A registered classifier with its preprocessing, for `ecgforge classify` and MLflow's server.

`mlflow models serve -m models:/ecg-classifier-merged@champion --env-manager local` answers POST
/invocations. A request is

    {"inputs": [{"signals": [[...], ...], "sampling_rate": 500, "leads": ["I", "II", ...],
                 "units": "mV"}, ...]}

`signals` has one row of samples per lead, as recorded. `leads` names the rows in any order; leads
other than the eight needed ones are ignored. `units` applies to all leads. The answer has one entry
per record:

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
MESSAGE_LENGTH = 300  # largest length of an error message, in characters
MOST = 1000  # largest number of records in a request
CHUNK = 64  # records per batch of the classifier


class Request(StrictConfig):
    """One record of a request; `signals` is checked as an array."""

    signals: Any
    sampling_rate: float  # Hz
    leads: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=100)]
    units: Annotated[str, Field(max_length=100)]


@dataclass(frozen=True)
class Predictor:
    """A classifier and its preprocessing.

    Attributes:
        classifier: in evaluation mode.
        preprocessing, amplitude: as for its training records.
    """

    classifier: Classifier
    preprocessing: Preprocessing
    amplitude: str

    @classmethod
    def open(cls, folder: Path, label: str) -> Predictor:
        """Read the files of a version; `label` names it in messages.

        Raises:
            EcgforgeError: they are not a classifier's, or do not state the preprocessing.
        """
        if not (folder / "classifier.json").exists():
            raise EcgforgeError(f"{label} is not a classifier")
        if not (folder / PREPROCESSING).exists():
            raise EcgforgeError(
                f"{label} does not state the preprocessing of its records: it was registered "
                "by an older ecgforge; train it again"
            )
        preprocessing, amplitude = _input_of(folder, label)
        return cls(registry.load(folder, label), preprocessing, amplitude)

    @torch.inference_mode()
    def probabilities(self, signals: np.ndarray) -> np.ndarray:
        """Return `[records, rhythms]` float64 for prepared signals, `[records, 8, samples]`."""
        return torch.softmax(self.classifier(torch.from_numpy(signals)).double(), 1).numpy()

    def predict(self, model_input: Any) -> list[dict[str, Any]]:
        """Answer a request; one unusable record makes the whole request fail.

        Raises:
            InvalidRequestError: says which record is wrong, and why.
        """
        if not isinstance(model_input, list) or not model_input:
            raise InvalidRequestError(
                "inputs must be a list of records, each with signals, sampling_rate, leads and "
                "units"
            )
        if len(model_input) > MOST:
            raise InvalidRequestError(
                f"inputs has {len(model_input)} records; at most {MOST} are allowed"
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
                    f"{where}: {len(tree)} keys; only {', '.join(Request.model_fields)} are allowed"
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


def _refusal(message: str) -> InvalidRequestError:
    return InvalidRequestError(
        console.shown(" ".join(message[: 2 * MESSAGE_LENGTH].split()))[:MESSAGE_LENGTH]
    )


def _array(request: Request, duration: float, where: str) -> np.ndarray:
    """Return the signals, `[leads, samples]`, cut to the length that is used.

    The rest of the samples is not checked, apart from the lengths of the rows.
    """
    rows = request.signals
    shape: tuple[int, ...] = ()
    while isinstance(rows, Sized) and not isinstance(rows, str | bytes | dict) and len(shape) < 3:
        shape = (*shape, len(rows))
        rows = rows[0] if len(rows) else None  # type: ignore[index]
    no_numbers = EcgforgeError(
        f"{where}: signals must be numbers, with a row for each lead, and rows of equal length"
    )
    if not shape:
        raise no_numbers
    if len(shape) != 2 or shape[0] != len(request.leads):
        raise EcgforgeError(
            f"{where}: signals has the shape {shape}, but must have a row for each of the "
            f"{len(request.leads)} leads"
        )
    rate = request.sampling_rate
    # a record with any other rate is rejected later
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
    """Return the pyfunc description of a classifier for record sets like the one of `about`.

    The record set must come from `prepare`.
    """
    preprocessing = about.made["preprocessing"]
    return Service(
        __name__,
        _example(preprocessing["duration"]),
        {PREPROCESSING: {**preprocessing, "amplitude": about.units}},
    )


def _input_of(folder: Path, label: str) -> tuple[Preprocessing, str]:
    """Return the preprocessing of a version's records, and their units.

    Raises:
        EcgforgeError: the file that states them is damaged.
    """
    tree = versions.read_json(folder, PREPROCESSING, label)
    amplitude = tree.pop("amplitude", None)
    if amplitude not in AMPLITUDES:
        raise EcgforgeError(
            f"{label}, {PREPROCESSING}: amplitude must be one of {', '.join(AMPLITUDES)}; "
            "train and register the model again"
        )
    return checked(Preprocessing, tree, f"{label}, {PREPROCESSING}"), str(amplitude)


def differences(folder: Path, about: About, label: str) -> list[str]:
    """Return how the records of `about` differ from those that a version needs.

    Empty if the version, with its files in `folder`, does not state what it needs.
    """
    if not (folder / PREPROCESSING).exists():
        return []
    (needed, amplitude), made = _input_of(folder, label), about.made.get("preprocessing", {})
    pairs = {
        "units": (amplitude, about.units),
        "sampling rate": (needed.sampling_rate, about.sampling_rate),
        "samples": (round(needed.duration * needed.sampling_rate), about.samples),
        "band": (_hertz(needed.band), _hertz(made.get("band", needed.band))),
    }
    return [
        f"{name} {here} instead of {wanted}"
        for name, (wanted, here) in pairs.items()
        if wanted != here
    ]


def _hertz(band: Sequence[float]) -> str:
    return f"[{', '.join(f'{edge:g}' for edge in band)}]"


def _example(duration: float) -> list[dict[str, Any]]:
    """Return an artificial record: 70 pulses per minute, with another amplitude in each lead."""
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


def _load_pyfunc(path: str) -> Predictor:
    """Load the version at `path`; MLflow's server calls this."""
    with signing.files_at(Path(path)) as (folder, version):
        if version and history.CHAMPION in version.aliases:
            history.warn(version.name)
        return Predictor.open(folder, version.label if version else path)
