"""The square that the network sees, cut out of an image of any shape.

Shapes: C = 3 channels (red, green, blue), H = W = image_size pixels.
"""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

CROP_AREA = (0.7, 1.0)
CROP_ASPECT = (0.87, 1.15)
"""Of the random crop, relative to the largest square in the image. Milder than ImageNet training's: small
data sets are often tightly cropped already, and a digit must stay that digit."""

Frame = Callable[[Tensor, int], Tensor]
"""Cuts the square that the network sees out of an image, uint8_CHW both, given the image's index. Can be pickled."""


@dataclass(frozen=True)
class Central:
    """The largest square in the middle, scaled: what validation and prediction see."""

    image_size: int

    def __call__(self, image_CHW: Tensor, _index: int) -> Tensor:
        height, width = image_CHW.shape[1:]
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return scaled(image_CHW, (left, top, left + side, top + side), self.image_size)


@dataclass(frozen=True)
class Augmented:
    """A random crop near the largest square, flipped half of the time where `hflip` allows it.

    What happens to an image depends on seed, epoch and index alone, not on the order of reading.
    """

    image_size: int
    hflip: bool
    seed: int
    epoch: int

    def __call__(self, image_CHW: Tensor, index: int) -> Tensor:
        random = Random(f"crop {self.seed} {self.epoch} {index}")
        image_height, image_width = image_CHW.shape[1:]
        side = min(image_width, image_height)
        area, aspect = random.uniform(*CROP_AREA), random.uniform(*CROP_ASPECT)
        width = min(side * (area * aspect) ** 0.5, image_width)
        height = min(side * (area / aspect) ** 0.5, image_height)
        left, top = random.uniform(0, image_width - width), random.uniform(0, image_height - height)
        crop_CHW = scaled(image_CHW, (left, top, left + width, top + height), self.image_size)
        return crop_CHW.flip(2) if self.hflip and random.random() < 0.5 else crop_CHW


def scaled(image_CHW: Tensor, box: tuple[float, float, float, float], image_size: int) -> Tensor:
    """What lies in `box` (left, top, right, bottom) as a square of `image_size`, bilinear and without aliasing.

    torch scales three times as fast as Pillow, and both alike to one of 256 levels; but it knows whole pixels only.
    Where an image is made smaller, parts of a pixel are nothing to be seen; where it is made larger they are.
    """
    left, top, right, bottom = (round(edge) for edge in box)
    if min(right - left, bottom - top) < image_size:
        return to_tensor(to_image(image_CHW).resize((image_size, image_size), Image.Resampling.BILINEAR, box=box))
    image_BCHW = image_CHW.permute(1, 2, 0)[None].permute(0, 3, 1, 2)  # seen to be channels last, as the result is then
    crop_BCHW = image_BCHW[:, :, top:bottom, left:right]
    return functional.interpolate(crop_BCHW, (image_size, image_size), mode="bilinear", antialias=True)[0]


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8_CHW, channels last in memory."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def to_image(image_CHW: Tensor) -> Image.Image:
    """The other way round."""
    return Image.fromarray(image_CHW.permute(1, 2, 0).contiguous().numpy())
