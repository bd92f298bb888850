"""Images of a folder as batches, the same ones for the same seed.

Batches are loaded by the training process itself: by its own thread on the CPU, by threads beside it for a GPU
(trainer.read_ahead). No process has to be started or stopped.

Shapes: B images of a batch, C = 3 channels (red, green, blue), H = W = image_size pixels.
"""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from random import Random

import torch
from torch import Tensor

from trainer.errors import TrainingStopped
from trainer.framing import Frame
from trainer.images import UnreadableImage
from trainer.read_ahead import in_order, readers_for
from trainer.split import Split

CPU = torch.device("cpu")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in 0-1, as published with torchvision's weights."""


def epoch_order(count: int, *, seed: int, epoch: int, shuffle: bool) -> list[int]:
    """The order in which an epoch visits `count` images: the same for the same seed, another each epoch."""
    order = list(range(count))
    if shuffle:
        Random(f"order {seed} {epoch}").shuffle(order)
    return order


def group(order: list[int], batch_size: int) -> list[list[int]]:
    """Cut into batches. A single image left over joins the last batch, which batch normalisation needs."""
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if batch_size > 1 and len(groups) > 1 and len(groups[-1]) == 1:
        left_over = groups.pop()
        groups[-1].extend(left_over)
    return groups


def batches(
    split: Split,
    groups: list[list[int]],
    frame: Frame,
    *,
    image_size: int,
    should_stop: Callable[[], bool],
    device: torch.device = CPU,
    whole_size: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images_BCHW of uint8, channels last in memory; targets_B) for each group of indices.

    They are on the CPU, for a GPU in memory that it can fetch from while the CPU goes on. A batch is smaller than
    its group, down to none at all, by the images that turn out to be unreadable. Raises `TrainingStopped` between
    two images, and what `Split.decode` and `Split.leave_out` raise.

    Images are decoded for `whole_size`, the largest that any epoch wants of them: what is kept is one for all.
    """
    at_least = 2 * (whole_size or image_size)

    def load(index: int) -> Tensor:
        return frame(split.decode(index, at_least=at_least), index)

    pinned = device.type == "cuda"
    ahead = 2 * max(map(len, groups), default=0)
    with in_order(load, chain.from_iterable(groups), readers=readers_for(device), ahead=ahead) as loaded:
        for indices in groups:
            shape = (len(indices), image_size, image_size, 3)
            images_BCHW = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned).permute(0, 3, 1, 2)
            pixels_BHWC = images_BCHW.permute(0, 2, 3, 1).numpy()  # torch would wake all its threads for each image
            targets: list[int] = []
            for index, result in zip(indices, loaded, strict=False):
                if should_stop():
                    raise TrainingStopped
                try:
                    pixels_BHWC[len(targets)] = result().permute(1, 2, 0).numpy()
                except UnreadableImage as error:
                    split.leave_out(index, error)
                else:
                    targets.append(split.targets[index])
            yield images_BCHW[: len(targets)], torch.tensor(targets, pin_memory=pinned)


def mean_and_deviation(device: torch.device = CPU) -> Tensor:
    """ImageNet's, of each channel, as `normalise` takes them: made once, as a copy to a GPU waits for all its work."""
    return torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device).view(2, 3, 1, 1)


def normalise(images_BCHW: Tensor, statistics_2C11: Tensor | None = None) -> Tensor:
    """uint8 0-255 to floats of ImageNet's mean 0 and standard deviation 1 per channel, on the same device."""
    mean_C11, std_C11 = mean_and_deviation(images_BCHW.device) if statistics_2C11 is None else statistics_2C11
    return images_BCHW.float().sub_(255 * mean_C11).div_(255 * std_C11)
