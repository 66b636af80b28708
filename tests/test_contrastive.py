"""Pre-training without labels: its loss, what it trains, and what it must not know."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ecgforge.classifiers.common import contrastive, registry
from ecgforge.classifiers.common.base import Classifier
from ecgforge.classifiers.common.registry import CLASSIFIERS
from ecgforge.errors import EcgforgeError
from ecgforge.params import Params, PreTraining, checked

PARAMS = Params.read(Path(__file__).parent.parent / "params.yaml")
BACKBONES = [name for name in CLASSIFIERS if name in PARAMS.active.classifiers]  # no test's own
SETTINGS = PreTraining(
    steps=20, batch_size=8, learning_rate=0.01, warmup_steps=0, ema_decay=0.0, evaluate_every=10
)
RHYTHMS = ("SR", "AFIB", "ST")


def signals(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 8, 400, generator=torch.Generator().manual_seed(seed))


def noisy(records: Tensor, random: torch.Generator) -> Tensor:
    return records + 0.3 * torch.randn(records.shape, generator=random)


def create(backbone: str) -> Classifier:
    settings = PARAMS.classifier_settings(backbone)
    return registry.create(settings, RHYTHMS, torch.ones(8), seed=0)


def test_the_loss_is_that_of_finding_the_other_view_among_all_others() -> None:
    apart = torch.eye(2).repeat(2, 1)  # two records; the views of each are equal
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert contrastive.nt_xent(apart, 0.5).item() == pytest.approx(expected)
    views = torch.nn.functional.normalize(torch.randn(10, 4), dim=1)
    losses = []
    for place in range(10):
        own = {other: math.exp(float(views[place] @ views[other]) / 0.2) for other in range(10)}
        del own[place]
        losses.append(-math.log(own[(place + 5) % 10] / sum(own.values())))
    found = contrastive.nt_xent(views, 0.2).item()
    assert found == pytest.approx(sum(losses) / 10, rel=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_parts_but_the_head_learn_and_labels_do_not_matter(backbone: str) -> None:
    classifier = create(backbone)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    objective = contrastive.objective(classifier, noisy, SETTINGS, signals(1), seed=0)
    assert classifier.training, "normalisation and dropout are at work"
    optimiser = torch.optim.SGD(objective.parameters, 0.1)
    # a block that starts as its shortcut passes no gradient to its inner weights before the second
    # step
    for step in range(2):
        optimiser.zero_grad()
        losses = []
        for labels in (torch.arange(8) % 3, torch.zeros(8, dtype=torch.int64)):
            torch.manual_seed(step)  # of dropout
            random = torch.Generator().manual_seed(step)
            losses.append(objective.loss(signals(8), labels, random)["loss"])
        assert torch.equal(*losses)
        losses[0].backward()
        optimiser.step()
    head = {f"head.{name}" for name, _ in classifier.head.named_parameters()}
    trained = {
        name
        for name, value in classifier.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert trained == {name for name, _ in classifier.named_parameters()} - head


def test_views_of_a_record_become_more_alike_than_those_of_others() -> None:
    classifier = create("resnet1d")
    objective = contrastive.objective(classifier, noisy, SETTINGS, signals(1), seed=0)
    optimiser = torch.optim.AdamW(objective.parameters, 0.005)
    for step in range(30):
        optimiser.zero_grad()
        random = torch.Generator().manual_seed(step)
        objective.loss(signals(32, step), torch.zeros(32), random)["loss"].backward()
        optimiser.step()
    new = signals(24, 1000)
    with torch.no_grad():
        one, two = (
            classifier.eval().features(noisy(new, torch.Generator().manual_seed(seed)))
            for seed in (0, 1)
        )
    similar = torch.nn.functional.cosine_similarity(
        (one - one.mean(0))[:, None], (two - two.mean(0))[None], dim=2
    )
    assert (similar.argmax(1) == torch.arange(24)).float().mean() > 0.6, "1 in 24 by chance"


def test_rhythms_cannot_balance_the_batches() -> None:
    tree = SETTINGS.model_dump()
    assert tree["class_balance_power"] == 0
    with pytest.raises(EcgforgeError, match="here: class_balance_power = 0.5"):
        checked(PreTraining, tree | {"class_balance_power": 0.5}, "here")
