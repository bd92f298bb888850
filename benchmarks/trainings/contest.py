"""What every contender is given: images, a network, a batch size, and a plain loop."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

CLASSES = 10
RATE, MOMENTUM = 0.01, 0.9


@dataclass(frozen=True)
class Contest:
    """The training that each contender does. `root` has the folders `train` and `val`.

    Args:
        workers: processes that read beside a peer's training; none is fastest where few cores train as well.
    """

    root: Path
    images: int
    device: torch.device
    model: str
    image_size: int
    batch_size: int
    workers: int

    def network(self) -> nn.Module:
        """Untrained, channels last, ready to train."""
        from torchvision import models

        network: nn.Module = models.get_model(self.model, weights=None, num_classes=CLASSES)
        return network.to(self.device).to(memory_format=torch.channels_last).train()

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, nesterov=True)

    def dataset(self) -> Dataset[Any]:
        """The training images as torchvision's own reference reads and augments them."""
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        chain = [
            v2.RandomResizedCrop(self.image_size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
        images: Dataset[Any] = ImageFolder(str(self.root / "train"), v2.Compose(chain))
        return images

    def loader(self) -> DataLoader[Any]:
        return DataLoader(
            self.dataset(),
            self.batch_size,
            shuffle=True,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
        )


def computes_bf16(device: torch.device) -> bool:
    """Whether there are instructions for it: everybody is faster with them, and several times slower without."""
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cuda" or bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def plain_loop(contest: Contest, network: nn.Module, batches: Iterable[Any], *, bf16: bool = True) -> float:
    """Train on the batches, in bf16 where there are instructions for it. Returns images a second."""
    bf16 = bf16 and computes_bf16(contest.device)
    optimizer, device = contest.optimizer(network), contest.device
    seen, started = 0, time.perf_counter()
    for images, targets in batches:
        images, targets = images.to(device, memory_format=torch.channels_last), targets.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(network(images), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen += len(targets)
    loss.item()  # waits for the device
    return seen / (time.perf_counter() - started)


def write_photographs(root: Path, images: int, width: int, height: int) -> None:
    """Smooth noise with grain, as JPEG files (500 x 375: about 50 KB each): something to decode, nothing to learn."""
    numbered = [
        (root / split, number) for split, count in (("train", images), ("val", 2 * CLASSES)) for number in range(count)
    ]
    for folder in {folder / str(number % CLASSES) for folder, number in numbered}:
        folder.mkdir(parents=True)
    write = partial(_write_photograph, width=width, height=height)
    with ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool:
        list(pool.map(write, numbered, chunksize=64))


def _write_photograph(numbered: tuple[Path, int], *, width: int, height: int) -> None:
    folder, number = numbered
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = generator.integers(-12, 13, pixels.shape, dtype=np.int16)
    photograph = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
    photograph.save(folder / str(number % CLASSES) / f"{number:05}.jpg", quality=80)
