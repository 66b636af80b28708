"""The contract of every registered classifier, what is particular to each of them, and the
baselines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ecgforge.classifiers import baselines, transformer
from ecgforge.classifiers.common import base, registry
from ecgforge.classifiers.common.registry import CLASSIFIERS, check_settings
from ecgforge.errors import EcgforgeError
from ecgforge.params import ClassifierSettings, ClassifierTraining, Compute, Params
from ecgforge.records.record_set import About, RecordSet, write_record_set
from ecgforge.training import devices
from ecgforge.training.fit import fit

RHYTHMS = ("SR", "SB", "AFIB")
# small networks with their learning rates, so that a new backbone needs no entry here
DEMO = Params.read(Path(__file__).parent.parent / "params.yaml").with_profile("demo")
STEPS = 120  # enough for every backbone to learn


def training(backbone: str, steps: int, evaluate_every: int = 20) -> ClassifierTraining:
    return ClassifierTraining(
        steps=steps,
        batch_size=16,
        learning_rate=DEMO.classifier_settings(backbone).training.learning_rate,
        weight_decay=0.0,
        warmup_steps=5,
        gradient_clip=1.0,
        ema_decay=0.0,
        class_balance_power=0.5,
        evaluate_every=evaluate_every,
        patience=None,
    )


COMPUTE = Compute(accelerator="cpu", devices=1, precision="auto", threads=1)


def settings(backbone: str, **network: Any) -> ClassifierSettings:
    return ClassifierSettings(
        backbone=backbone,
        network=DEMO.classifier_settings(backbone).network | network,
        training=training(backbone, STEPS),
    )


def create(backbone: str, **network: Any) -> base.Classifier:
    return registry.create(settings(backbone, **network), RHYTHMS, torch.full((8,), 0.2), seed=0)


@pytest.fixture(params=list(CLASSIFIERS))
def backbone(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def classifier(backbone: str) -> base.Classifier:
    return create(backbone)


def beats(rng: np.random.Generator, rhythm: str, samples: int = 1000) -> np.ndarray:
    """A train of narrow beats at 100 Hz: regular at 75 or 45 bpm, or irregular at 75."""
    mean = {"SR": 80, "SB": 133, "AFIB": 80}[rhythm]
    intervals = rng.normal(mean, 25 if rhythm == "AFIB" else 2, 40).clip(35)
    times = rng.integers(0, 80) + np.cumsum(intervals)
    wave = np.exp(-0.5 * ((np.arange(samples)[:, None] - times) / 1.5) ** 2).sum(axis=1)
    return wave * rng.normal(1, 0.1, (8, 1)) + rng.normal(0, 0.03, (8, samples))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> RecordSet:
    rng = np.random.default_rng(0)
    rhythms = [RHYTHMS[i % 3] for i in range(360)]
    ids = [f"r{i}" for i in range(360)]
    splits = ["test" if i >= 300 else "validation" if i >= 240 else "train" for i in range(360)]
    table = pd.DataFrame({"id": ids, "patient": ids, "rhythm": rhythms, "split": splits})
    folder = tmp_path_factory.mktemp("records") / "set"
    with write_record_set(folder, About(100, 1000, "mV", RHYTHMS, "simulated", {})) as writer:
        writer.append(
            np.stack([beats(rng, rhythm) for rhythm in rhythms]),
            table.assign(dataset="ptbxl", age=50, sex="", origin="simulated"),
        )
    return RecordSet.open(folder)


def test_logits_for_any_batch_and_length(classifier: base.Classifier) -> None:
    for batch, samples in ((1, 1000), (3, 1000), (2, 37), (2, 1001), (1, 6000)):
        logits = classifier.eval()(torch.randn(batch, 8, samples))
        assert logits.shape == (batch, len(RHYTHMS))
        assert logits.isfinite().all()


@pytest.mark.parametrize("trained", [None, 1])
def test_what_is_trained_is_in_training_mode_and_the_rest_is_not(
    classifier: base.Classifier, trained: int | None
) -> None:
    """A loaded classifier is in evaluation mode."""
    objective = classifier.eval().objective(trained)
    objective.loss(torch.randn(4, 8, 500), torch.arange(4) % len(RHYTHMS), torch.Generator())
    awake = len(classifier.parts[:trained])
    modes = [{module.training for module in part.modules()} for part in classifier.parts]
    assert modes == [{number < awake} for number in range(len(modes))]


@pytest.mark.parametrize("samples", [1000, 1001])
def test_every_sample_of_every_lead_counts(classifier: base.Classifier, samples: int) -> None:
    signals = torch.randn(
        16, 8, samples, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    classifier.eval()(signals).square().sum().backward()
    assert signals.grad is not None
    assert (signals.grad != 0).any(0).all()


def test_the_scale_of_the_training_signals_is_part_of_the_model(backbone: str) -> None:
    small, large = (
        registry.create(settings(backbone), RHYTHMS, torch.full((8,), scale), seed=0).eval()
        for scale in (0.2, 2.0)
    )
    signals = torch.randn(2, 8, 1000)
    torch.testing.assert_close(small(signals), large(10 * signals))


def test_seeds_decide_the_weights_and_nothing_else_does(backbone: str) -> None:
    scale = torch.ones(8)
    torch.manual_seed(1)
    first = registry.create(settings(backbone), RHYTHMS, scale, seed=0).state_dict()
    torch.manual_seed(2)
    second = registry.create(settings(backbone), RHYTHMS, scale, seed=0).state_dict()
    other = registry.create(settings(backbone), RHYTHMS, scale, seed=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_saved_and_loaded_it_is_the_same_to_the_byte(
    classifier: base.Classifier, backbone: str, tmp_path: Path
) -> None:
    registry.save(classifier, backbone, tmp_path / "a")
    loaded = registry.load(tmp_path / "a")
    registry.save(loaded, backbone, tmp_path / "b")
    for name in ("weights.safetensors", "classifier.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    signals = torch.randn(2, 8, 1000)
    torch.testing.assert_close(loaded(signals), classifier.eval()(signals), rtol=0, atol=0)
    assert loaded.rhythms == RHYTHMS


def test_every_weight_learns(classifier: base.Classifier) -> None:
    optimiser = torch.optim.SGD(classifier.parameters(), 0.1)
    # a block that starts as its shortcut passes no gradient to its inner weights before the second
    # step
    for _ in range(2):
        optimiser.zero_grad()
        classifier.train().objective().loss(
            torch.randn(4, 8, 1000), torch.tensor([0, 1, 2, 0]), torch.Generator()
        )["loss"].backward()
        optimiser.step()
    assert [
        name
        for name, parameter in classifier.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ] == []


def trained(
    backbone: str, records: RecordSet, folder: Path, steps: int, evaluate_every: int, seed: int
) -> tuple[base.Classifier, float]:
    """Train on the training split, and return the classifier with its best macro-F1 on the
    validation split.
    """
    classifier = registry.create(settings(backbone), RHYTHMS, torch.full((8,), 0.3), seed=0)
    outcome = fit(
        classifier.objective(),
        [records.split("train")],
        [records.split("validation")],
        training(backbone, steps, evaluate_every),
        COMPUTE,
        seed=seed,
        folder=folder,
        log=lambda *_: None,
    )
    return classifier, outcome.best


@pytest.mark.slow
def test_it_learns_and_beats_the_baselines(
    backbone: str, records: RecordSet, tmp_path: Path
) -> None:
    classifier, best = trained(backbone, records, tmp_path, STEPS, evaluate_every=20, seed=0)
    test = records.split("test")
    found = base.probabilities(classifier, test)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert best > 0.85
    assert (found.argmax(axis=1) == test.labels).mean() > 0.85


def test_training_is_a_function_of_its_seed(
    backbone: str, records: RecordSet, tmp_path: Path
) -> None:
    weights = []
    for run, seed in enumerate([0, 0, 1]):
        torch.manual_seed(run)  # dropout must not draw from what came before
        classifier, _ = trained(
            backbone, records, tmp_path / str(run), steps=4, evaluate_every=2, seed=seed
        )
        weights.append(
            torch.cat([parameter.detach().flatten() for parameter in classifier.parameters()])
        )
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_it_exports_for_any_batch(backbone: str, records: RecordSet, tmp_path: Path) -> None:
    classifier, _ = trained(backbone, records, tmp_path, steps=4, evaluate_every=4, seed=0)
    network = classifier.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    exported = torch.export.export(
        network, (torch.zeros(2, 8, 1000),), dynamic_shapes=shapes
    ).module()
    for batch in (1, 5):
        signals = torch.randn(batch, 8, 1000)
        torch.testing.assert_close(exported(signals), network(signals), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "key", "value", "message"),
    [
        *((name, "dropot", 0.1, "dropot: unknown key") for name in CLASSIFIERS),
        *((name, "dropout", 1.0, "dropout = 1.0: .* less than 1") for name in CLASSIFIERS),
        *(
            (name, "widths", [], "widths = \\[\\]: .* at least 1 item")
            for name in ("resnet1d", "xresnet1d")
        ),
        *((name, "kernel", 8, "kernel = 8: must be odd") for name in ("resnet1d", "xresnet1d")),
        ("xresnet1d", "depths", [1], "depths must have as many values as widths: \\d"),
        ("xresnet1d", "depths", [1, 0], "depths.1 = 0: .* greater than or equal to 1"),
        ("xresnet1d", "kernel", 3, "stem_stride must not be above kernel \\(3\\)"),
        ("transformer", "patch", 0, "patch = 0: .* greater than or equal to 1"),
        ("transformer", "width", 33, "width = 33: .* multiple of 2"),
        ("transformer", "heads", 5, "width must be a multiple of heads, 5"),
    ],
)
def test_a_bad_parameter_is_an_error_that_names_the_key(
    backbone: str, key: str, value: Any, message: str
) -> None:
    check_settings(settings(backbone), "here")
    with pytest.raises(EcgforgeError, match=f"^here.network.*{message}") as caught:
        check_settings(settings(backbone, **{key: value}), "here")
    assert "\n" not in str(caught.value)


def test_its_parts_are_all_that_is_trained_each_once(classifier: base.Classifier) -> None:
    parts = [parameter for part in classifier.parts for parameter in part.parameters()]
    assert len(parts) == len({id(parameter) for parameter in parts})
    assert {id(parameter) for parameter in parts} == {
        id(parameter) for parameter in classifier.parameters()
    }
    assert all(any(True for _ in part.parameters()) for part in classifier.parts)


def test_parts_that_are_not_trained_stay_as_they_are(classifier: base.Classifier) -> None:
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    state = classifier.state_dict(keep_vars=True)
    moving = {
        id(value)
        for part in classifier.parts[:2]
        for value in part.state_dict(keep_vars=True).values()
    }
    objective = classifier.train().objective(trained=2)
    optimiser = torch.optim.SGD(objective.parameters, 0.1)
    for _ in range(2):
        optimiser.zero_grad()
        objective.loss(torch.randn(4, 8, 1000), torch.tensor([0, 1, 2, 0]), torch.Generator())[
            "loss"
        ].backward()
        optimiser.step()
    changed = {key for key, value in state.items() if not torch.equal(value, before[key])}
    assert changed == {key for key, value in state.items() if id(value) in moving}


def test_a_gpu_predicts_with_its_precision_but_not_with_logits_of_8_bits(
    classifier: base.Classifier, records: RecordSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = base.probabilities(classifier, records)
    monkeypatch.setattr(devices, "on_gpu", lambda _: True)
    monkeypatch.setattr(devices, "device", lambda *_: torch.device("cpu"))
    with devices.placed(classifier, COMPUTE):
        found = base.probabilities(classifier, records)
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=0.02)
    gaps = torch.from_numpy(np.log(found[:, 1:] / found[:, :1]))
    assert (gaps.bfloat16() != gaps).double().mean() > 0.9
    full = COMPUTE.model_copy(update={"precision": "32-true"})
    with devices.placed(classifier, full):
        np.testing.assert_array_equal(base.probabilities(classifier, records), exact)


def test_batches_do_not_change_what_is_predicted(
    classifier: base.Classifier, records: RecordSet
) -> None:
    np.testing.assert_allclose(
        base.probabilities(classifier, records, 7),
        base.probabilities(classifier, records, 64),
        atol=1e-6,
    )


@pytest.fixture
def xresnet() -> nn.Module:
    return create("xresnet1d", widths=[8, 16], depths=[1, 2])


def seen(part: nn.Module, inputs: int, samples: int) -> torch.Tensor:
    """Return whether each sample matters to what a part of a block puts out, `[samples]`."""
    signals = torch.randn(
        4, inputs, 1, samples, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    part.eval()(signals).square().sum().backward()
    assert signals.grad is not None
    return (signals.grad != 0).any(0).any(0).squeeze()


def test_a_fresh_xresnet_is_its_shortcuts(xresnet: nn.Module) -> None:
    """The last block has as many channels in as out, so it starts as the identity; those before as
    their projections.
    """
    signals = torch.rand(4, 8, 1, 100)
    for block in xresnet.blocks:
        passed = block(signals)
        torch.testing.assert_close(passed, torch.relu(block.shortcut(signals)), rtol=0, atol=0)
        before, signals = signals, passed
    torch.testing.assert_close(signals, before, rtol=0, atol=0)


@pytest.mark.parametrize("samples", [50, 51])
def test_an_xresnet_halves_without_skipping_samples(xresnet: nn.Module, samples: int) -> None:
    """With the stride in a convolution of kernel 1, on the shortcut or first in the body, every
    other sample would be lost.
    """
    halving = xresnet.blocks[1]
    nn.init.ones_(halving.body[-1][-1].weight)
    assert halving(torch.zeros(1, 32, 1, samples)).shape == (1, 64, 1, (samples + 1) // 2)
    assert seen(halving.shortcut, 32, samples).all()
    assert seen(halving.body, 32, samples).all()


def test_a_transformer_knows_the_order_of_patches() -> None:
    classifier = create("transformer", width=32, heads=4, patch=40).eval()
    signals = torch.randn(4, 8, 1000, generator=torch.Generator().manual_seed(0))
    patches = signals.unflatten(-1, (25, 40))
    for order in (torch.arange(24, -1, -1), torch.tensor([1, 0, *range(2, 25)])):
        moved = (classifier(patches[:, :, order].flatten(2)) - classifier(signals)).abs().amax(1)
        assert (moved > 1e-4).all()  # rounding moves it by 1e-7


def test_a_patch_is_one_moment_of_all_leads() -> None:
    signals = torch.randn(2, 8, 100)
    found = transformer.patches(signals, 40)
    assert found.shape == (2, 3, 320)
    torch.testing.assert_close(found[:, 1].unflatten(1, (8, 40)), signals[:, :, 40:80])
    torch.testing.assert_close(
        found[:, 2].unflatten(1, (8, 40)), torch.cat([signals[:, :, 80:], torch.zeros(2, 8, 20)], 2)
    )


def test_every_patch_hears_every_other() -> None:
    layer = create("transformer", width=32, heads=4, patch=40).parts[1].eval()
    tokens = torch.randn(1, 25, 32, requires_grad=True)
    heard = (
        torch.autograd.functional.jacobian(lambda hidden: layer(hidden).square().sum(2), tokens)
        .abs()
        .sum(-1)
    )
    assert (heard > 0).all()


def test_a_layer_is_the_pre_norm_encoder_layer_of_torch() -> None:
    layer = create("transformer", width=32, heads=4, patch=40).parts[1].eval()
    expected = nn.TransformerEncoderLayer(
        32, 4, 128, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    pairs = {
        "self_attn.in_proj_": layer.inputs,
        "self_attn.out_proj.": layer.mixed,
        "linear1.": layer.inner[0],
        "linear2.": layer.inner[2],
        "norm1.": layer.first_norm,
        "norm2.": layer.second_norm,
    }
    expected.load_state_dict(
        {
            name + key: value
            for name, part in pairs.items()
            for key, value in part.state_dict().items()
        }
    )
    tokens = torch.randn(2, 25, 32)
    torch.testing.assert_close(layer(tokens), expected(tokens), rtol=1e-4, atol=1e-5)


def test_positions_differ_by_their_distance_alone() -> None:
    places = transformer.positions(1000, 32)
    products = (places @ places.T).double()
    for distance in (1, 10, 500):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-3)
    apart = products - 100 * torch.eye(1000)
    assert apart.max() < 16 - 0.1  # the product of a place with itself is half the width
    torch.testing.assert_close(transformer.positions(50, 32), places[:50])


def test_the_majority_baseline_gives_the_training_shares(records: RecordSet) -> None:
    train = records.split("train").select(np.arange(10))  # rhythms in turn: 4, 3, 3
    np.testing.assert_allclose(
        baselines.majority(train, records.split("test")), np.tile([0.4, 0.3, 0.3], (60, 1))
    )


def test_the_regression_on_beat_times_separates_rhythms_that_differ_in_them(
    records: RecordSet,
) -> None:
    found = baselines.logistic_regression_rr(records.split("train"), records.split("test"))
    assert (found.argmax(axis=1) == records.split("test").labels).mean() > 0.9


def test_rr_features_know_nothing_but_beat_times(records: RecordSet, tmp_path: Path) -> None:
    some = records.select(np.arange(9))
    with write_record_set(tmp_path / "flipped", records.about) as writer:
        writer.append(-3 * some.signals(), some.records)
    np.testing.assert_allclose(
        baselines.rr_features(RecordSet.open(tmp_path / "flipped")), baselines.rr_features(some)
    )
    rates = baselines.rr_features(some)[:, 0]
    np.testing.assert_allclose(rates[some.labels == 1], 45, atol=2)
