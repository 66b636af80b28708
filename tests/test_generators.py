"""The contract, held by every registered generator, and what is particular to each of them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.signal import resample_poly

from ecgforge.commands import generate_records
from ecgforge.errors import EcgforgeError
from ecgforge.generators import synthesis
from ecgforge.generators import train as training_of_generators
from ecgforge.generators.beat_diffusion import beat_layout, rhythm_model
from ecgforge.generators.beat_diffusion import model as beat_model
from ecgforge.generators.common import base, patients, registry
from ecgforge.generators.common.registry import GENERATORS, generator_class, generator_name
from ecgforge.generators.diffusion import diffusion
from ecgforge.generators.time_vqvae import model as time_vqvae
from ecgforge.params import Compute, GeneratorSettings, Params
from ecgforge.records import beats
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.simulator import heart, population
from ecgforge.wfdb_io import files as wfdb_files

pytestmark = pytest.mark.slow

SHAPE = base.Shape(leads=8, samples=200, rhythms=3, sampling_rate=50)
SCALE = torch.linspace(0.1, 0.8, 8)
NETWORKS = {
    "diffwave": {
        "layers": 4,
        "channels": 16,
        "dilation_cycle": 3,
        "patch": 8,
        "label_dropout": 0.1,
        "timestep_shift": 3.0,
        "self_conditioning": False,
        "global_features": True,
        "attention_heads": 2,
        "patient_size": 4,
    },
    "time_diffusion": {
        "channels": [16, 24],
        "attention_levels": 1,
        "heads": 2,
        "patch": 8,
        "label_dropout": 0.1,
        "timestep_shift": 3.0,
        "self_conditioning": True,
        "global_features": True,
        "patient_size": 4,
    },
    "time_vqvae": {
        "fft": 8,
        "low": {"channels": 16, "blocks": 1, "halvings": 3, "codes": 16, "code_size": 8},
        "high": {"channels": 16, "blocks": 1, "halvings": 2, "codes": 24, "code_size": 8},
        "low_prior": {"width": 16, "layers": 1, "heads": 2, "order": "autoregressive"},
        "high_prior": {"width": 16, "layers": 1, "heads": 2},
        "patient_size": 4,
        "time_shift": 4,
        "label_dropout": 0.1,
    },
    "beat_diffusion": {
        "channels": [16, 24],
        "attention_levels": 1,
        "heads": 2,
        "patch": 8,
        "label_dropout": 0.1,
        "timestep_shift": 3.0,
        "rhythm": {"width": 16, "parts": 2},
        "beat": {
            "channels": [16, 24],
            "attention_levels": 1,
            "heads": 2,
            "patch": 4,
            "label_dropout": 0.1,
            "timestep_shift": 1.0,
        },
    },
    "simulator": {"calibrated": True},
}
SAMPLINGS = {
    "diffwave": {"steps": 4, "guidance": 2.0},
    "time_diffusion": {"steps": 4, "guidance": 2.0},
    "time_vqvae": {"low_steps": 4, "high_steps": 3, "temperature": 1.0, "guidance": 2.0},
    "beat_diffusion": {"steps": 4, "guidance": 2.0, "beat_steps": 3},
    "simulator": {"noise": 1.0},
}


def records(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Beats at a rate that the label sets, `[count, 8, 200]` at 50 Hz, each lead with the standard
    deviation that SCALE says.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    phase = (np.arange(200) / 50 * (0.8 + 0.5 * labels[:, None]) + rng.random((count, 1))) % 1 - 0.5
    beats = np.exp(-0.5 * (phase / 0.03) ** 2) + 0.25 * np.exp(-0.5 * ((phase - 0.3) / 0.08) ** 2)
    beats = (beats - beats.mean(1, keepdims=True)) / beats.std()
    signs = np.array([1, 1, -1, -1, -1, 1, 1, 1])[None, :, None]
    return torch.tensor(beats[:, None] * signs, dtype=torch.float32) * SCALE[:, None], torch.tensor(
        labels
    )


def train(
    generator: base.Generator,
    signals: torch.Tensor,
    labels: torch.Tensor,
    steps: dict[str, int],
    learning_rate: float,
) -> dict[str, list[float]]:
    """Train each phase for its steps on batches of 16, and return the curve of its loss."""
    curves: dict[str, list[float]] = {}
    for phase in generator.phases:
        optimiser = torch.optim.AdamW(generator.trainable(phase), learning_rate, weight_decay=0.0)
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, learning_rate, steps[phase], pct_start=0.1
        )
        generator.train()
        for step in range(steps[phase]):
            source = torch.Generator().manual_seed(step)
            index = torch.randint(len(labels), (16,), generator=source)
            loss = generator.loss(signals[index], labels[index], phase, source)["loss"]
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(generator.trainable(phase), 1.0)
            optimiser.step()
            rate.step()
            curves.setdefault(phase, []).append(loss.item())
    generator.eval()
    return curves


def record_set(
    folder: Path,
    signals: torch.Tensor,
    labels: torch.Tensor,
    rhythms: tuple[str, ...] = ("SR", "SB", "ST"),
    units: str = "mV",
    made: dict[str, object] | None = None,
) -> RecordSet:
    names = [str(number) for number in range(len(labels))]
    table = pd.DataFrame(
        {"id": names, "patient": names, "rhythm": [rhythms[label] for label in labels]}
    )
    table = table.assign(dataset="toy", split="train", age=50, sex="", origin="simulated")
    about = About(SHAPE.sampling_rate, signals.shape[2], units, rhythms, "simulated", made or {})
    with write_record_set(folder, about) as writer:
        writer.append(signals.numpy(), table)
    return RecordSet.open(folder)


def build(name: str) -> base.Generator:
    return registry.create(name, SHAPE, NETWORKS[name], SCALE, seed=0)


def without_vector(name: str) -> base.Generator:
    return registry.create(name, SHAPE, NETWORKS[name] | {"patient_size": 0}, SCALE, seed=0)


def sampling(name: str, **changes: object) -> object:
    return generator_class(name).Sampling(**{**SAMPLINGS[name], **changes})


@pytest.fixture(scope="module", params=list(GENERATORS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def trained(name: str, tmp_path_factory: pytest.TempPathFactory) -> base.Generator:
    """A generator after a few steps, so that no layer is still at its zero initialisation."""
    generator, known = build(name), records(256)
    known_set = record_set(tmp_path_factory.mktemp("known") / "set", *known)
    generator.start(known_set)
    generator.curves = train(generator, *known, dict.fromkeys(generator.phases, 80), 5e-3)  # type: ignore[assignment]
    generator.finish(known_set)
    return generator


def test_the_search_space_of_a_class_is_of_sampling_alone(name: str) -> None:
    """The trainings for sweeps start before such a search has ended."""
    assert all(key.startswith("sampling.") for key in generator_class(name).space)


def test_records_have_the_shape_and_are_finite(name: str, trained: base.Generator) -> None:
    made = trained.sample(torch.tensor([0, 1, 2]), torch.tensor([5, 6, 7]), sampling(name))
    assert made.shape == (3, 8, 200)
    assert made.dtype == torch.float32
    assert made.isfinite().all()


def test_amplitudes_follow_the_scale(name: str, trained: base.Generator) -> None:
    labels, seeds = torch.arange(3).repeat(8), torch.arange(24)
    made = trained.sample(labels, seeds, sampling(name))
    ratio = made.std(dim=(0, 2)) / SCALE
    assert ((ratio > 0.2) & (ratio < 2)).all(), ratio
    trained.scale.mul_(10)
    torch.testing.assert_close(trained.sample(labels, seeds, sampling(name)), 10 * made)
    trained.scale.div_(10)


def test_a_record_depends_on_its_seed_and_label_alone(name: str, trained: base.Generator) -> None:
    labels, seeds = torch.tensor([0, 1, 2, 1, 1]), torch.tensor([3, 1, 4, 1, 5])
    whole = trained.sample(labels, seeds, sampling(name))
    torch.manual_seed(99)
    assert torch.equal(whole, trained.sample(labels, seeds, sampling(name)))
    one_by_one = torch.cat(
        [trained.sample(labels[i : i + 1], seeds[i : i + 1], sampling(name)) for i in range(5)]
    )
    torch.testing.assert_close(whole, one_by_one, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(whole[1], whole[3], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(whole[3], whole[4], atol=1e-2)


def test_added_noise_depends_on_the_seed_of_its_record_alone(
    name: str, trained: base.Generator
) -> None:
    if not isinstance(trained, diffusion.Diffusion):
        assert "eta" not in type(trained).Sampling.model_fields
        return
    labels, seeds = torch.tensor([0, 1, 2, 1]), torch.arange(4)
    added = sampling(name, eta=1.0, second_order=True)
    whole = trained.sample(labels, seeds, added)
    torch.manual_seed(99)
    assert torch.equal(whole, trained.sample(labels, seeds, added))
    parts = [trained.sample(labels[part], seeds[part], added) for part in ([0], [1, 2], [3])]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(whole, trained.sample(labels, seeds, sampling(name)), atol=1e-2)


def test_guidance_and_label_change_the_record(name: str, trained: base.Generator) -> None:
    seeds, key = torch.arange(6), "noise" if name == "simulator" else "guidance"
    plain = trained.sample(torch.zeros(6, dtype=torch.int64), seeds, sampling(name, **{key: 1.0}))
    assert not torch.allclose(
        plain,
        trained.sample(torch.zeros(6, dtype=torch.int64), seeds, sampling(name, **{key: 4.0})),
        atol=1e-3,
    )
    assert not torch.allclose(
        plain, trained.sample(torch.full((6,), 2), seeds, sampling(name, **{key: 1.0})), atol=1e-3
    )


def test_saved_and_loaded_it_is_the_same(name: str, trained: base.Generator, tmp_path) -> None:
    registry.save(trained, tmp_path / "one")
    loaded = registry.load(tmp_path / "one")
    registry.save(loaded, tmp_path / "two")
    for file in ("weights.safetensors", "generator.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    labels, seeds = torch.tensor([0, 2]), torch.tensor([1, 2])
    assert torch.equal(
        trained.sample(labels, seeds, sampling(name)), loaded.sample(labels, seeds, sampling(name))
    )
    assert not loaded.training
    assert json.loads((tmp_path / "one" / "generator.json").read_text())["name"] == name


def test_training_lowers_the_loss_of_each_phase(trained: base.Generator) -> None:
    assert tuple(trained.curves) == trained.phases
    for phase, curve in trained.curves.items():
        assert np.mean(curve[-10:]) < 0.9 * np.mean(curve[:5]), phase


def test_the_same_noise_gives_the_same_loss(trained: base.Generator) -> None:
    signals, labels = records(8)
    for phase in trained.phases:
        once, again, otherwise = (
            copy.deepcopy(trained)
            .train()
            .loss(signals, labels, phase, torch.Generator().manual_seed(seed))["loss"]
            for seed in (3, 3, 4)
        )
        assert once == again
        assert phase in ("autoencoder", "rhythm") or once != otherwise, (
            "only dead codes are drawn at random there"
        )


def test_noise_of_a_training_step_is_drawn_on_the_device_of_its_records(
    trained: base.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals, labels = records(8)
    devices: list[object] = []
    plain = {name: getattr(torch, name) for name in ("rand", "randn", "randint")}
    for name in plain:

        def drawn(*size: object, name: str = name, **more: Any) -> torch.Tensor:
            devices.append(more.get("device"))
            return plain[name](*size, **more)

        monkeypatch.setattr(torch, name, drawn)
    generator = copy.deepcopy(trained).train()
    for phase in trained.phases:
        generator.loss(signals, labels, phase, torch.Generator().manual_seed(0))
    assert devices or not trained.phases
    assert all(device == signals.device for device in devices)


def test_gradients_reach_all_that_a_phase_trains_and_nothing_else(trained: base.Generator) -> None:
    signals, labels = records(32)
    for phase in trained.phases:
        trained.zero_grad(set_to_none=True)
        trained.train().loss(signals, labels, phase, torch.Generator().manual_seed(0))[
            "loss"
        ].backward()
        trained.eval()
        mine = {id(parameter) for parameter in trained.trainable(phase)}
        for key, parameter in trained.named_parameters():
            if id(parameter) in mine:
                assert parameter.grad is not None, key
                assert parameter.grad.abs().max() > 0, key
            else:
                assert parameter.grad is None, key
    phases = [{id(parameter) for parameter in trained.trainable(phase)} for phase in trained.phases]
    assert sum(map(len, phases)) == len(list(trained.parameters())) == len(set().union(*phases))


def test_bf16_autocast_gives_finite_losses_and_records(name: str, trained: base.Generator) -> None:
    signals, labels = records(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for phase in trained.phases:
            trained.zero_grad(set_to_none=True)
            loss = trained.loss(signals, labels, phase, torch.Generator().manual_seed(0))["loss"]
            loss.backward()
            assert loss.isfinite()
            assert all(
                parameter.grad.isfinite().all()
                for parameter in trained.trainable(phase)
                if parameter.grad is not None
            )
        made = trained.sample(torch.tensor([0, 1, 2]), torch.arange(3), sampling(name))
    assert made.isfinite().all()
    assert made.dtype == torch.float32


def test_evaluation_leaves_the_state_alone(trained: base.Generator) -> None:
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    signals, labels = records(8)
    with torch.no_grad():
        for phase in trained.phases:
            trained.loss(signals, labels, phase, torch.Generator().manual_seed(0))
    for key, value in trained.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_exportable_network_exports_for_any_batch(trained: base.Generator) -> None:
    network, example = trained.exportable()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        network.eval(), example, dynamic_shapes=tuple({0: batch} for _ in example)
    ).module()
    larger = tuple(torch.cat([part, part, part[:1]]) for part in example)
    torch.testing.assert_close(exported(*larger), network(*larger), rtol=1e-3, atol=1e-4)


def test_initial_weights_come_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = build(name).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), "the global state must stay as it was"
    assert all(torch.equal(value, first[key]) for key, value in build(name).state_dict().items())


def test_names_and_classes_belong_together(name: str) -> None:
    assert generator_name(generator_class(name)) == name


def test_unknown_names_and_parameters_are_refused() -> None:
    with pytest.raises(
        EcgforgeError,
        match=(
            "unknown generator 'diffwav': use one of beat_diffusion, diffwave, simulator, "
            "time_diffusion, time_vqvae"
        ),
    ):
        generator_class("diffwav")
    with pytest.raises(EcgforgeError, match=r"generators\.diffwave\.network: layers = 0"):
        registry.create("diffwave", SHAPE, {**NETWORKS["diffwave"], "layers": 0}, SCALE, seed=0)
    with pytest.raises(EcgforgeError, match="depth: unknown key"):
        registry.create("diffwave", SHAPE, {**NETWORKS["diffwave"], "depth": 3}, SCALE, seed=0)
    with pytest.raises(EcgforgeError, match="multiples of heads"):
        registry.create(
            "time_diffusion", SHAPE, {**NETWORKS["time_diffusion"], "heads": 5}, SCALE, seed=0
        )


def test_a_folder_with_an_incomplete_generator_is_refused(tmp_path) -> None:
    with pytest.raises(EcgforgeError, match=r"generator\.json is missing"):
        registry.load(tmp_path / "nowhere")
    registry.save(build("diffwave"), tmp_path / "model")
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EcgforgeError, match="is not a complete generator"):
        registry.load(tmp_path / "model")


def simulated(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean ECGs of simulated patients in SB, SR and ST (labels 0, 1, 2), `count` of each:

    `[3 * count, 8, 400]`, 8 s at 50 Hz, mV.
    """
    patients = population.draw(np.repeat(["SB", "SR", "ST"], count), np.random.default_rng(0))
    hearts, moments = (
        [np.random.default_rng([part, i]) for i in range(len(patients))] for part in range(2)
    )
    signals = resample_poly(
        heart.simulate(patients, hearts, moments, 200, 8).signals, 1, 4, axis=-1
    )
    return torch.tensor(signals, dtype=torch.float32), torch.arange(3).repeat_interleave(count)


SIMULATED = ("SB", "SR", "ST")
# network, steps of each phase, sampling: enough to learn what a rate is, in well under a minute
LEARNING = {
    "diffwave": (
        {
            "layers": 6,
            "channels": 64,
            "dilation_cycle": 6,
            "patch": 8,
            "label_dropout": 0.1,
            "timestep_shift": 3.0,
        },
        {"denoiser": 130},
        {"steps": 12, "guidance": 2.0},
    ),
    "time_diffusion": (
        {
            "channels": [48, 64],
            "attention_levels": 1,
            "heads": 4,
            "patch": 8,
            "label_dropout": 0.1,
            "timestep_shift": 3.0,
        },
        {"denoiser": 190},
        {"steps": 12, "guidance": 2.0},
    ),
    "time_vqvae": (
        {
            "fft": 8,
            "low": {"channels": 48, "blocks": 1, "halvings": 3, "codes": 48, "code_size": 16},
            "high": {"channels": 48, "blocks": 1, "halvings": 2, "codes": 64, "code_size": 16},
            "low_prior": {"width": 64, "layers": 2, "heads": 4},
            "high_prior": {"width": 64, "layers": 2, "heads": 4},
            "label_dropout": 0.1,
        },
        {"autoencoder": 120, "prior": 120},
        {"low_steps": 8, "high_steps": 8, "temperature": 10.0, "guidance": 2.0},
    ),
    "beat_diffusion": (
        {
            "channels": [48, 64],
            "attention_levels": 1,
            "heads": 4,
            "patch": 8,
            "label_dropout": 0.1,
            "timestep_shift": 3.0,
            "rhythm": {"width": 32, "parts": 4},
            "beat": {
                "channels": [32, 48],
                "attention_levels": 1,
                "heads": 4,
                "patch": 4,
                "label_dropout": 0.1,
                "timestep_shift": 1.0,
            },
        },
        {"rhythm": 400, "beat": 40, "denoiser": 60},
        {"steps": 12, "guidance": 2.0, "beat_steps": 12},
    ),
    "simulator": ({}, {}, {}),
}


@pytest.fixture(scope="module")
def learned(name: str, tmp_path_factory: pytest.TempPathFactory) -> base.Generator:
    """A generator that has learned from `simulated` records what a rate is."""
    network, steps, _ = LEARNING[name]
    signals, labels = simulated(80)
    shape = base.Shape(leads=8, samples=400, rhythms=3, sampling_rate=50)
    generator = registry.create(name, shape, network, signals.std(dim=(0, 2)), seed=0)
    known = record_set(tmp_path_factory.mktemp("known") / "set", signals, labels, SIMULATED)
    generator.start(known)
    train(generator, signals, labels, steps, 5e-3)
    generator.finish(known)
    return generator


def test_it_learns_that_bradycardia_is_slow_and_tachycardia_fast(
    name: str, learned: base.Generator
) -> None:
    asked = torch.arange(3).repeat_interleave(24)
    made = learned.sample(
        asked, torch.arange(len(asked)), generator_class(name).Sampling(**LEARNING[name][2])
    )
    peaks = beats.detect(made.numpy(), 50)
    slow, usual, fast = (
        np.median([_rate(peaks[i]) for i in range(24 * label, 24 * label + 24)])
        for label in range(3)
    )
    assert slow + 5 < usual < fast - 5, (slow, usual, fast)


def test_records_have_the_heart_rate_that_is_asked_for(
    name: str, learned: base.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.save(learned, tmp_path / "model")
    described = {"sampling": LEARNING[name][2], "rhythms": SIMULATED, "units": "mV"}
    (tmp_path / "model/sampling.json").write_text(json.dumps(described))
    version = SimpleNamespace(label="it/1", aliases=(), tags={})
    monkeypatch.setattr(generate_records.versions, "find", lambda _: version)
    monkeypatch.setattr(
        generate_records.signing, "files", lambda _: nullcontext(tmp_path / "model")
    )
    takes = "heart_rate" in generator_class(name).Sampling.model_fields
    assert takes == (learned.heart_rates(0) is not None)
    for rhythm, rate in (("SR", 60), ("ST", 110)):
        out = tmp_path / rhythm
        if not takes:
            with pytest.raises(EcgforgeError, match="^it/1 takes no heart rate: leave it out"):
                generate_records.generate("it/1", rhythm, 24, 0, out, rate)
            continue
        generate_records.generate("it/1", rhythm, 24, 0, out, rate)
        made = [wfdb_files.read(out, f"synthetic_{rhythm}_{i:05d}").signals for i in range(24)]
        header = (out / f"synthetic_{rhythm}_00000.hea").read_text()
        assert f"# requested rhythm: {rhythm} at {rate} beats/min\n" in header
        rates = [_rate(peaks) for peaks in beats.detect(np.stack(made), 50)]
        assert np.median(rates) == pytest.approx(rate, rel=0.05), rates


def test_a_rate_without_training_records_is_refused_in_one_line(learned: base.Generator) -> None:
    if learned.heart_rates(0) is None:
        return
    slowest, fastest = learned.heart_rates(2)
    assert 90 < slowest < fastest
    synthesis.check_rate(learned, "it/1", SIMULATED, ["ST"], fastest)
    with pytest.raises(EcgforgeError) as error:
        synthesis.check_rate(learned, "it/1", SIMULATED, ["ST"], 50)
    assert str(error.value) == (
        f"it/1 learned ST from records of {math.ceil(slowest)} to {math.floor(fastest)} beats/min, "
        "so it has no ST of 50: ask for a rate in this range"
    )


def _rate(peaks: np.ndarray) -> float:
    """Beats per minute, 0 where there are too few peaks for an interval."""
    return 60 / np.median(np.diff(peaks) / 50) if len(peaks) > 1 else 0.0


# Diffusion


@pytest.mark.parametrize("name", ["diffwave", "time_diffusion", "beat_diffusion"])
def test_with_self_conditioning_each_step_sees_the_prediction_before(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = NETWORKS[name] | {"self_conditioning": True}
    generator = registry.create(name, SHAPE, tree, SCALE, 0).eval()
    seen: list[torch.Tensor] = []
    made: list[torch.Tensor] = []

    def predicted(inputs: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        seen.append(inputs[:, -SHAPE.leads :])
        made.append(torch.full_like(seen[-1], float(len(seen))))
        return made[-1]

    monkeypatch.setattr(generator.denoiser, "forward", predicted)
    sampling = generator_class(name).Sampling(**SAMPLINGS[name] | {"guidance": 1.0})
    generator.sample(torch.tensor([0, 1]), torch.tensor([1, 2]), sampling)
    assert len(seen) == sampling.steps
    assert not seen[0].any()
    for one, before in zip(seen[1:], made, strict=False):
        torch.testing.assert_close(one, before)


def test_half_of_the_training_records_are_shown_a_prediction_and_all_in_an_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = registry.create("time_diffusion", SHAPE, NETWORKS["time_diffusion"], SCALE, 0)
    calls: list[torch.Tensor] = []

    def predicted(inputs: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        calls.append(inputs[:, -SHAPE.leads :])
        return torch.ones_like(calls[-1]).requires_grad_()

    monkeypatch.setattr(generator.denoiser, "forward", predicted)
    signals, labels = records(200)
    for training, least, most in ((True, 70, 130), (False, 200, 200)):
        calls.clear()
        generator.train(training)
        generator.loss(signals, labels, "denoiser", torch.Generator().manual_seed(0))
        first, second = calls
        shown = second.flatten(1).any(dim=1)
        assert not first.any(), "the first prediction sees none"
        assert least <= int(shown.sum()) <= most
        assert len(first) == int(shown.sum())
        assert (second[shown] == 1).all()


@pytest.mark.parametrize(
    ("changes", "carried"),
    [
        ({}, False),
        ({"global_features": True}, True),
        ({"attention_heads": 2}, True),
        ({"attention_heads": 2, "layers": 2}, False),  # there is no full cycle of dilations
    ],
)
def test_the_end_of_a_record_is_carried_to_its_start(
    changes: dict[str, object], carried: bool
) -> None:
    """Four layers of DiffWave see only what is near, without global features and attention."""
    tree = NETWORKS["diffwave"] | {"global_features": False, "attention_heads": 0} | changes
    shape = base.Shape(leads=8, samples=4000, rhythms=3, sampling_rate=50)
    denoiser = registry.create("diffwave", shape, tree, SCALE, 0).denoiser
    torch.manual_seed(0)
    for layer in denoiser.modules():  # those that begin at zero pass nothing on
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            torch.nn.init.normal_(layer.weight, std=0.1)
    noisy = torch.randn(1, 8, 4000)
    other = noisy.clone()
    other[..., -400:] *= 3
    with torch.no_grad():
        one, changed = (
            denoiser(signals, torch.tensor([0.5]), torch.tensor([1]), torch.zeros(1, 4))
            for signals in (noisy, other)
        )
    assert torch.equal(one[..., :400], changed[..., :400]) != carried


def test_diffwave_names_channels_that_its_attention_cannot_split() -> None:
    with pytest.raises(EcgforgeError, match="channels must be a multiple of 8 and of the heads, 3"):
        registry.create("diffwave", SHAPE, NETWORKS["diffwave"] | {"attention_heads": 3}, SCALE, 0)


def test_the_schedule_runs_from_the_record_to_pure_noise() -> None:
    alpha, sigma = without_vector("diffwave").process(torch.linspace(0, 1, 101))
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha[-1], sigma[-1]) == (0, 1)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(101))
    assert (alpha.diff() < 0).all()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_sampler_recovers_what_a_perfect_network_predicts(guidance: float) -> None:
    generator, truth = without_vector("diffwave"), records(2)[0] / SCALE[:, None]
    generator.denoiser.forward = lambda noisy, _times, _labels: truth.repeat(len(noisy) // 2, 1, 1)
    made = generator.sample(
        torch.tensor([0, 1]), torch.tensor([8, 9]), sampling("diffwave", steps=7, guidance=guidance)
    )
    torch.testing.assert_close(made, truth * SCALE[:, None])


def test_the_sampler_follows_the_exact_flow_of_gaussian_data() -> None:
    """Of records from N(0, s^2), the best prediction is known, and the noiseless flow maps noise z
    to s z.
    """
    generator, spread = without_vector("diffwave"), 0.3

    def posterior_mean(
        noisy: torch.Tensor, times: torch.Tensor, _labels: torch.Tensor
    ) -> torch.Tensor:
        alpha, sigma = generator.process(times[:, None, None])
        return alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * noisy

    generator.denoiser.forward = posterior_mean
    made = generator.sample(
        torch.tensor([0]), torch.tensor([8]), sampling("diffwave", steps=400, guidance=1.0)
    )
    noise = torch.randn((8, 200), generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(made[0], spread * noise * SCALE[:, None], rtol=0.03, atol=1e-3)


GAUSSIAN = torch.linspace(-0.6, 0.8, 8)[:, None], 0.3  # means by lead, and standard deviation


def gaussian_denoiser(
    generator: base.Generator, mean: torch.Tensor = GAUSSIAN[0], spread: float = GAUSSIAN[1]
) -> base.Generator:
    """Replace the network by the best prediction of Gaussian records."""

    def predict(noisy: torch.Tensor, times: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
        alpha, sigma = generator.process(times[:, None, None])
        weight = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        return mean + weight * (noisy - alpha * mean)

    generator.denoiser.forward = predict
    return generator


def gaussian_sample(
    generator: base.Generator, eta: float, steps: int = 2000, second_order: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean by lead and standard deviation of 16 records, in the units of the network. The number of
    steps is so large by default that their size does not count.
    """
    made = generator.sample(
        torch.zeros(16, dtype=torch.int64),
        torch.arange(16),
        sampling("diffwave", steps=steps, guidance=1.0, eta=eta, second_order=second_order),
    )
    made = made / SCALE[:, None]
    mean = made.mean(dim=(0, 2))
    return mean[:, None], (made - mean[:, None]).std()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gaussian_records_have_their_mean_and_spread_with_any_added_noise(eta: float) -> None:
    mean, spread = gaussian_sample(gaussian_denoiser(without_vector("diffwave")), eta)
    torch.testing.assert_close(mean, GAUSSIAN[0], rtol=0, atol=0.02)
    assert spread.item() == pytest.approx(GAUSSIAN[1], rel=0.025)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_few_steps_of_second_order_keep_the_spread_of_gaussian_data(
    spread: float, eta: float
) -> None:
    """First order loses a twentieth to more than a half of it."""
    generator = gaussian_denoiser(without_vector("diffwave"), GAUSSIAN[0], spread)
    first, second = (
        gaussian_sample(generator, eta, 24, order)[1].item() / spread for order in (False, True)
    )
    assert first < 0.96
    assert abs(second - 1) < min(0.15, 1 - first)


def test_the_noise_of_a_record_has_the_same_bytes_in_any_batch_and_is_new_at_each_step() -> None:
    generator, seeds = without_vector("diffwave"), torch.tensor([3, 1, 4])
    steps = list(islice(generator.noise(base.random_sources(seeds)), 3))
    for place in range(3):
        alone = generator.noise(base.random_sources(seeds[[place]]))
        assert all(torch.equal(step[[place]], next(alone)) for step in steps)
    flat = torch.cat(steps).flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(9)).abs().max() < 0.1


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_added_noise_of_another_size_gives_another_spread(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = gaussian_denoiser(without_vector("diffwave"))
    noise = generator.noise

    def scaled(sources: list[torch.Generator]) -> Iterator[torch.Tensor]:
        white = noise(sources)
        yield next(white)
        yield from (factor * one for one in white)

    monkeypatch.setattr(generator, "noise", scaled)
    assert abs(gaussian_sample(generator, 1.0)[1].item() / GAUSSIAN[1] - 1) > 0.06


def test_without_added_noise_the_sampler_is_plain_ddim_to_the_bit() -> None:
    generator = without_vector("diffwave")
    generator.denoiser.forward = lambda noisy, times, _labels: (
        torch.tanh(noisy.roll(1, 2)) * times[:, None, None].cos()
    )
    labels, seeds = torch.tensor([0, 1]), torch.tensor([8, 9])
    current = torch.stack(
        [torch.randn((8, 200), generator=torch.Generator().manual_seed(seed)) for seed in (8, 9)]
    )
    for now, then in pairwise(torch.linspace(1, 0, 8)):
        (alpha, sigma), (next_alpha, next_sigma) = generator.process(now), generator.process(then)
        clean = generator.denoiser.forward(current, now.expand(2), labels)
        current = next_alpha * clean + next_sigma * (current - alpha * clean) / sigma
    plain = sampling("diffwave", steps=7, guidance=1.0)
    assert plain == sampling("diffwave", steps=7, guidance=1.0, eta=0.0)
    assert torch.equal(generator.sample(labels, seeds, plain), current * SCALE[:, None])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_noise_of_each_step_is_that_of_the_forward_process(
    eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the true record known, x_t - alpha x_0 has the spread sigma at each time.

    Ancestral sampling reverses a Markov process: the covariance with the next time is alpha /
    alpha' sigma'^2. Without added noise, both are the same noise: sigma sigma'.
    """
    generator, truth, seen = without_vector("diffwave"), 0.5, []

    def predict(current: torch.Tensor, now: torch.Tensor, *_: object) -> torch.Tensor:
        alpha, sigma = generator.process(now[0])
        seen.append((alpha, sigma, current - alpha * truth))
        return torch.full_like(current, truth)

    monkeypatch.setattr(generator, "predict", predict)
    generator.sample(
        torch.zeros(64, dtype=torch.int64),
        torch.arange(64),
        sampling("diffwave", steps=5, guidance=1.0, eta=eta),
    )
    for _, sigma, noise in seen:
        assert abs(noise.mean()) < 0.02
        torch.testing.assert_close(noise.std(), sigma, rtol=0.02, atol=0)
    for (alpha, sigma, noise), (next_alpha, next_sigma, next_noise) in pairwise(seen):
        expected = alpha / next_alpha * next_sigma**2 if eta else sigma * next_sigma
        torch.testing.assert_close((noise * next_noise).mean(), expected, rtol=0.02, atol=0.01)


def test_the_diffusion_loss_is_the_error_of_v_where_noise_is_strong() -> None:
    generator = without_vector("diffwave").eval()
    guess = torch.full((1, 8, 200), 0.25)
    generator.denoiser.forward = lambda noisy, _times, _labels: guess.expand(len(noisy), -1, -1)
    signals, labels = records(64)
    losses = generator.loss(signals, labels, "denoiser", torch.Generator().manual_seed(0))
    source = torch.Generator().manual_seed(0)
    times = (torch.rand(1, generator=source) + torch.arange(64) / 64) % 1
    clean = signals / SCALE[:, None]
    error = (clean - guess).square().mean(dim=(1, 2))
    _, sigma = generator.process(times)
    weights = torch.minimum(sigma**-2, torch.tensor(6.0))
    torch.testing.assert_close(losses["loss"], (error * weights).mean())
    torch.testing.assert_close(losses["clean"], error.mean())


def test_steps_are_embedded_apart() -> None:
    embedded = diffusion.step_embedding(torch.tensor([0.0, 1e-3, 0.5, 1.0]), 16)
    assert embedded.shape == (4, 16)
    assert torch.cdist(embedded, embedded)[~torch.eye(4, dtype=torch.bool)].min() > 0.1


# Beat-Diffusion


def test_a_beat_map_says_where_in_a_beat_every_sample_is() -> None:
    times = np.array([0.5, 1.5, 2.7])
    (mark, since, until, place, known), shown = beat_layout.layout(times, 400, 100)
    assert (known == 1).all()
    assert mark[[50, 150, 270]] == pytest.approx(1)
    assert mark.argsort()[-1] in (50, 150, 270)
    assert (since[100], until[100], place[100]) == pytest.approx((0.5, 0.5, 0.5))
    assert (since + until)[60:149] == pytest.approx(1.0)
    assert (since + until)[151:269] == pytest.approx(1.2)
    assert until[0] == pytest.approx(0.5), (
        "before the first beat as after it, an interval is as long as the nearest one"
    )
    assert (shown[[50, 150, 270]] == 36).all(), "R peaks show the R peak"
    assert shown[[60, 140]].tolist() == [46, 26], "after a beat its T wave, before one its P wave"
    assert (beat_layout.layout(times[:1], 400, 100)[0] == 0).all()


def test_a_record_is_its_typical_beat_laid_out_at_its_times() -> None:
    rng = np.random.default_rng(0)
    beat = rng.standard_normal((8, 80))
    # R peaks 36 samples into each beat
    record = np.concatenate([np.roll(np.tile(beat, 5), 30, axis=1)], axis=1)
    peaks = np.array([66.0, 146.0, 226.0, 306.0, 386.0])
    typical = beat_layout.typical_beat(record, peaks, 100)
    assert typical.shape == (8, beat_layout.columns(100)) == (8, 96)
    _, shown = beat_layout.layout(peaks / 100, 400, 100)
    np.testing.assert_allclose(typical[:, shown], record, atol=1e-6)
    _, moved = beat_layout.layout(peaks / 100 + 0.13, 400, 100)
    np.testing.assert_allclose(typical[:, moved][:, 60:380], record[:, 47:367], atol=1e-6)


def test_one_odd_beat_is_not_typical() -> None:
    record = np.tile(np.sin(np.arange(100) / 100 * 2 * np.pi), (8, 6)).astype(np.float32)
    peaks = np.arange(50.0, 600, 100)
    odd = record.copy()
    odd[:, 230:270] += 5
    np.testing.assert_array_equal(
        beat_layout.typical_beat(odd, peaks, 100), beat_layout.typical_beat(record, peaks, 100)
    )
    assert (beat_layout.typical_beat(record, np.array([]), 100) == 0).all()


def test_beats_are_found_once_in_all_published_records_and_the_oldest_are_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published, trained_on = 21799 + 45152, 0.8
    assert trained_on * published < beat_model.CACHED
    monkeypatch.setattr(beat_model, "CACHED", 4)
    found: list[int] = []

    def detect(signals: np.ndarray, rate: int) -> list[np.ndarray]:
        found.append(len(signals))
        return beats.detect(signals, rate)

    monkeypatch.setattr(beat_model, "beats", SimpleNamespace(detect=detect))
    generator, clean = build("beat_diffusion"), records(6)[0].numpy()
    for part in (slice(0, 3), slice(3, 6), slice(2, 6), slice(0, 2)):
        generator._beats(clean[part])
    assert found == [3, 3, 0, 2]


def test_what_a_training_remembers_of_beats_changes_nothing() -> None:
    generator, (signals, labels) = build("beat_diffusion").eval(), records(6)
    losses = [
        generator.loss(signals, labels, "denoiser", torch.Generator().manual_seed(0))["loss"]
        for _ in range(2)
    ]
    other = generator.loss(
        signals.flip(0), labels.flip(0), "beat", torch.Generator().manual_seed(0)
    )["loss"]
    fresh = build("beat_diffusion").eval()
    assert losses[0] == losses[1]
    assert (
        fresh.loss(signals.flip(0), labels.flip(0), "beat", torch.Generator().manual_seed(0))[
            "loss"
        ]
        == other
    )


def test_sampled_beats_with_too_little_variation_are_stretched_to_that_of_training_beats(
    tmp_path, monkeypatch
) -> None:
    generator, (signals, labels) = build("beat_diffusion").eval(), records(60)
    known = record_set(tmp_path / "known", signals, labels)
    times, typical = zip(*generator._beats((signals / SCALE[:, None]).numpy()), strict=True)
    true = generator._with_levels(
        torch.from_numpy(np.stack(typical)), signals / SCALE[:, None], generator._layout(times)[1]
    )
    alike = 0.6 * true
    monkeypatch.setattr(generator, "_sampled_beats", lambda *_: alike)
    generator.finish(known)
    flat, stretched = (
        generator._flat(beats) for beats in (true, generator._stretched(alike, labels))
    )
    for label in range(3):
        own, made = (
            rows[labels == label] - rows[labels == label].mean(0) for rows in (flat, stretched)
        )
        torch.testing.assert_close(made, own, atol=2e-3, rtol=1e-3)
        # About the mean that they were drawn about: a model that is off stays so.
        torch.testing.assert_close(
            stretched[labels == label].mean(0),
            0.6 * flat[labels == label].mean(0),
            atol=2e-3,
            rtol=1e-3,
        )


def test_a_sinus_rhythm_can_get_the_beats_of_any_sinus_rhythm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, (signals, _) = build("beat_diffusion").eval(), records(40)
    known = torch.tensor([0] * 30 + [1] * 5 + [2] * 5)
    rhythms = ("SR", "AFIB", "ST")
    generator.finish(record_set(tmp_path / "known", signals, known, rhythms).split("train"))
    assert generator.sinus_counts.tolist() == [30, 0, 5]
    asked: list[torch.Tensor] = []
    sampled = generator._sampled_beats

    def kept(white, labels, times, steps):
        asked.append(labels)
        return sampled(white, labels, times, steps)

    monkeypatch.setattr(generator, "_sampled_beats", kept)
    labels, seeds = torch.tensor([0, 1, 2] * 40), torch.arange(120)
    made = {
        mixed: generator.sample(
            labels, seeds, sampling("beat_diffusion", steps=1, beat_steps=1, sinus_beats=mixed)
        )
        for mixed in (False, True)
    }
    own, mixed = asked
    assert torch.equal(own, labels)
    assert (mixed[labels == 1] == 1).all(), "AFIB keeps its beats"
    for label in (0, 2):
        assert 0.7 < (mixed[labels == label] == 0).float().mean() < 1, "30 of 35 are SR"
    same = own == mixed
    assert 0 < same.sum() < 120
    assert torch.equal(made[False][same], made[True][same])


def test_sampled_beats_with_enough_variation_or_few_records_are_not_stretched(
    tmp_path, monkeypatch
) -> None:
    generator, (signals, labels) = build("beat_diffusion").eval(), records(3)
    generator.finish(record_set(tmp_path / "few", signals, labels))
    assert generator.beat_stretches.isfinite().all()
    assert ((generator.beat_stretches >= 1) & (generator.beat_stretches <= 2)).all()
    beats = torch.randn(
        3, 8, generator.beat.shape.samples, generator=torch.Generator().manual_seed(0)
    )
    monkeypatch.setattr(generator, "_sampled_beats", lambda *_: 50 * beats)
    generator.finish(record_set(tmp_path / "wide", signals, labels))
    torch.testing.assert_close(generator._stretched(beats, labels), beats)


def test_history_holds_nothing_of_what_comes_next() -> None:
    intervals = torch.tensor([[0.1, 0.3, -0.2], [0.5, torch.nan, torch.nan]])
    past = rhythm_model.history(intervals)
    assert past.shape == (2, 4, 5)
    assert past.isfinite().all()
    torch.testing.assert_close(past[0, :, 0], torch.tensor([0.0, 0.1, 0.3, -0.2]))
    torch.testing.assert_close(past[0, :, 1], torch.tensor([0.0, 0.1, 0.2, 0.2 / 3]))
    torch.testing.assert_close(past[1, 1:, 1], torch.full((3,), 0.5))
    changed = intervals.clone()
    changed[0, 2] = 9.0
    assert torch.equal(rhythm_model.history(changed)[0, :3], past[0, :3])


@pytest.fixture(scope="module")
def two_laws() -> rhythm_model.RhythmModel:
    """A model of a regular and an irregular rhythm, each with 200 patients whose rates differ. A
    third rhythm has no patients, and the law of the first.
    """
    rng = np.random.default_rng(0)
    labels = torch.arange(2).repeat(200)
    spread = np.where(labels[:, None] == 0, 0.01, 0.2)
    rates = rng.normal(0, 0.2, (400, 1))  # logarithms about the typical interval, as the intervals
    intervals = torch.tensor(rates + spread * rng.standard_normal((400, 12)), dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = rhythm_model.RhythmModel(3, rhythm_model.RhythmNetwork(width=32, parts=3))
    model.share([0, 2])
    optimiser = torch.optim.AdamW(model.parameters(), 0.01)
    for step in range(400):
        source = torch.Generator().manual_seed(step)
        index = torch.randint(400, (64,), generator=source)
        optimiser.zero_grad()
        model.loss(intervals[index], labels[index], source).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.measure(intervals, labels)
    return model


@torch.no_grad()
def sampled_intervals(
    model: rhythm_model.RhythmModel, labels: torch.Tensor, means: torch.Tensor | None = None
) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    if means is None:
        means = model.draw_means(labels, torch.rand(len(labels), generator=source))
    uniform = torch.rand(len(labels), 12, generator=source)
    return model.draw(labels, means, uniform, torch.randn(len(labels), 12, generator=source))


def test_the_rhythm_model_keeps_a_regular_rhythm_regular_at_any_rate(
    two_laws: rhythm_model.RhythmModel,
) -> None:
    sampled = sampled_intervals(two_laws, torch.arange(2).repeat_interleave(200))
    variation = 100 * sampled.std(1) / sampled.mean(1)
    assert 0.5 < variation[:200].median() < 2
    assert 14 < variation[200:].median() < 27
    assert torch.log(sampled[:200].mean(1)).std() == pytest.approx(0.2, abs=0.08), "patients differ"


def test_a_rhythm_without_records_is_as_regular_as_the_rhythm_whose_law_it_shares(
    two_laws: rhythm_model.RhythmModel,
) -> None:
    assert two_laws.laws.tolist() == [0, 1, 0]
    for seconds in (0.55, 1.0):
        means = torch.full((100,), math.log(seconds) - rhythm_model.TYPICAL)
        sampled = sampled_intervals(two_laws, torch.full((100,), 2), means)
        assert 0.5 < (100 * sampled.std(1) / sampled.mean(1)).median() < 2
        assert ((sampled.mean(1) / seconds - 1).abs() < 0.05).float().mean() > 0.95


def test_mean_intervals_are_drawn_from_those_of_the_rhythm() -> None:
    model = rhythm_model.RhythmModel(3, rhythm_model.RhythmNetwork(width=8, parts=2))
    intervals = torch.tensor([[-0.2, -0.4], [0.1, torch.nan], [0.3, 0.3], [torch.nan, torch.nan]])
    model.measure(intervals, torch.tensor([0, 1, 1, 1]))
    labels = torch.tensor([0, 1, 1, 1, 2, 2])
    drawn = model.draw_means(labels, torch.tensor([0.4, 0.0, 0.5, 1.0, 0.0, 1.0]))
    # The last rhythm has no intervals, and gets those of all records.
    torch.testing.assert_close(drawn, torch.tensor([-0.3, 0.1, 0.2, 0.3, -0.3, 0.3]))


def test_a_bootstrap_sample_has_the_mean_of_the_intervals_on_average() -> None:
    intervals = torch.tensor([[0.1, 0.1, torch.nan], [0.0, 0.3, 0.6], [torch.nan] * 3])
    source = torch.Generator().manual_seed(0)
    drawn = torch.stack([rhythm_model.resampled_means(intervals, source) for _ in range(2000)])
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.1, 0.3, 0.0]), atol=0.02, rtol=0)
    assert drawn[:, 1].std() == pytest.approx(math.sqrt(0.06 / 3), rel=0.1)
    assert drawn[:, 0].std() < 1e-6


@pytest.mark.parametrize(("shared", "laws"), [(True, [0, 1, 1, 3, 1]), (False, [0, 1, 2, 3, 4])])
def test_rhythms_that_differ_only_in_their_rate_share_a_law(
    shared: bool, laws: list[int], tmp_path: Path
) -> None:
    shape = base.Shape(leads=8, samples=200, rhythms=5, sampling_rate=50)
    network = NETWORKS["beat_diffusion"] | {
        "rhythm": {"width": 8, "parts": 2, "shared_law": shared}
    }
    generator = registry.create("beat_diffusion", shape, network, SCALE, seed=0)
    rhythms = ("AFIB", "ST", "SR", "SA", "SB")
    generator.start(record_set(tmp_path / "set", *records(5), rhythms))
    assert generator.rhythm.laws.tolist() == laws


# Time-VQVAE


@pytest.mark.parametrize("samples", [200, 201, 333])
def test_the_bands_sum_to_the_record(samples: int) -> None:
    signals = torch.randn(2, 8, samples, generator=torch.Generator().manual_seed(0))
    spectrum = time_vqvae.Spectrum(8)
    low, high = spectrum.split(signals)
    low_part, high_part = (
        spectrum.low_records(low, samples),
        spectrum.high_records(high, 8, samples),
    )
    torch.testing.assert_close(low_part + high_part, signals, rtol=1e-4, atol=1e-5)
    power = torch.fft.rfft(low_part).abs().square().mean(dim=(0, 1))
    assert power[: samples // 8].sum() > 10 * power[samples // 4 :].sum()


def test_a_record_of_ten_seconds_has_at_least_62_low_tokens() -> None:
    shape = base.Shape(leads=8, samples=1000, rhythms=3, sampling_rate=100)
    generator = registry.create("time_vqvae", shape, NETWORKS["time_vqvae"], SCALE, seed=0)
    positions = [generator.low_prior.positions, generator.high_prior.positions]
    assert positions == [63, 126]
    low, high = generator.bands(torch.zeros(1, 8, 1000))
    assert [generator.low.encode(low).shape[1], generator.high.encode(high).shape[1]] == positions


def test_high_tokens_see_the_low_tokens_of_their_own_moment() -> None:
    prior = build("time_vqvae").high_prior.eval()
    seen = []
    prior.layers[0].forward = lambda hidden: (seen.append(hidden), hidden)[1]
    tokens, labels, codes = (
        torch.zeros(1, 26, dtype=torch.int64),
        torch.tensor([0]),
        torch.randn(24, 8),
    )
    context = torch.zeros(1, 13, 12)
    changed = context.clone()
    changed[0, 5] = 1
    prior(tokens, labels, codes, context)
    prior(tokens, labels, codes, changed)
    assert (seen[0] != seen[1]).any(-1)[0].nonzero().flatten().tolist() == [10, 11]


def test_every_code_has_its_own_embedding_and_a_masked_token_has_none_of_them() -> None:
    prior = build("time_vqvae").high_prior.eval()
    labels, codes, context = torch.zeros(25, dtype=torch.int64), torch.randn(24, 8), None
    tokens = torch.arange(25)[:, None].expand(25, 26)
    logits = prior(tokens, labels, codes, context)
    assert len(logits[:, 0].unique(dim=0)) == 25
    changed = codes.clone()
    changed[-1] += torch.randn(8)
    seen: list[torch.Tensor] = []
    prior.layers[0].forward = lambda hidden: (seen.append(hidden), hidden)[1]
    for table in (codes, changed):
        prior(tokens[-1:], labels[-1:], table, context)
    assert torch.equal(*seen)


def test_the_gradient_passes_the_codebook_unchanged() -> None:
    generator = build("time_vqvae").train()
    latents = {}
    for key in ("low", "high"):
        band = getattr(generator, key)
        encode = band.encode

        def kept(frames: torch.Tensor, encode=encode, key=key) -> torch.Tensor:
            latents[key] = encode(frames)
            latents[key].retain_grad()
            return latents[key]

        band.encode = kept
        decode = band.decode

        def decoded(quantised, patient, decode=decode, key=key) -> torch.Tensor:
            quantised.retain_grad()
            latents[f"{key}_decoded"] = quantised
            return decode(quantised, patient)

        band.decode = decoded
    losses = generator.loss(*records(4), "autoencoder", torch.Generator().manual_seed(0))
    (losses["low_error"] + losses["high_error"]).backward()
    for key in ("low", "high"):
        assert latents[key].grad.abs().max() > 0
        assert torch.equal(latents[key].grad, latents[f"{key}_decoded"].grad)


def test_codes_become_the_means_of_their_latents_and_dead_ones_are_revived() -> None:
    codebook = time_vqvae.Codebook(8, 2)
    centres = torch.tensor([[5.0, 5.0], [-5.0, 5.0], [5.0, -5.0], [-5.0, -5.0]])
    source = torch.Generator().manual_seed(0)
    for _ in range(200):
        latents = centres.repeat(16, 1) + 0.1 * torch.randn(64, 2, generator=source)
        codebook.update(latents[None], source)
    tokens = codebook.tokens(latents)
    assert (codebook.latents(tokens) - latents).abs().max() < 0.5
    assert len(tokens.unique()) == 8, "all codes live"
    assert codebook.perplexity(tokens) > 4
    codebook.codes[3] = 1e3
    codebook.counts[3] = 0.0
    codebook.update(latents[None], source)
    assert codebook.codes[3].abs().max() < 10


def test_tokens_are_the_same_under_autocast() -> None:
    codebook = time_vqvae.Codebook(64, 8)
    codebook.codes.copy_(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    latents = torch.randn(4, 100, 8, generator=torch.Generator().manual_seed(1))
    plain = codebook.tokens(latents)
    assert torch.equal(plain, (latents[..., None, :] - codebook.codes).square().sum(-1).argmin(-1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codebook.tokens(latents), plain)


def test_perplexity_counts_codes_in_even_use() -> None:
    codebook = time_vqvae.Codebook(10, 2)
    torch.testing.assert_close(codebook.perplexity(torch.arange(5).repeat(7)), torch.tensor(5.0))
    torch.testing.assert_close(
        codebook.perplexity(torch.zeros(9, dtype=torch.int64)), torch.tensor(1.0)
    )


@pytest.mark.parametrize("steps", [1, 3, 13, 40])
def test_decoding_leaves_no_token_masked_and_settles_each_once(steps: int) -> None:
    prior = build("time_vqvae").low_prior.eval()
    inputs = []
    forward = prior.forward
    prior.forward = lambda tokens, *rest: (inputs.append(tokens.clone()), forward(tokens, *rest))[1]
    random = torch.rand(3, 2, steps, 13, generator=torch.Generator().manual_seed(0))
    tokens = time_vqvae.decode_iteratively(
        prior, torch.tensor([0, 1, 2]), torch.randn(16, 8), None, random, 1.0, 1.0
    )
    assert ((tokens >= 0) & (tokens < 16)).all()
    assert (inputs[0] == 16).all()
    for before, after in zip(inputs, [*inputs[1:], tokens], strict=True):
        settled = before != 16
        assert torch.equal(before[settled], after[settled])
    masked = [int((batch[0] == 16).sum()) for batch in inputs]
    assert masked == [
        math.floor(13 * math.cos(math.pi / 2 * step / steps)) for step in range(steps)
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_decoding_draws_from_the_prior_s_distribution(temperature: float) -> None:
    prior = build("time_vqvae").low_prior.eval()
    logits = torch.linspace(1, 3, 16)
    wanted = (logits / temperature).softmax(0)
    prior.forward = lambda tokens, *_: logits.expand(*tokens.shape, 16)
    random = torch.rand(2000, 2, 1, 13, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2000, dtype=torch.int64)
    tokens = time_vqvae.decode_iteratively(
        prior, labels, torch.zeros(16, 8), None, random, 1.0, 1.0, temperature
    )
    torch.testing.assert_close(
        torch.bincount(tokens.flatten(), minlength=16) / tokens.numel(),
        wanted,
        atol=0.006,
        rtol=0.05,
    )


def autoregressive() -> tuple[time_vqvae.TimeVQVAE, torch.Tensor, torch.Tensor]:
    """A generator with causal priors and random weights, rhythms, and tokens of the low band."""
    tree = copy.deepcopy(NETWORKS["time_vqvae"])
    for name in ("low_prior", "high_prior"):
        tree[name]["order"] = "autoregressive"
    generator = registry.create("time_vqvae", SHAPE, tree, SCALE, seed=0).eval()
    torch.manual_seed(0)
    for part in (generator.low.codebook.codes, generator.high.codebook.codes):
        part.normal_()
    for prior in (generator.low_prior, generator.high_prior):
        for parameter in prior.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    low = torch.randint(16, (4, generator.low_prior.positions))
    return generator, torch.tensor([0, 1, 2, 0]), low


def test_a_causal_prior_sees_only_the_tokens_before() -> None:
    generator, labels, low = autoregressive()
    prior, codes = generator.low_prior, generator.low.codebook.codes
    changed = low.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 16
    one, other = (prior(tokens, labels, codes, None) for tokens in (low, changed))
    torch.testing.assert_close(one[:, :6], other[:, :6])
    assert not torch.allclose(one[:, 6], other[:, 6])


@pytest.mark.parametrize(("guidance", "temperature"), [(1.0, 1.0), (2.0, 1.0), (2.0, 0.5)])
@torch.no_grad()
def test_tokens_one_after_the_other_are_those_of_the_whole_sequence(
    guidance: float, temperature: float
) -> None:
    """Kept keys and values change nothing, in both bands."""
    generator, labels, low = autoregressive()
    patient = torch.randn(4, 4)
    context = time_vqvae.with_patient(generator.low.codebook.latents(low), patient)
    for prior, band, given in (
        (generator.low_prior, generator.low, patient[:, None]),
        (generator.high_prior, generator.high, context),
    ):
        codes = band.codebook.codes
        uniform = torch.rand(4, prior.positions)
        found = prior.draw(labels, codes, given, uniform, guidance, temperature)
        logits = time_vqvae.guided(prior, found, labels, codes, given, guidance)
        below = (logits / temperature).softmax(-1).cumsum(-1) < uniform[..., None]
        expected = below.sum(-1).clamp(max=len(codes) - 1)
        assert torch.equal(found, expected)
        assert len(found.unique()) > 3


def test_records_are_moved_by_up_to_the_largest_shift_and_not_changed_otherwise() -> None:
    signals = torch.arange(3 * 2 * 50).reshape(3, 2, 50).float().repeat(100, 1, 1)
    moved = time_vqvae.moved(signals, 4, torch.Generator().manual_seed(0))
    shifts = moved[:, 0, 20] - signals[:, 0, 20]
    assert sorted(set(shifts.tolist())) == list(range(-4, 5))
    inner = slice(10, 40)  # away from the reflected edges
    assert torch.equal(moved[..., inner], signals[..., inner] + shifts[:, None, None])


WITH_PATIENTS = ("diffwave", "time_diffusion", "time_vqvae")


def encoded(generator: Any, signals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and logarithms of variances of the patient vectors of records."""
    clean = signals / generator.scale
    if isinstance(generator, time_vqvae.TimeVQVAE):
        clean = torch.cat(generator.bands(clean), dim=1)
    means, log_variances = generator.patients.encoder(clean).unbind(1)
    return means, log_variances


def test_the_divergence_is_that_of_normal_distributions() -> None:
    vectors = patients.Patients(8, 16, 4, SHAPE).eval()
    signals = records(5)[0] / SCALE[:, None]
    mean, log_variance = vectors.encoder(signals).unbind(1)
    vector, divergence = vectors(signals, torch.Generator())
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(0.0, 1.0),
    )
    torch.testing.assert_close(divergence, expected.sum(1).mean())
    assert torch.equal(vector, mean), "an evaluation draws nothing"


@pytest.mark.parametrize("name", WITH_PATIENTS)
@torch.no_grad()
def test_patients_of_a_rhythm_are_drawn_with_the_mean_and_spread_of_its_training_records(
    name: str, tmp_path: Path
) -> None:
    generator: Any = build(name).eval()
    signals, labels = records(300)
    labels = labels % 2  # no record of the last rhythm
    signals = signals * (1 + 2 * labels[:, None, None])  # another mean vector
    generator.finish(record_set(tmp_path / "set", signals, labels).split("train"))
    rows, log_variances = encoded(generator, signals)
    # the level of noise in each lead is drawn with the vector
    rows = torch.cat([rows, patients.noise_level(signals / generator.scale).log()], dim=1)
    variances = torch.cat([log_variances.exp().mean(0), torch.zeros(8)])
    found = generator.patients
    for label in (0, 1):
        torch.testing.assert_close(found.means[label], rows[labels == label].mean(0))
    torch.testing.assert_close(found.means[2], rows.mean(0))
    left = rows - found.means[labels]
    expected = left.T @ left / 300 + torch.diag(variances + patients.JITTER)
    torch.testing.assert_close(found.factor @ found.factor.T, expected, rtol=1e-3, atol=1e-4)
    asked, sources = torch.ones(2000, dtype=torch.int64), base.random_sources(torch.arange(2000))
    vectors, levels = found.draw(asked, sources)
    drawn = torch.cat([vectors, levels.log()], dim=1)
    torch.testing.assert_close(drawn.mean(0), found.means[1], rtol=0, atol=0.1)
    torch.testing.assert_close(drawn.T.cov(), expected, rtol=0.2, atol=0.1)
    wider, centre = found.spread(vectors, asked, 1.5), found.means[1, :4]
    torch.testing.assert_close(wider - centre, 1.5 * (vectors - centre))


@torch.no_grad()
def test_a_spread_of_zero_draws_the_mean_patient_of_each_rhythm(tmp_path: Path) -> None:
    generator: Any = build("diffwave").eval()
    generator.finish(record_set(tmp_path / "set", *records(30)).split("train"))
    seen: list[torch.Tensor] = []
    predict = generator.denoiser.forward

    def watched(*inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs[-1])
        return predict(*inputs)

    generator.denoiser.forward = watched
    labels = torch.tensor([0, 2])
    generator.sample(labels, torch.arange(2), sampling("diffwave", guidance=1.0, patient_spread=0))
    for vectors in seen:
        torch.testing.assert_close(vectors, generator.patients.means[labels, :4])


@torch.no_grad()
def test_the_spread_of_patients_acts_only_on_decoders_and_each_band_has_its_temperature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, labels, _ = autoregressive()
    signals = records(30)[0] + torch.randn(30, 8, 200, generator=torch.Generator().manual_seed(0))
    generator.finish(record_set(tmp_path / "set", signals, torch.arange(30) % 3).split("train"))
    assert generator.patients is not None
    means = generator.patients.means[labels, :4]
    decoded, given, temperatures = [], [], []
    decode, draw = time_vqvae.BandDecoder.forward, time_vqvae.Prior.draw

    def decoding(self: Any, latents: Any, patient: Any) -> Any:
        decoded.append(patient)
        return decode(self, latents, patient)

    def drawing(self: Any, *arguments: Any) -> Any:
        given.append(arguments[2][:, 0, -4:])
        temperatures.append(arguments[-1])
        return draw(self, *arguments)

    monkeypatch.setattr(time_vqvae.BandDecoder, "forward", decoding)
    monkeypatch.setattr(time_vqvae.Prior, "draw", drawing)
    settings: Any = {"token_temperature": 0.8, "high_token_temperature": 0.2}
    made = [
        generator.sample(
            labels, torch.arange(4), sampling("time_vqvae", patient_spread=spread, **settings)
        )
        for spread in (0.0, 1.5)
    ]
    assert temperatures == [0.8, 0.2] * 2
    assert len(decoded) == len(given) == 4
    for seen in given:
        assert torch.equal(seen, given[0])
    torch.testing.assert_close(decoded[0], means)
    torch.testing.assert_close(decoded[2], means + 1.5 * (given[0] - means))
    levels = [patients.noise_level(one / generator.scale).median() for one in (signals, *made)]
    assert levels[1] > 0.8 * levels[0], "records of random networks get the noise of the training"


def test_the_level_of_noise_is_found_next_to_beats() -> None:
    clean = records(40)[0] / SCALE[:, None]
    white = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert patients.noise_level(0 * clean).eq(patients.QUIET).all()
    for level in (0.3, 0.6):
        found = patients.noise_level(clean + level * white)
        assert found.median() == pytest.approx(level, rel=0.15)


@torch.no_grad()
def test_records_get_the_noise_that_they_lack_with_the_spectrum_of_training_records(
    tmp_path: Path,
) -> None:
    generator: Any = build("time_diffusion").eval()
    white = torch.randn((60, 8, 200), generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(white)
    spectrum[..., 80:] = 0  # as by a filter: no noise above four fifths of half the rate
    known = torch.fft.irfft(spectrum, 200) * 0.2 * SCALE[:, None]
    labels = torch.arange(60) % 3
    generator.finish(record_set(tmp_path / "set", known, labels).split("train"))
    clean = torch.sin(torch.arange(200) / 10).expand(60, 8, 200)
    levels = torch.full((60, 8), 0.1)
    noise = generator.patients.lacking_noise(clean, levels, white)
    found = patients.noise_level(clean + noise)
    assert found.median() == pytest.approx(0.1, rel=0.1)
    power = torch.fft.rfft(noise).abs().square().mean((0, 1))
    assert power[85:].max() < 0.01 * power[20:75].min()
    assert not generator.patients.lacking_noise(clean + 10 * noise, levels, white).any()


@pytest.mark.parametrize("name", WITH_PATIENTS[:2])
def test_a_patient_vector_leaves_all_other_initial_weights_as_they_are(name: str) -> None:
    plain, more = without_vector(name), build(name)
    assert not any("patient" in key for key in plain.state_dict())
    for key, value in plain.state_dict().items():
        assert torch.equal(value, more.state_dict()[key]), key


def upright_or_inverted(signs: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """Beats at random times; all beats of a record have its sign."""
    times = torch.cumsum(torch.randint(28, 45, (len(signs), 8), generator=source), 1)
    pulses = torch.zeros(len(signs), 400).scatter_(1, times, 1.0)
    shape = torch.tensor([0.2, 0.7, 1.0, 0.7, 0.2])[None, None]
    beats = torch.nn.functional.conv1d(pulses[:, None], shape, padding=2)[..., :200]
    return signs[:, None, None] * beats * SCALE[:, None] * 3


def trained_on_signs(
    name: str, tree: dict[str, Any], phase: str, steps: int, source: torch.Generator
) -> Any:
    generator = registry.create(name, SHAPE, tree, SCALE, seed=0).train()
    optimiser = torch.optim.Adam(generator.trainable(phase), lr=0.01)
    for _ in range(steps):
        signs = torch.randint(2, (16,), generator=source) * 2.0 - 1
        signals = upright_or_inverted(signs, source)
        losses = generator.loss(signals, torch.zeros(16, dtype=torch.int64), phase, source)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    return generator.eval()


SIGNS = torch.tensor([1.0] * 8 + [-1.0] * 8)


@torch.no_grad()
def test_the_patient_vector_carries_what_the_beats_of_a_record_share() -> None:
    """Records of upright or inverted beats are decoded badly with a vector of the other kind."""
    source = torch.Generator().manual_seed(0)
    tree = copy.deepcopy(NETWORKS["time_vqvae"])
    for band in ("low", "high"):
        tree[band]["codes"] = 8  # too few to have a shape of each kind at each position
    with torch.enable_grad():
        generator = trained_on_signs("time_vqvae", tree, "autoencoder", 120, source)
    signals = upright_or_inverted(SIGNS, source)
    low, high = generator.bands(signals / generator.scale)
    tokens = [
        band.codebook.tokens(band.encode(frames))
        for band, frames in ((generator.low, low), (generator.high, high))
    ]
    patient, _ = encoded(generator, signals)
    own, other = (
        (time_vqvae.Decoder(generator)(*tokens, vector) - signals / generator.scale).square().mean()
        for vector in (patient, patient.flip(0))
    )
    assert own < 0.3 * other


@pytest.mark.parametrize("name", WITH_PATIENTS[:2])
@torch.no_grad()
def test_a_diffusion_record_has_the_shape_of_its_patient_vector(name: str, tmp_path: Path) -> None:
    """The sign of the beats follows the vector, with any noise. Drawn vectors have both signs."""
    source = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        generator = trained_on_signs(name, NETWORKS[name], "denoiser", 100, source)
    signals, labels = upright_or_inverted(SIGNS, source), torch.zeros(16, dtype=torch.int64)
    vectors, _ = encoded(generator, signals)
    steps = sampling(name, steps=8, guidance=1.0, second_order=True)
    for seed in (0, 1):
        noise = torch.randn(1, 8, 200, generator=torch.Generator().manual_seed(seed))
        made = generator.denoise(iter([noise.repeat(16, 1, 1)]), labels, steps, patient=vectors)
        skew = made.pow(3).mean(dim=(1, 2))
        assert (skew * SIGNS > 0).sum() >= 15, skew
    generator.finish(record_set(tmp_path / "set", signals, labels).split("train"))
    skew = generator.sample(labels, torch.arange(16), steps).pow(3).mean(dim=(1, 2))
    assert 2 <= (skew > 0).sum() <= 14, skew


def test_sampling_goes_from_all_noise_to_none_in_equal_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = without_vector("diffwave")
    times: list[float] = []

    def predict(current: torch.Tensor, now: torch.Tensor, *_: object) -> torch.Tensor:
        times.extend(now.tolist())
        return torch.full_like(current, 0.5)

    monkeypatch.setattr(generator, "predict", predict)
    sampling = type(generator).Sampling(steps=4, guidance=1.0)
    labels = torch.zeros(1, dtype=torch.int64)
    records = generator.sample(labels, torch.zeros(1, dtype=torch.int64), sampling)
    assert times == [1.0, 0.75, 0.5, 0.25]
    expected = (0.5 * generator.scale).expand_as(records)  # the last prediction, without noise
    torch.testing.assert_close(records, expected, rtol=0, atol=1e-4)


# Simulator


def test_the_simulator_has_the_heart_rates_of_training_records(tmp_path: Path) -> None:
    """Records at 48, 78 and 108 bpm, whatever the simulator's population has for these names."""
    signals, labels = records(120)
    known = record_set(tmp_path / "known", signals, labels)
    asked = torch.arange(3).repeat_interleave(16)
    found = {}
    for calibrated in (True, False):
        generator = registry.create("simulator", SHAPE, {"calibrated": calibrated}, SCALE, seed=0)
        generator.finish(known)
        made = generator.sample(asked, torch.arange(48), sampling("simulator"))
        rates = np.array([_rate(peaks) for peaks in beats.detect(made.numpy(), 50)])
        found[calibrated] = [np.median(rates[asked == label]) for label in range(3)]
    assert found[True] == pytest.approx([48, 78, 108], abs=3)
    published = [population.quantiles(rhythm, "rate")[3] for rhythm in ("SR", "SB", "ST")]
    assert found[False] == pytest.approx(published, abs=8)


def test_a_rhythm_with_few_training_records_keeps_the_published_rates(tmp_path: Path) -> None:
    signals, labels = records(60)
    few = torch.cat([torch.nonzero(labels == 0)[:9], torch.nonzero(labels == 1)[:10]]).flatten()
    generator = build("simulator")
    generator.finish(record_set(tmp_path / "known", signals[few], labels[few]))
    published = [population.quantiles(rhythm, "rate") for rhythm in ("SR", "SB", "ST")]
    kept = [np.allclose(generator.rates[label], published[label]) for label in range(3)]
    assert kept == [True, False, True]


@pytest.mark.parametrize("units", ["mV", "per_lead_std"])
def test_simulated_records_have_the_units_and_the_band_of_training_records(
    units: str, tmp_path: Path
) -> None:
    scale = SCALE if units == "mV" else torch.ones(8)
    generator = registry.create("simulator", SHAPE, {}, scale, seed=0)
    band = {"sampling_rate": 50, "duration": 4, "band": [2.0, 12.0], "max_amplitude": 20}
    made = {"preprocessing": band}
    known = record_set(tmp_path / "known", *records(60), units=units, made=made)
    generator.finish(known)
    labels = torch.arange(3).repeat_interleave(60)
    signals = generator.sample(labels, torch.arange(180), sampling("simulator"))
    each = signals.std(dim=2, correction=0)
    if units == "mV":
        torch.testing.assert_close(signals.std(dim=(0, 2)), SCALE, rtol=0.2, atol=0)
        assert each.std(dim=0).min() > 0.02, "patients differ in amplitude"
    else:
        torch.testing.assert_close(each, torch.ones(180, 8), rtol=1e-4, atol=1e-4)
    power = torch.fft.rfft(signals).abs().square().mean(dim=(0, 1))
    frequencies = torch.fft.rfftfreq(200, 1 / 50)
    inside = power[(frequencies > 2) & (frequencies < 12)].sum() / power.sum()
    assert inside > 0.95


def test_a_rhythm_that_the_simulator_does_not_know_is_named(tmp_path: Path) -> None:
    signals, labels = records(4)
    known = record_set(tmp_path / "known", signals, labels, ("SR", "VT", "ST"))
    with pytest.raises(EcgforgeError, match=r"^the simulator has no rhythm VT, only SR, SB, "):
        build("simulator").finish(known)


def test_the_simulator_is_trained_without_a_step(tmp_path: Path) -> None:
    signals, labels = records(30)
    with write_record_set(
        tmp_path / "set", About(50, 200, "mV", ("SR", "SB", "ST"), "real", {})
    ) as w:
        names = [str(number) for number in range(30)]
        table = pd.DataFrame({"id": names, "patient": names})
        table["rhythm"] = [("SR", "SB", "ST")[label] for label in labels]
        table = table.assign(dataset="toy", age=50, sex="", origin="real")
        table["split"] = ["train" if number < 24 else "validation" for number in range(30)]
        w.append(signals.numpy(), table)
    settings = registry.check_settings("simulator", GeneratorSettings(), "here")
    logged: list[object] = []
    generator = training_of_generators.train(
        "simulator",
        settings,
        RecordSet.open(tmp_path / "set"),
        Compute(accelerator="cpu", devices=1, precision="auto", threads=1),
        tmp_path / "checkpoints",
        lambda *found: logged.append(found),
    )
    torch.testing.assert_close(
        generator.scale[:, 0], signals[:24].std(dim=(0, 2)), rtol=0.01, atol=0
    )
    assert logged == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("diffwave", [("loss/train", 3)]),
        (
            "beat_diffusion",
            [("loss/rhythm/train", 3), ("loss/beat/train", 1203), ("loss/denoiser/train", 2403)],
        ),
    ],
)
def test_metrics_have_the_name_of_their_phase_if_there_are_several(
    name: str, expected: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = dict.fromkeys(generator_class(name).phases, 1200)
    settings = Params.read(Path(__file__).parent.parent / "params.yaml").generator(name)
    training = {
        phase: settings.training[phase].model_copy(update={"steps": count})
        for phase, count in steps.items()
    }
    monkeypatch.setattr(
        training_of_generators, "fit", lambda *_, log, **__: log({"loss/train": 0.5}, 3)
    )
    logged: list[tuple[str, int]] = []
    training_of_generators.train(
        name,
        settings.model_copy(update={"network": NETWORKS[name], "training": training}),
        record_set(tmp_path / "set", *records(8)),
        Compute(accelerator="cpu", devices=1, precision="auto", threads=1),
        tmp_path / "checkpoints",
        lambda metrics, step: logged.extend((key, step) for key in metrics),
    )
    assert logged == expected


def test_phases_that_a_generator_does_not_have_are_named() -> None:
    params = Params.read(Path(__file__).parent.parent / "params.yaml")
    settings = params.generator("diffwave")
    registry.check_settings("diffwave", settings, "here")
    other = settings.model_copy(update={"training": params.generator("time_vqvae").training})
    with pytest.raises(EcgforgeError, match=r"here\.training: .*denoiser"):
        registry.check_settings("diffwave", other, "here")
