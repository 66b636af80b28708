"""A project with champions, small and untrained, for the tests of what people do with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ecgforge.classifiers.common import registry as classifiers
from ecgforge.classifiers.common.base import embed
from ecgforge.generators.common import registry as generators
from ecgforge.generators.common.base import Generator, Shape
from ecgforge.model_versions import history, models
from ecgforge.model_versions.pyfunc_signature import SAMPLING
from ecgforge.params import Params, Preparation, SimulatedSource
from ecgforge.preparation.prepare import RawSource, prepare
from ecgforge.records.record_set import RecordSet
from ecgforge.registry import serving
from ecgforge.sources import ptbxl, simulated
from ecgforge.tracking import runs, store
from ecgforge.training.batches import Records

PARAMS = Params.read(Path(__file__).parents[1] / "params.yaml")
CLASSIFIER, GENERATOR = "ecg-classifier-merged", "ecg-generator-diffwave-ptbxl"
RHYTHMS = ("SR", "AFIB", "SB")


def prepared_records(project: Path, amplitude: str = "mV") -> RecordSet:
    """Raw records in raw/ptbxl, 100 Hz, and the record set that becomes of them."""
    raw = project / "raw/ptbxl"
    if not raw.exists():
        simulated.write(raw, SimulatedSource(kind="simulated", layout="ptbxl", records=40, seed=1))
    source = RawSource(
        raw, ptbxl.catalogue(raw), ptbxl.RHYTHM_CODES, ptbxl.OTHER_RHYTHMS, simulated=True
    )
    preparation = Preparation(min_records=1, max_damaged=0, amplitude=amplitude)
    prepare({"ptbxl": source}, project / f"prepared-{amplitude}", PARAMS.preprocessing, preparation)
    return RecordSet.open(project / f"prepared-{amplitude}")


def register_classifier(project: Path, records: RecordSet) -> None:
    """Register a classifier whose head tells records apart, as an untrained one's does not."""
    settings, rhythms = PARAMS.classifier, records.about.rhythms
    classifier = classifiers.create(settings, rhythms, Records([records]).scale(), seed=0).eval()
    features, linear = (
        torch.from_numpy(embed(classifier, records.signals())).float(),
        classifier.head[1],
    )
    with torch.no_grad():
        linear.weight *= 3 / (features @ linear.weight.T).std(0)[:, None]
        linear.bias.copy_(-linear.weight @ features.mean(0))
    classifiers.save(classifier, settings.backbone, project / "classifier")
    key = runs.RunKey("classifier", "merged", 0, True, setting="TrRTeR", backbone=settings.backbone)
    with runs.tracked(key, fingerprint="classifier", params={}, inputs=[]) as run:
        files, example = (
            sorted((project / "classifier").iterdir()),
            np.zeros((2, 8, records.about.samples), np.float32),
        )
        service = serving.service(records.about)
        models.log_classifier(
            run, classifier, example, rhythms, name=CLASSIFIER, files=files, service=service
        )
    history.move(CLASSIFIER, "1", "", history.PROMOTED, "", "")


def register_generator(project: Path, name: str = GENERATOR, units: str = "mV") -> Generator:
    """A generator whose records have waves: the last layer of an untrained one is zero."""
    settings, shape = PARAMS.generator("diffwave"), Shape(8, 1000, len(RHYTHMS), 100)
    network = settings.network | {"layers": 2, "channels": 8}
    generator = generators.create("diffwave", shape, network, torch.full((8,), 0.2), seed=0)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in generator.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=noise)
    generators.save(generator.eval(), project / name)
    key = runs.RunKey("generator", "ptbxl", 0, True, generator="diffwave")
    with runs.tracked(key, fingerprint=name, params={}, inputs=[]) as run:
        described = {SAMPLING: {"sampling": settings.sampling, "rhythms": RHYTHMS, "units": units}}
        models.log_generator(
            run, *generator.exportable(), project / name, name=name, described=described
        )
    history.move(name, "1", "", history.PROMOTED, "", "")
    return generator


def stored(project: Path, name: str) -> Path:
    """The folder in which MLflow keeps the files of the model's only version."""
    source = store.client().get_model_version(name, "1").source.removeprefix("models:/")
    return next(project.rglob(source)) / "artifacts"


class Bomb:
    """Pickled, it makes the file `exploded` when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("exploded"),)
