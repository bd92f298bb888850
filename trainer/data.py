"""Images of a folder as batches, the same ones for the same seed.

Batches are loaded by the training process itself, or for a GPU, where that is worth it, by processes beside it
(`trainer.readers`).

Shapes: B images of a batch, C = 3 channels (red, green, blue), H = W = image_size pixels.
"""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from random import Random

import numpy as np
import torch
from torch import Tensor

from trainer import lines
from trainer.errors import TrainingStopped
from trainer.framing import Frame
from trainer.images import UnreadableImage
from trainer.reader import Pixels
from trainer.readers import WORTH_S, Readers
from trainer.split import Split

CPU = torch.device("cpu")
Read = Generator[tuple[Pixels, dict[int, Exception]], None, None]
"""pixels_BHWC of each batch; by position why an image cannot be read."""

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
    readers: Readers | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images_BCHW of uint8, channels last in memory; targets_B) for each group of indices.

    They are on the CPU, for a GPU in memory that it can fetch from while the CPU goes on. A batch is smaller than
    its group, down to none at all, by the images that turn out to be unreadable. Raises `TrainingStopped` between
    two images, or while it waits for readers, and what `Split.decode` and `Split.leave_out` raise.

    Images are decoded for `whole_size`, the largest that any epoch wants of them: what is kept is one for all.
    They are the same with `readers` and without.
    """
    pinned = device.type == "cuda"
    at_least = 2 * (whole_size or image_size)
    read = partial(_read, size=image_size, at_least=at_least, should_stop=should_stop)
    source = _read_with(readers, read, split, groups, frame) if readers else read(split, groups, frame)
    with closing(source) as found:
        for indices, (pixels_BHWC, errors) in zip(groups, found, strict=True):
            for position, error in sorted(errors.items()):
                if not isinstance(error, UnreadableImage):
                    raise error
                split.leave_out(indices[position], error)
            good = [position for position in range(len(indices)) if position not in errors]
            images_BHWC = torch.from_numpy(pixels_BHWC[good] if errors else pixels_BHWC)
            if readers:  # in memory that is theirs, or that a GPU cannot fetch from
                images_BHWC = torch.empty(images_BHWC.shape, dtype=torch.uint8, pin_memory=pinned).copy_(images_BHWC)
            targets_B = torch.tensor([split.targets[indices[position]] for position in good], dtype=torch.int64)
            yield images_BHWC.permute(0, 3, 1, 2), targets_B.pin_memory() if pinned else targets_B


def _read(
    split: Split,
    groups: Sequence[Sequence[int]],
    frame: Frame,
    *,
    size: int,
    at_least: int,
    should_stop: Callable[[], bool],
) -> Read:
    """What `Readers.read` gives, read by this process."""
    for indices in groups:
        pixels_BHWC = np.empty((len(indices), size, size, 3), np.uint8)  # torch would wake its threads for each image
        errors: dict[int, Exception] = {}
        for position, index in enumerate(indices):
            if should_stop():
                raise TrainingStopped
            try:
                pixels_BHWC[position] = frame(split.decode(index, at_least=at_least), index).permute(1, 2, 0).numpy()
            except UnreadableImage as error:
                errors[position] = error
        yield pixels_BHWC, errors


def _read_with(
    readers: Readers, read: partial[Read], split: Split, groups: Sequence[Sequence[int]], frame: Frame
) -> Read:
    """By this process as `read` does, until the readers are there, if reading what is left is worth starting them."""
    left, fastest, trouble = sum(map(len, groups)), math.inf, readers.trouble
    for number, indices in enumerate(groups):
        if readers.are_there(read.keywords["should_stop"]):
            split.decoded.clear()  # they keep their own
            yield from readers.read(split, groups[number:], frame, **read.keywords)
            return
        began = time.perf_counter()
        batch = next(read(split, [indices], frame))
        left -= len(indices)
        if number and indices:  # what comes first is slow for reasons of its own
            fastest = min(fastest, (time.perf_counter() - began) / len(indices))
            if not (readers.is_started or readers.trouble) and fastest * left > WORTH_S:
                split.logger.info(lines.readers_start(readers.count, fastest))
                readers.start()
        if readers.trouble != trouble:
            trouble = readers.trouble
            split.logger.warning(lines.no_readers(trouble))
        yield batch


def mean_and_deviation(device: torch.device = CPU) -> Tensor:
    """ImageNet's, of each channel, as `normalise` takes them: made once, as a copy to a GPU waits for all its work."""
    return torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device).view(2, 3, 1, 1)


def normalise(images_BCHW: Tensor, statistics_2C11: Tensor | None = None) -> Tensor:
    """uint8 0-255 to floats of ImageNet's mean 0 and standard deviation 1 per channel, on the same device."""
    mean_C11, std_C11 = mean_and_deviation(images_BCHW.device) if statistics_2C11 is None else statistics_2C11
    return images_BCHW.float().sub_(255 * mean_C11).div_(255 * std_C11)
