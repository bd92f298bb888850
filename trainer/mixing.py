"""Mixup and CutMix: images that are partly of one class and partly of another.

Shapes: B images of a batch, C classes (before the height it is the three colour channels), H, W pixels.
"""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from models.schemas import TrainingRequest
from trainer.own_random import OwnRandom


class Mixing:
    """Mixes each batch with itself: torchvision's `MixUp` or `CutMix`, and of both one at random.

    How a batch is mixed depends on seed, epoch and step alone.
    """

    def __init__(self, request: TrainingRequest) -> None:
        kinds = ((v2.MixUp, request.mixup_alpha), (v2.CutMix, request.cutmix_alpha))
        steps: list[Any] = [kind(alpha=alpha, num_classes=request.num_classes) for kind, alpha in kinds if alpha]
        self._step = v2.RandomChoice(steps)
        self._seed = request.seed

    def __call__(self, images_BCHW: Tensor, targets_B: Tensor, *, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Images, and targets_BC with the share of each class."""
        with OwnRandom(f"mixing {self._seed} {epoch} {step}"):
            mixed_BCHW, targets_BC = self._step(images_BCHW, targets_B)
        return mixed_BCHW, targets_BC


def mixing(request: TrainingRequest) -> Mixing | None:
    return Mixing(request) if request.mixup_alpha or request.cutmix_alpha else None
