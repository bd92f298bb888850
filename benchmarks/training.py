"""How fast the trainer trains, from folders of JPEG files, beside timm's loader and the network alone.

    python -m benchmarks.training [--device cuda:0] [--model resnet50] [--image-size 224] [--images 4096] [--rounds 5]

Writes photograph-like JPEG files, then trains on them in turn: with this trainer (`train`, the second epoch, its
validation left out of the time), with a plain loop over timm's loader (bf16, channels last, one worker a core, the
loader's own defaults, its second epoch), and with the plain loop over one batch that stays on the device, which
nothing that reads files can beat. The rounds alternate; medians and ranges are printed. timm is left out where it
is not installed.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from models.schemas import TrainingRequest
from trainer.loop import train

CLASSES = 10


class Clock(logging.Handler):
    """When the trainer said that it began an epoch, and that it had trained it."""

    def __init__(self) -> None:
        super().__init__()
        self.began = self.trained = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.endswith("started"):
            self.began = time.perf_counter()
        elif message.startswith("Train Loss"):
            self.trained = time.perf_counter()


def write_photographs(root: Path, images: int) -> None:
    """Smooth noise of 500 x 375 pixels, about 50 KB each: something to decode, nothing to learn."""
    generator = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 2 * CLASSES)):
        for number in range(count):
            folder = root / split / str(number % CLASSES)
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
            grain = generator.integers(-12, 13, pixels.shape, dtype=np.int16)
            photograph = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
            photograph.save(folder / f"{number:05}.jpg", quality=80)


def plain_loop(network: nn.Module, batches: Iterable[Any], device: torch.device) -> float:
    """Train on the batches. Returns images a second."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    seen, started = 0, time.perf_counter()
    for images, targets in batches:
        images, targets = images.to(device, memory_format=torch.channels_last), targets.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = functional.cross_entropy(network(images), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seen += len(targets)
    loss.item()  # waits for the device
    return seen / (time.perf_counter() - started)


def network_for(arguments: argparse.Namespace) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(arguments.model, num_classes=CLASSES)
    return network.to(arguments.device).to(memory_format=torch.channels_last).train()


def ours(root: Path, arguments: argparse.Namespace) -> float:
    logger, clock = logging.Logger("benchmark"), Clock()
    logger.addHandler(clock)
    request = TrainingRequest.model_validate(
        {
            "model": arguments.model,
            "num_classes": CLASSES,
            "train_path": str(root / "train"),
            "val_path": str(root / "val"),
            "save_path": str(root),
            "image_size": arguments.image_size,
            "batch_size": arguments.batch_size,
            "num_epochs": 2,
            "pretrained": False,
            "amp": "bf16",
        }
    )
    with tempfile.TemporaryDirectory(dir=root) as output:
        train(
            request, output_dir=Path(output) / "run", device=arguments.device, logger=logger, should_stop=lambda: False
        )
    return float(arguments.images) / (clock.trained - clock.began)


def with_timm(root: Path, arguments: argparse.Namespace) -> float:
    from timm.data import ImageDataset, create_loader  # type: ignore[import-not-found]

    size = (3, arguments.image_size, arguments.image_size)
    device = torch.device(arguments.device)
    loader = create_loader(
        ImageDataset(str(root / "train")),
        size,
        arguments.batch_size,
        is_training=True,
        num_workers=os.cpu_count() or 1,
        use_prefetcher=device.type == "cuda",
        device=device,
    )
    network = network_for(arguments)
    plain_loop(network, loader, device)
    return plain_loop(network, loader, device)


def limit(_root: Path, arguments: argparse.Namespace) -> float:
    device = torch.device(arguments.device)
    size = (arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    images = torch.randn(size, device=device).to(memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (arguments.batch_size,), device=device)
    network = network_for(arguments)
    plain_loop(network, [(images, targets)] * 3, device)  # chooses its algorithms
    return plain_loop(network, [(images, targets)] * max(3, arguments.images // arguments.batch_size), device)


def main() -> None:
    parser = argparse.ArgumentParser(description="Images a second of the trainer and of its peers.")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    contenders: dict[str, Callable[[Path, argparse.Namespace], float]] = {"this trainer": ours}
    try:
        import timm  # type: ignore[import-not-found]
    except ImportError:
        print("timm is not installed: left out")
    else:
        contenders[f"timm {timm.__version__}'s loader"] = with_timm
    contenders["in-memory limit"] = limit

    name = torch.cuda.get_device_name(arguments.device) if arguments.device != "cpu" else platform.processor()
    print(f"{arguments.model}, {arguments.image_size} px, bf16, batches of {arguments.batch_size}, {name}")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {arguments.rounds} rounds, images a second", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photographs(root, arguments.images)
        rates: dict[str, list[float]] = {contender: [] for contender in contenders}
        for number in range(arguments.rounds):
            for contender, measure in contenders.items():
                rates[contender].append(measure(root, arguments))
            row = ", ".join(f"{contender} {found[-1]:.0f}" for contender, found in rates.items())
            print(f"round {number + 1}: {row}", flush=True)
    most = statistics.median(rates["in-memory limit"])
    for contender, found in rates.items():
        median = statistics.median(found)
        print(f"{contender:22} {median:8.0f} ({min(found):.0f}-{max(found):.0f}), {median / most:.2f} of the limit")


if __name__ == "__main__":
    main()
