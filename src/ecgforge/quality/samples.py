"""Comparable samples of real and synthetic records: equal in size and rhythms, with measurements of
each record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from ecgforge.errors import EcgforgeError
from ecgforge.params import Quality
from ecgforge.quality import coherence, distribution, physiology, spectrum, waves
from ecgforge.quality.flags import ALL
from ecgforge.quality.memorisation import Embedded
from ecgforge.quality.stored import Stored
from ecgforge.records import beats
from ecgforge.records.record_set import RecordSet

FEWEST = 5  # records of a rhythm in each sample; rhythms with fewer are left out
PART = 64  # records read and measured at a time; the spectra of more leave the cache
# principal components for the Fréchet distance; with too many for the number of records, noise
# dominates
COMPONENTS = 32

Embed = Callable[[np.ndarray], np.ndarray]  # signals to `[records, features]`


@dataclass(frozen=True)
class Sample:
    """A sample of records with its measurements.

    Attributes:
        patients: `[records]`.
        rhythms: `[records]`, sorted by rhythm, equal in all compared samples.
        measures: `physiology.measure`, `waves.measure` and `spectrum.band_power` of the records.
        features: of a label-free embedding, `[records, features]`.
        judged: features of a classifier, or None.
        spectra, correlations: see `spectrum.log_psd` and `coherence.correlations`.
    """

    patients: np.ndarray
    rhythms: np.ndarray
    measures: pd.DataFrame
    features: np.ndarray
    judged: np.ndarray | None
    spectra: np.ndarray
    correlations: np.ndarray

    def by_rhythm(self) -> Iterator[tuple[str, Sample]]:
        """Yield `ALL` with the sample, and then each rhythm with its part."""
        yield ALL, self
        for rhythm in pd.unique(self.rhythms):
            chosen = self.rhythms == rhythm
            parts: dict[str, Any] = {
                field.name: None if part is None else part[chosen]
                for field in fields(self)
                for part in [getattr(self, field.name)]
            }
            yield rhythm, Sample(**parts)

    @property
    def embeddings(self) -> dict[str, np.ndarray]:
        """The embedded records, by the name of the Fréchet distance."""
        named = {"frechet": self.features, "frechet_classifier": self.judged}
        return {name: features for name, features in named.items() if features is not None}

    @cached_property
    def axes(self) -> dict[str, PCA]:
        """The first principal components of `embeddings`."""
        return {
            name: PCA(min(COMPONENTS, *features.shape), svd_solver="full").fit(features)
            for name, features in self.embeddings.items()
        }


class Samples:
    """Samples of equal size, with one record per patient and equal numbers of each rhythm.

    Samples with different mixes of rhythms would differ for this reason alone. Rhythms with fewer
    than `FEWEST` records for each sample are left out.

    Attributes:
        reference: held-out real records, with training records if there are too few.
        embedding: the embedding, fitted to the reference.
        test, train, made: all held-out, training and synthetic records, embedded.
    """

    def __init__(
        self,
        real_train: RecordSet,
        real_test: RecordSet,
        synthetic: RecordSet,
        settings: Quality,
        classifier: Embed | None = None,
    ):
        """Choose the records.

        Raises:
            EcgforgeError: the sets have different formats of records, or no rhythm has enough
                records in all sets.
        """
        _check_comparable(real_train, real_test, synthetic)
        self._rng = np.random.default_rng(settings.seed)
        self._real, self._synthetic, self._classifier = (
            [real_test, real_train],
            synthetic,
            classifier,
        )
        real, generated = _shuffled(self._real, self._rng), _shuffled([synthetic], self._rng)
        sizes = _sizes(real, generated, settings.records)
        if not sizes:
            raise EcgforgeError(
                f"{synthetic.folder} and {real_train.folder} have no rhythm with {2 * FEWEST} real "
                f"patients and {FEWEST} synthetic "
                "records: quality needs more records of a rhythm"
            )
        by_rhythm = {rhythm: real[real["rhythm"] == rhythm] for rhythm in sizes}
        first = pd.concat([by_rhythm[rhythm].head(size) for rhythm, size in sizes.items()])
        self._last = pd.concat([by_rhythm[rhythm].tail(size) for rhythm, size in sizes.items()])
        self._made = pd.concat(
            [generated[generated["rhythm"] == rhythm].head(size) for rhythm, size in sizes.items()]
        )
        signals = _load(self._real, first)
        self.embedding = distribution.Embedding.fit(signals, settings.seed)
        self.test, self.train, self.made = (
            _embedded(records, self.embedding) for records in (real_test, real_train, synthetic)
        )
        self.reference = self._measured(first, signals, signals, self._features(first))

    def synthetic(self) -> Sample:
        """Return the sample of synthetic records."""
        signals = _load([self._synthetic], self._made)
        features = self.made[0][self._made["row"].to_numpy()]
        return self._measured(self._made, signals, signals, features)

    def bounds(self) -> tuple[Sample, Sample]:
        """Return the samples of the real-vs-real baseline and of the negative control.

        The baseline has training records of other patients. The negative control has surrogates of
        these, without beats. Surrogates keep spectra and correlations between leads, so these are
        measured on white noise with the standard deviation of each lead.
        """
        signals = _load(self._real, self._last)
        beatless = distribution.surrogates(signals, self._rng)
        noise = signals.std(axis=-1, keepdims=True) * self._rng.standard_normal(
            signals.shape, dtype=np.float32
        )
        return (
            self._measured(self._last, signals, signals, self._features(self._last)),
            self._measured(self._last, beatless, noise, self.embedding(beatless)),
        )

    def _features(self, table: pd.DataFrame) -> np.ndarray:
        """Return the features of the real records of `table`, in its order."""
        found = np.empty((len(table), self.train[0].shape[1]))
        for number, (features, _) in enumerate((self.test, self.train)):
            chosen = (table["set"] == number).to_numpy()
            found[chosen] = features[table["row"].to_numpy()[chosen]]
        return found

    def _measured(
        self,
        table: pd.DataFrame,
        signals: np.ndarray,
        for_spectra: np.ndarray,
        features: np.ndarray,
    ) -> Sample:
        starts = range(0, len(signals), PART)
        parts = [slice(start, start + PART) for start in starts]
        measures, spectra, correlations = zip(
            *(self._measures(signals[part], for_spectra[part]) for part in parts), strict=True
        )
        return Sample(
            table["patient"].to_numpy(),
            table["rhythm"].to_numpy(),
            pd.concat(measures, ignore_index=True),
            features,
            self._classifier(signals) if self._classifier else None,
            np.concatenate(spectra),
            np.concatenate(correlations),
        )

    def _measures(
        self, signals: np.ndarray, for_spectra: np.ndarray
    ) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        """Return the measures, spectra and correlations of records; see `Sample`."""
        about = self._synthetic.about
        places = beats.detect(signals, about.sampling_rate)
        spectra, powers = spectrum.measure(for_spectra, about.sampling_rate)
        measures = [
            physiology.of_peaks(places, about.sampling_rate),
            waves.measure(signals, about.sampling_rate, about.units, places),
            powers,
        ]
        return pd.concat(measures, axis=1), spectra, coherence.correlations(for_spectra)


def _check_comparable(real_train: RecordSet, real_test: RecordSet, synthetic: RecordSet) -> None:
    for other in (real_test, synthetic):
        for name in ("sampling_rate", "samples", "units"):
            expected, found = getattr(real_train.about, name), getattr(other.about, name)
            if expected != found:
                raise EcgforgeError(
                    f"{other.folder} cannot be compared with {real_train.folder}: {name} is "
                    f"{found} there and {expected} here; "
                    "prepare both with the same parameters"
                )


def _shuffled(sets: list[RecordSet], rng: np.random.Generator) -> pd.DataFrame:
    """Return the sets' tables, each in random order, with one record per patient."""
    tables = [
        records.records.assign(set=number, row=np.arange(len(records)))
        for number, records in enumerate(sets)
    ]
    table = pd.concat([part.iloc[rng.permutation(len(part))] for part in tables], ignore_index=True)
    table["patient"] = table["patient"].fillna(table["id"])
    return table.drop_duplicates("patient")


def _sizes(real: pd.DataFrame, generated: pd.DataFrame, records: int) -> dict[str, int]:
    """Return the number of records of each rhythm: an equal share of `records`, or all available
    records if there are fewer.
    """
    most = (
        np.minimum(real["rhythm"].value_counts() // 2, generated["rhythm"].value_counts())
        .dropna()
        .astype(int)
    )
    enough = most[most >= FEWEST].sort_index()
    return {
        rhythm: min(size, max(FEWEST, records // len(enough))) for rhythm, size in enough.items()
    }


def _load(sets: list[RecordSet], table: pd.DataFrame) -> np.ndarray:
    """Return the signals of the rows of `table`, in its order, `[records, 8, samples]`."""
    signals = np.empty((len(table), *sets[0].signals(slice(0, 0)).shape[1:]), dtype=np.float32)
    for number, records in enumerate(sets):
        chosen = (table["set"] == number).to_numpy()
        signals[chosen] = records.signals(table["row"].to_numpy()[chosen])
    return signals


def _embedded(records: RecordSet, embedding: distribution.Embedding) -> Embedded:
    """Embed all records, in parts; return features and rhythms."""
    starts = range(0, len(records), PART)
    parts = (embedding(records.signals(slice(start, start + PART))) for start in starts)
    return Stored(parts), records.records["rhythm"].to_numpy()
