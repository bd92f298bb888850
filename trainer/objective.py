"""What a training makes small: cross entropy, smoothed and weighted as the request asks for.

Shapes: B images of a batch, C classes.
"""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

import torch
from torch import Tensor, nn

from models.schemas import TrainingRequest


def build_objective(request: TrainingRequest, targets: list[int], device: torch.device) -> nn.CrossEntropyLoss:
    """The loss of logits_BC and targets_B, or targets_BC of shares. `targets` are those of all training images."""
    if request.class_weights != "balanced":
        return nn.CrossEntropyLoss(label_smoothing=request.label_smoothing)
    weights_C = balanced_weights(targets, request.num_classes)
    return _Weighted(weights_C, label_smoothing=request.label_smoothing, reduction="sum").to(device)


class _Weighted(nn.CrossEntropyLoss):
    """The mean over images. torch's own divides by the weights of the batch: an image alone in its batch would count 1,
    whatever its class."""

    def forward(self, logits_BC: Tensor, targets: Tensor) -> Tensor:
        return super().forward(logits_BC, targets) / len(logits_BC)


def balanced_weights(targets: list[int], num_classes: int) -> Tensor:
    """Of each class, so that all of them together count the same, and an image 1 on average.

    As scikit-learn's `compute_class_weight("balanced")`: N / (C n_c).
    """
    counts_C = torch.bincount(torch.tensor(targets), minlength=num_classes)
    return (len(targets) / (num_classes * counts_C.double())).float()


def right_answers(logits_BC: Tensor, targets: Tensor) -> Tensor:
    """How many; of a mixed image, the class with the largest share is right."""
    targets_B = targets if targets.ndim == 1 else targets.argmax(dim=1)
    return (logits_BC.argmax(dim=1) == targets_B).sum()
