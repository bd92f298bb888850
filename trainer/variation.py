"""More ways in which a training image can differ from the file: TrivialAugment and random erasing.

They come after the crop, and change what is in the square. What happens to an image depends on seed, epoch and index
alone, as the crop does.
"""

# ruff: noqa: N803 - shape suffixes are upper case
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from models.schemas import TrainingRequest
from trainer.data import IMAGENET_MEAN
from trainer.framing import Frame, to_image, to_tensor
from trainer.own_random import OwnRandom


@dataclass(frozen=True)
class Varied:
    """A frame, and further steps on the square that it cuts."""

    frame: Frame
    steps: tuple[Callable[[Image.Image], Image.Image], ...]
    seed: int
    epoch: int

    def __call__(self, image_CHW: Tensor, index: int) -> Tensor:
        square = to_image(self.frame(image_CHW, index))  # TrivialAugment is faster on those
        with OwnRandom(f"variation {self.seed} {self.epoch} {index}"):
            for step in self.steps:
                square = step(square)
        return to_tensor(square)


def varied(frame: Frame, request: TrainingRequest, *, epoch: int) -> Frame:
    """`frame`, and then what `request` asks for beside it. What is erased has the mean colour, which is 0 when
    normalised, as in torchvision's references."""
    steps = []
    if request.trivial_augment:
        steps.append(v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR))
    if request.random_erasing:
        mean = tuple(round(255 * value) for value in IMAGENET_MEAN)
        steps.append(v2.RandomErasing(request.random_erasing, value=mean))
    if not steps:
        return frame
    return Varied(frame, tuple(steps), request.seed, epoch)
