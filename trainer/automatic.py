"""What `"auto"` stands for, and why.

A number that is chosen is a number that the request could have had: the training is then the same, bit for bit. So
whoever wants it again writes down what the log says.
"""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import nn

from models.schemas import TrainingRequest
from trainer import lines
from trainer.layers import set_training

AUTO = "auto"
BATCHES_PER_EPOCH = 20
"""An epoch of fewer updates teaches little: in as many epochs the network sees the images as often, but moves less."""
FEWEST, MOST, MOST_ON_GPU = 8, 64, 256
"""Images. Two cores are no faster with more than 64 at a time (doc/PRESETS.md), and a GPU hardly with more than 256."""
_USUAL_SIZE = 224


@dataclass(frozen=True)
class Choice:
    """The value of one field, and the reason in half a sentence."""

    field: str
    value: int | float
    why: str


def batch_size_of(request: TrainingRequest) -> int:
    """Of a request whose `auto` has been chosen."""
    assert not isinstance(request.batch_size, str)
    return request.batch_size


def learning_rate_of(request: TrainingRequest) -> float:
    """As `batch_size_of`."""
    assert not isinstance(request.learning_rate, str)
    return request.learning_rate


def chosen_batch_size(
    request: TrainingRequest, network: nn.Module, images: int, device: torch.device, *, workers: int = 1
) -> Choice:
    """A power of two, for `images` training images and what the memory of `device` takes, two images for each worker.

    On a GPU the network, which is left as it was, is tried out with a worker's share of it.
    """
    on_gpu = device.type == "cuda"
    most = MOST_ON_GPU if on_gpu else MOST
    if not on_gpu and request.image_size > _USUAL_SIZE:
        most = int(most * (_USUAL_SIZE / request.image_size) ** 2)
    wanted = max(FEWEST, min(most, images // BATCHES_PER_EPOCH))
    size = 2 ** (wanted.bit_length() - 1)
    while size < 2 * workers:
        size *= 2
    why = f"{images} training images make {-(-images // size)} batches an epoch of it"
    if size == FEWEST and images < FEWEST * BATCHES_PER_EPOCH:
        why += ", and with fewer in a batch its statistics are poor"
    elif images // BATCHES_PER_EPOCH > most:
        why += f", and {'a GPU' if on_gpu else 'a CPU'} is hardly faster with more at a time"
    if on_gpu:
        size, why = _that_fits(request, network, size, why, device, workers)
    return Choice("batch_size", size, why)


def _that_fits(
    request: TrainingRequest, network: nn.Module, size: int, why: str, device: torch.device, workers: int
) -> tuple[int, str]:
    wanted = size
    while not _fits(request, network, -(-size // workers), device):
        if size <= 2 * workers:
            break  # the training says what it lacks
        size //= 2
    return size, why if size == wanted else f"the memory of {device} does not take {2 * size}"


def _fits(request: TrainingRequest, network: nn.Module, size: int, device: torch.device) -> bool:
    """Whether `size` images, their gradients and an optimizer's two moments have room, in fp32 at worst."""
    shape = (size, 3, request.image_size, request.image_size)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    random = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    try:
        moments = [torch.empty_like(parameter) for parameter in network.parameters() for _ in range(2)]
        set_training(network)
        images_BCHW = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
        with random:
            network(images_BCHW).sum().backward()
        del moments
    except torch.OutOfMemoryError:
        return False
    finally:
        network.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def say(choice: Choice, logger: logging.Logger) -> None:
    logger.info(lines.chosen(choice.field, choice.value, choice.why))
