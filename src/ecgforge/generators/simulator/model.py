"""Simulated hearts as a generator: no network is trained.

The records are those of `ecgforge.simulator`. Nonaka & Seita 2026 (arXiv 2606.10802) pre-train
classifiers on simulated single-lead ECGs.

Training records calibrate three things: the distribution of the heart rate in each rhythm, the
standard deviation of each lead, and the band-pass of the preparation. All else is that of the
simulator's population: the shapes of waves, their correlation with the rate, and the variation of
RR intervals.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from ecgforge.errors import EcgforgeError
from ecgforge.generators.common.base import Generator, Shape
from ecgforge.params import Preprocessing, StrictConfig
from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet
from ecgforge.records.rhythms import RHYTHMS
from ecgforge.simulator import heart, population
from ecgforge.simulator.noise import Recorder
from ecgforge.training.batches import in_order

SIMULATED_AT = 250  # Hz, as the simulated sources
MARGIN = 1.0  # s, in which the recorder's filters settle
LOW_PASS = 150.0  # Hz, at most: the usual corner of recorders
FEWEST = 10  # records with beats; a rhythm with fewer keeps the published rates
MEASURED = 256  # simulated records whose standard deviation gives the unit
BATCH = 256  # training records whose beats are detected at a time


class SimulatorNetwork(StrictConfig):
    """What is calibrated to the training records.

    Attributes:
        calibrated: whether heart rates are those of the training records; else those of the
            simulator's population.
    """

    calibrated: bool = True


class SimulatorSampling(StrictConfig):
    """Sampling parameters; `noise` multiplies the usual noise of electrodes, muscles and mains."""

    noise: Annotated[float, Field(ge=0, le=10)] = 1.0


class Units(nn.Module):
    """Simulated records `[batch, leads, samples]` in mV, in the units of the record set."""

    def __init__(self, factor: Tensor, standardised: bool) -> None:
        super().__init__()
        self.register_buffer("factor", factor.clone())
        self.factor: Tensor
        self.standardised = standardised

    def forward(self, signals: Tensor) -> Tensor:
        """Divide each lead by its standard deviation, or multiply it by its factor."""
        if self.standardised:
            signals = signals / signals.std(dim=2, keepdim=True, correction=0)
        return signals * self.factor


class Simulator(Generator):
    """Simulated patients, recorded and prepared like the training records.

    Attributes:
        kinds: `[rhythms]`, the place of each rhythm in `RHYTHMS`.
        rates: `[rhythms, quantiles]`, heart rates in beats/min, see `population.quantiles`.
        unit: `[leads, 1]`, 1 over the standard deviation of simulated records, per mV.
        standardised: 1 if each lead of a record has a standard deviation of 1, else 0.
        band: Hz, edges of the band-pass of the training records; zeros if there is none.
    """

    phases: ClassVar[tuple[str, ...]] = ()
    Network: ClassVar[type[StrictConfig]] = SimulatorNetwork
    Sampling: ClassVar[type[StrictConfig]] = SimulatorSampling
    kinds: Tensor
    rates: Tensor
    unit: Tensor
    standardised: Tensor
    band: Tensor

    def __init__(self, shape: Shape, network: Any, scale: Tensor) -> None:
        super().__init__(shape, network, scale)
        kinds = torch.arange(shape.rhythms) % len(RHYTHMS)
        rates = [population.quantiles(RHYTHMS[kind], "rate") for kind in kinds]
        self.register_buffer("kinds", kinds)
        self.register_buffer("rates", torch.from_numpy(np.stack(rates)))
        self.register_buffer("unit", torch.ones(shape.leads, 1))
        self.register_buffer("standardised", torch.tensor(0))
        self.register_buffer("band", torch.zeros(2, dtype=torch.float64))

    def trainable(self, phase: str) -> list[nn.Parameter]:
        """No phase trains anything: there is none."""
        raise ValueError(f"the simulator has no phase {phase}")

    def loss(
        self, signals: Tensor, labels: Tensor, phase: str, noise: torch.Generator
    ) -> dict[str, Tensor]:
        """No phase has a loss: there is none."""
        raise ValueError(f"the simulator has no phase {phase}")

    @torch.no_grad()
    def finish(self, records: RecordSet) -> None:
        """Calibrate to training records.

        Raises:
            EcgforgeError: the records have a rhythm that the simulator does not know.
        """
        about = records.about
        if unknown := [name for name in about.rhythms if name not in RHYTHMS]:
            raise EcgforgeError(
                f"the simulator has no rhythm {', '.join(unknown)}, only {', '.join(RHYTHMS)}: "
                "remove `simulator` from `generators`"
            )
        self.kinds.copy_(torch.tensor([RHYTHMS.index(name) for name in about.rhythms]))
        found = heart_rates(records)
        for label, name in enumerate(about.rhythms):
            own = found[(records.labels == label) & np.isfinite(found)]
            rates = population.quantiles(name, "rate")
            if self.network.calibrated and len(own) >= FEWEST:
                rates = np.quantile(own, population.SHARES)
            self.rates[label] = torch.from_numpy(rates)
        if prepared := about.made.get("preprocessing"):
            self.band.copy_(torch.tensor(prepared["band"]))
        self.standardised.fill_(about.units == "per_lead_std")
        places = np.linspace(0, len(records) - 1, min(MEASURED, len(records))).round().astype(int)
        signals = self._simulated(records.labels[places], places, SimulatorSampling())
        self.unit.copy_(1 / signals.std(dim=(0, 2))[:, None])

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, sampling: Any) -> Tensor:
        signals = self._simulated(labels.cpu().numpy(), seeds.cpu().numpy(), sampling)
        return self._units()(signals.to(self.scale.device))

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Return the change of units, the only part in torch."""
        samples = torch.arange(2 * self.shape.leads * self.shape.samples) % 7
        return self._units(), (samples.float().reshape(2, self.shape.leads, -1),)

    def _units(self) -> Units:
        if self.standardised:
            return Units(self.scale, True)
        return Units(self.unit * self.scale, False)

    def _simulated(self, labels: np.ndarray, seeds: np.ndarray, sampling: Any) -> Tensor:
        """Return prepared records in mV, `[batch, leads, samples]`."""
        rate, samples = self.shape.sampling_rate, self.shape.samples
        patients, hearts, moments = zip(
            *[self._patient(label, seed) for label, seed in zip(labels, seeds, strict=True)],
            strict=True,
        )
        seconds = math.ceil(samples / rate)
        ecg = heart.simulate(
            pd.concat(patients, ignore_index=True), hearts, moments, SIMULATED_AT, seconds, MARGIN
        )
        recorded = self._recorder(sampling.noise).record(ecg.signals, moments, SIMULATED_AT)
        signals = recorded[..., round(MARGIN * rate) :][..., :samples]
        if self.band.any():
            from ecgforge.preparation.preprocessing import prepare_signal  # slow to import

            band = (float(self.band[0]), float(self.band[1]))
            prepared = Preprocessing(
                sampling_rate=rate, duration=samples / rate, band=band, max_amplitude=1
            )
            signals = prepare_signal(signals, rate, prepared)
        return torch.from_numpy(np.ascontiguousarray(signals, dtype=np.float32))

    def _patient(
        self, label: int, seed: int
    ) -> tuple[pd.DataFrame, np.random.Generator, np.random.Generator]:
        """Draw a patient, with random generators for the heart and for the moment."""
        own, of_heart, of_moment = (np.random.default_rng([seed, part]) for part in range(3))
        name = RHYTHMS[int(self.kinds[label])]
        rates = {name: self.rates[label].cpu().numpy()}
        return population.draw(np.array([name]), own, rates), of_heart, of_moment

    def _recorder(self, noise: float) -> Recorder:
        """Return the recorder of the simulated PTB-XL, with another rate and level of noise."""
        rate = self.shape.sampling_rate
        return Recorder(
            rate,
            high_pass=0.05,
            low_pass=min(LOW_PASS, 0.4 * rate),
            wander=26 * noise,
            muscle=4 * noise,
            mains=3 * noise,
            spread=0.7,
            mains_frequency=50,
            gain=0.02,
        )


def heart_rates(records: RecordSet) -> np.ndarray:
    """Return the heart rate of each record, beats/min; NaN with fewer than two beats."""
    rate = records.about.sampling_rate
    found = []
    for index in in_order(len(records), BATCH):
        for peaks in beats.detect(records.signals(index), rate):
            found.append(60 * rate / np.diff(peaks).mean() if len(peaks) > 1 else np.nan)
    return np.array(found)
