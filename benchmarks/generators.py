"""Measure the cost of a profile's generators, on random records of 8 leads x 1000 samples.

    .venv/bin/python benchmarks/generators.py [profile] [threads]

Each generator runs in its own process, with the networks, batches and sampling of params.yaml. The
training time is the sum over the phases. A call is one evaluation of the network for a record;
guidance doubles the calls.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ecgforge.generators.common import base, registry
from ecgforge.generators.common.registry import generator_class
from ecgforge.params import Params, checked

SHAPE = base.Shape(leads=8, samples=1000, rhythms=7, sampling_rate=100)
REPEATS = 5
RECORDS = 32


def quickest(work: Any) -> float:
    """Return the shortest time of a few repeats after a warm-up, in s.

    The shortest time is the least affected by other processes.
    """
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(name: str, profile: str) -> dict[str, float]:
    settings = Params.read(Path("params.yaml")).profiles[profile].generators[name]
    generator = registry.create(name, SHAPE, settings.network, torch.ones(8), seed=0)
    found = {
        "parameters_m": sum(parameter.numel() for parameter in generator.parameters()) / 1e6,
        "train_ms": 0.0,
    }
    for phase in generator.phases:
        batch = settings.training[phase].batch_size
        signals, labels = torch.randn(batch, 8, 1000), torch.arange(batch) % 7
        optimiser = torch.optim.AdamW(generator.train().trainable(phase))

        def step(signals=signals, labels=labels, phase=phase, optimiser=optimiser) -> None:
            optimiser.zero_grad()
            generator.loss(signals, labels, phase, torch.Generator().manual_seed(0))[
                "loss"
            ].backward()
            optimiser.step()

        found["train_ms"] += 1000 * quickest(step) / batch
    sampling = checked(generator_class(name).Sampling, settings.sampling, "sampling")
    labels, seeds = torch.arange(RECORDS) % 7, torch.arange(RECORDS)
    found["generate_ms"] = (
        1000 * quickest(lambda: generator.eval().sample(labels, seeds, sampling)) / RECORDS
    )
    steps = sum(value for key, value in settings.sampling.items() if key.endswith("steps"))
    found["calls"] = steps * (1 if settings.sampling["guidance"] == 1 else 2)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    profile = sys.argv[1] if len(sys.argv) > 1 else "demo"
    threads = sys.argv[2] if len(sys.argv) > 2 else "2"
    print(f"{profile}, {threads} threads")
    print(
        f"{'generator':16} {'train':>10} {'generate':>10} {'calls':>6} {'parameters':>11} "
        f"{'peak memory':>12}"
    )
    for name, settings in Params.read(Path("params.yaml")).profiles[profile].generators.items():
        if not settings.training:
            continue  # the simulator has no network
        command = [sys.executable, __file__, "measure", name, profile, threads]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print(
            f"{name:16} {row['train_ms']:7.1f} ms {row['generate_ms']:7.1f} ms {row['calls']:6.0f} "
            f"{row['parameters_m']:9.2f} M {row['peak_mb']:9.0f} MB"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        torch.set_num_threads(int(sys.argv[4]))
        print(json.dumps(measure(sys.argv[2], sys.argv[3])))
    else:
        main()
