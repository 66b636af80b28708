"""Self-supervised pre-training of a classifier's features: SimCLR.

Chen et al. 2020 (arXiv 2002.05709), "A Simple Framework for Contrastive Learning of Visual
Representations": two views of a record should have similar features, and views of different records
other ones. The views are classical augmentations. No label is used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ecgforge.classifiers.common.base import Change, Classifier
from ecgforge.params import PreTraining
from ecgforge.training.objective import Objective, mean_losses


class Contrastive(nn.Module):
    """A classifier with a projection of its features, which only the pre-training uses.

    Args:
        classifier: its features are trained, and its head is not.
        width: of the projection, and of its hidden layer.
        example: `[records, leads, samples]`, to find the number of features.
        seed: of the projection's weights.
    """

    def __init__(self, classifier: Classifier, width: int, example: Tensor, seed: int) -> None:
        super().__init__()
        self.classifier = classifier
        with torch.no_grad():
            features = self._features(example).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Sequential(
                nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width)
            )

    def forward(self, signals: Tensor) -> Tensor:
        """Map signals `[batch, leads, samples]` to unit vectors, `[batch, width]`."""
        return normalize(self.projection(self._features(signals)).float(), dim=1)

    def _features(self, signals: Tensor) -> Tensor:
        return self.classifier.features(signals / self.classifier.scale[:, None])


def objective(
    classifier: Classifier, change: Change, settings: PreTraining, example: Tensor, seed: int
) -> Objective:
    """Return the objective that trains all parts of `classifier` but its head.

    Args:
        change: returns a random view of signals.
        example: a few signals.
        seed: of the projection's weights.
    """
    module = Contrastive(classifier.eval(), settings.projection, example, seed).train()

    def loss(signals: Tensor, _: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        views = torch.cat([change(signals, random), change(signals, random)])
        return {"loss": nt_xent(module(views), settings.temperature)}

    modules = [*classifier.parts[1:], module.projection]
    parameters = [parameter for one in modules for parameter in one.parameters()]
    return Objective(module, parameters, loss, loss, mean_losses, "loss", higher_is_better=False)


def nt_xent(views: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy (eq. 1 of the source).

    Each view must find the other view of its record among all other views of the batch.

    Args:
        views: unit vectors `[2 * batch, width]`, the first views of all records before the second
            ones.
        temperature: divides the similarities.
    """
    similarities = (views @ views.T) / temperature
    alone = torch.eye(len(views), dtype=torch.bool, device=views.device)
    others = torch.arange(len(views), device=views.device).roll(len(views) // 2)
    return cross_entropy(similarities.masked_fill(alone, -torch.inf), others)
