"""Small image folders, requests and loggers for the tests of the trainer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from models.schemas import TrainingRequest
from trainer.automatic import batch_size_of
from trainer.checkpoint import load_network
from trainer.data import batches, group, normalise
from trainer.evaluation import Evaluation, evaluate
from trainer.framing import Central
from trainer.images import UnreadableImage
from trainer.split import Split, load_split


class Lines(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def at(self, level: str) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelname == level]


def logger_and_lines() -> tuple[logging.Logger, Lines]:
    logger, lines = logging.Logger("test"), Lines()
    logger.addHandler(lines)
    return logger, lines


def never() -> bool:
    return False


def write_images(root: Path, classes: dict[str, int], size: int = 8) -> Path:
    """`classes` maps a class name to its number of images: noise in a colour of its own."""
    generator = np.random.default_rng(0)
    for index, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 100, (size, size, 3), dtype=np.uint8)
            pixels[:, :, index % 3] += 100
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")
    return root


def write_digits(root: Path, *, training: int, validation: int, classes: int = 10) -> Path:
    """`root`/train and `root`/val with that many of scikit-learn's handwritten 8x8 digits per class."""
    digits = load_digits()
    for digit in range(classes):
        images = digits.images[digits.target == digit][: training + validation]
        for number, pixels in enumerate(images):
            folder = root / ("train" if number < training else "val") / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 255 / 16).astype(np.uint8)).save(folder / f"{number:03}.png")
    return root


def request_for(root: Path, **changes: Any) -> TrainingRequest:
    """A request for the folders `root`/train and `root`/val that trains something small."""
    fields: dict[str, Any] = {
        "model": "shufflenet_v2_x0_5",
        "num_classes": 2,
        "train_path": str(root / "train"),
        "val_path": str(root / "val"),
        "save_path": str(root / "runs"),
        "image_size": 32,
        "batch_size": 8,
        "num_epochs": 1,
        "device": "cpu",
        "pretrained": False,
        "amp": "fp32",
    }
    return TrainingRequest.model_validate(fields | changes)


def split_of(root: Path, logger: logging.Logger | None = None, **changes: Any) -> Split:
    """The images below `root`, as training images."""
    request = request_for(root).model_copy(update={"train_path": str(root)} | changes)
    return load_split(request, "train_path", logger=logger or logging.Logger("test"))


def read(split: Split, index: int) -> Tensor | None:
    """As a training reads an image."""
    try:
        return split.decode(index, at_least=8)
    except UnreadableImage as error:
        split.leave_out(index, error)
        return None


def evaluated_alone(checkpoint: Path, request: TrainingRequest) -> Evaluation:
    """What one process finds out about the network of a checkpoint, on every validation image."""
    network, _ = load_network(checkpoint)
    split = load_split(request, "val_path", logger=logging.Logger("test"))
    size = request.image_size
    with torch.inference_mode():
        pairs = [
            (network(normalise(images)), targets)
            for images, targets in batches(
                split, group(split.indices, batch_size_of(request)), Central(size), image_size=size, should_stop=never
            )
        ]
    return evaluate(torch.cat([each for each, _ in pairs]), torch.cat([each for _, each in pairs]))


def same(one: Any, other: Any) -> bool:
    """Whether two contents of checkpoints are equal to the last bit, types and order included."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        shape_and_kind = (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
        return shape_and_kind and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
