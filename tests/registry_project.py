"""A project with git, DVC and MLflow as a study leaves them, with classifiers whose answers are set
by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor, nn

from ecgforge.classifiers.common import base, registry
from ecgforge.files import md5
from ecgforge.model_versions import models, versions
from ecgforge.model_versions.lookup import BEST_F1
from ecgforge.model_versions.pyfunc_signature import Service
from ecgforge.params import StrictConfig
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.stages.common.tracked import record_inputs
from ecgforge.tracking import runs

ROOT = Path(__file__).parents[1]
RHYTHMS = ("SR", "AFIB", "ST")
SAMPLES = 200
NAME = "ecg-classifier-ptbxl"
SPLITS = ["train"] * 30 + ["validation"] * 6 + ["test"] * 150


class Oracle(base.Classifier):
    """Reads a record's rhythm from its first sample and, if a number in it is below `accuracy`,
    says it with the probability `confidence`; else it says the next one.
    """

    class Network(StrictConfig):
        pass

    Network: ClassVar[type[StrictConfig]]  # type: ignore[no-redef]

    def __init__(self, network: StrictConfig, rhythms: Iterable[str], scale: Tensor) -> None:
        super().__init__(network, list(rhythms), scale)
        self.head = nn.Identity()
        self.register_buffer("accuracy", torch.zeros(len(self.rhythms)))
        self.register_buffer("confidence", torch.zeros(1))

    def features(self, signals: Tensor) -> Tensor:
        truth, number = signals[:, 0, 0].round().long(), signals[:, 1, 0]
        answer = torch.where(number < self.accuracy[truth], truth, (truth + 1) % len(self.rhythms))
        sure = torch.log(self.confidence * (len(self.rhythms) - 1) / (1 - self.confidence))
        return nn.functional.one_hot(answer, len(self.rhythms)) * sure

    @property
    def parts(self) -> list[nn.Module]:
        return [self.head]


registry.CLASSIFIERS["oracle"] = (
    "tests.registry_project:Oracle" if __name__.startswith("tests.") else f"{__name__}:Oracle"
)


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def make(folder: Path) -> None:
    """Lay out the project in `folder`, which must be the current one: one real set, with its
    stage's record in dvc.lock.
    """
    from dvc.repo import Repo

    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (folder / ".gitignore").write_text(
        "/mlflow.db*\n/mlruns/\n/data/*/\n/models/*/\n/.ecgforge/\n.*.partial\n"
    )
    (folder / "dvc.yaml").write_text(
        "stages:\n  prepare:\n    cmd: echo a stage\n    outs: [data/prepared/ptbxl]\n"
    )
    git("init", "-q")
    git("config", "user.name", "Ada")
    git("config", "user.email", "ada@example.org")
    Repo.init(str(folder)).close()
    real_set(folder / "data/prepared/ptbxl", 0)
    with Repo(str(folder)) as repo:
        repo.commit("prepare", force=True)
    git("add", ".")
    git("commit", "-q", "-m", "a project")


def real_set(folder: Path, seed: int, splits: list[str] = SPLITS) -> RecordSet:
    """Write records whose first sample of lead I is their rhythm, and of lead II a number between 0
    and 1, the same for every seed.
    """
    number = np.arange(len(splits))
    labels = number % len(RHYTHMS)
    signals = (
        np.random.default_rng(seed).normal(0, 0.1, (len(splits), 8, SAMPLES)).astype(np.float32)
    )
    signals[:, 0, 0], signals[:, 1, 0] = labels, np.random.default_rng(7).random(len(splits))
    ids = [str(one) for one in number]
    table = pd.DataFrame(
        {
            "id": ids,
            "patient": ids,
            "dataset": "ptbxl",
            "rhythm": np.array(RHYTHMS)[labels],
            "split": splits,
        }
    )
    with write_record_set(folder, About(100, SAMPLES, "mV", RHYTHMS, "simulated", {})) as writer:
        writer.append(signals, table.assign(age=50.0, sex="F", origin="simulated"))
    return RecordSet.open(folder)


def register(
    records: RecordSet,
    accuracy: float | list[float],
    seed: int,
    confidence: float | None = None,
    rhythms: tuple[str, ...] = RHYTHMS,
    validation: float = 0.5,
    synthetic: RecordSet | None = None,
    service: Service | None = None,
) -> versions.Version:
    """Register a classifier with these answers, as trained on `records`, and on `synthetic` ones of
    diffwave; without `service` it does not say how its records were prepared.
    """
    oracle = Oracle(Oracle.Network(), rhythms, torch.ones(8))
    oracle.accuracy.copy_(
        torch.tensor(accuracy if isinstance(accuracy, list) else [accuracy] * len(rhythms))
    )
    oracle.confidence.fill_(confidence or float(np.mean(accuracy)))
    folder = Path("models/classifiers/ptbxl/real") / f"seed-{seed}"
    registry.save(oracle, "oracle", folder)
    setting, generator = ("TrRSTeR", "diffwave") if synthetic else ("TrRTeR", None)
    key = runs.RunKey(
        "classifier", "ptbxl", seed, True, generator=generator, setting=setting, backbone="oracle"
    )
    learned = [records, *([synthetic] if synthetic else [])]
    inputs = record_inputs([*(("training", one) for one in learned), ("test", records)])
    os.environ["DVC_STAGE"] = "classify@ptbxl-diffwave" if synthetic else "classify_real@ptbxl"
    with runs.tracked(key, fingerprint=f"{seed:032x}", params={"seed": seed}, inputs=inputs) as run:
        run.summary({BEST_F1: validation})
        example = np.zeros((2, 8, records.about.samples), np.float32)
        number = models.log_classifier(
            run,
            oracle,
            example,
            rhythms,
            name=NAME,
            files=sorted(folder.iterdir()),
            service=service,
        )
    return versions.find(f"{NAME}/{number}")


def record(stage: str, out: Path, deps: list[Path]) -> None:
    """Commit a dvc.lock in which the stage made the folder `out` from the folders `deps`, and have
    DVC's cache know what was in it.
    """
    lock = Path("dvc.lock")
    tree = yaml.safe_load(lock.read_text())
    found = {"deps": deps, "outs": [out]}
    sums = {
        kind: [{"path": path.as_posix(), "hash": "md5", "md5": md5(path)} for path in paths]
        for kind, paths in found.items()
    }
    tree["stages"][stage] = {"cmd": "ecgforge", **sums}
    folder_to_cache_only(out)
    lock.write_text(yaml.safe_dump(tree))
    git("add", "dvc.lock")
    git("commit", "-q", "--allow-empty", "-m", f"{stage} ran")


def cached(digest: str) -> Path:
    """Where DVC's cache keeps the file or listing with this digest."""
    return Path(".dvc/cache/files/md5") / digest[:2] / digest[2:]


def to_cache(folder: Path) -> str:
    """Put a folder into DVC's cache, as `dvc repro` does with a stage's output, and return its
    digest.
    """
    from dvc.repo import Repo

    with Repo(".") as repo:
        repo.add([str(folder)])
    return md5(folder)


def folder_to_cache_only(folder: Path) -> str:
    """Put a folder into DVC's cache that nothing knows of, and return its digest."""
    held = {
        file.relative_to(folder).as_posix(): md5(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    listing = json.dumps(
        [{"md5": digest, "relpath": name} for name, digest in sorted(held.items())]
    )
    stored = {digest: (folder / name).read_bytes() for name, digest in held.items()} | {
        md5(folder): listing.encode()
    }
    for digest, kept in stored.items():
        cached(digest).parent.mkdir(parents=True, exist_ok=True)
        cached(digest).write_bytes(kept)
    return md5(folder)


def to_cache_only(folder: Path) -> str:
    """Put content into DVC's cache that nothing knows of, and return its md5."""
    file = folder / "orphan"
    folder.mkdir()
    file.write_text(str(folder))
    digest = md5(file)
    cached(digest).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, cached(digest))
    return digest
