"""How soon a network is accurate: this trainer's preset beside the usual recipes of timm and Lightning.

    python -m benchmarks.time_to_accuracy [--sets digits mnist] [--model resnet18] [--image-size 32] [--seeds 5]

Each trains the same network from scratch on the same images until its validation accuracy has reached a fixed value,
which was chosen before anything was measured; then the clock is read, and the training goes on to its end, for the
final accuracy. The clock begins with the call that trains, reading the folders included. Seeds alternate between
contenders. None flips digits, and all crop as mildly; the rest of each recipe is its own:

- this trainer: `preset: fast` and nothing else but the size of the images.
- timm: SGD with Nesterov momentum, 0.05 at batches of 128, five epochs of warmup, cosine over as many epochs as timm's
  examples for small data have (`--timm-epochs`), its own scheduler.
- Lightning: Adam at 1e-3, batches of 64, a constant rate, `--lightning-epochs`.

Both peers compute in bf16 where there are instructions for it, and read by torch's loader.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.figures import machine, median_and_range
from benchmarks.trainings.contest import computes_bf16
from benchmarks.trainings.image_sets import IMAGE_SETS
from models.schemas import TrainingRequest
from trainer.data import IMAGENET_MEAN, IMAGENET_STD
from trainer.framing import CROP_AREA, CROP_ASPECT
from trainer.loop import train

CLASSES = 10
WANTED = {"digits": 98.0, "mnist": 97.0}
"""Percent of the validation images."""


@dataclass
class Race:
    """One training: when it was accurate enough, and how accurate it was in its best epoch."""

    wanted: float
    started: float = field(default_factory=time.perf_counter)
    processor_started: float = field(default_factory=time.process_time)
    seconds: float = math.inf
    processor_seconds: float = math.inf
    """The same, as all cores have spent it on this process: what else the machine does is not in it."""
    best: float = 0.0
    epochs: int = 0
    reached_in: int | None = None

    def validated(self, accuracy: float) -> None:
        self.epochs += 1
        self.best = max(self.best, accuracy)
        if self.reached_in is None and accuracy >= self.wanted:
            self.reached_in = self.epochs
            self.seconds = time.perf_counter() - self.started
            self.processor_seconds = time.process_time() - self.processor_started


@dataclass(frozen=True)
class Course:
    root: Path
    model: str
    image_size: int
    wanted: float
    timm_epochs: int
    lightning_epochs: int
    device: torch.device
    workers: int

    def network(self, seed: int) -> nn.Module:
        from torchvision import models

        torch.manual_seed(seed)
        network: nn.Module = models.get_model(self.model, weights=None, num_classes=CLASSES)
        return network.to(self.device).to(memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=computes_bf16(self.device))

    def there(self, images: Tensor) -> Tensor:
        return images.to(self.device, memory_format=torch.channels_last, non_blocking=True)

    def loaders(self, batch_size: int) -> tuple[Any, Any]:
        """As both peers' users read images: torchvision's folders and transforms."""
        from torch.utils.data import DataLoader
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        end = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        crop = v2.RandomResizedCrop(self.image_size, scale=CROP_AREA, ratio=CROP_ASPECT, antialias=True)
        training = ImageFolder(str(self.root / "train"), v2.Compose([crop, *end]))
        validation = ImageFolder(str(self.root / "val"), v2.Compose([v2.Resize(self.image_size), *end]))
        options: dict[str, Any] = {
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "pin_memory": self.device.type == "cuda",
        }
        return DataLoader(training, batch_size, shuffle=True, **options), DataLoader(validation, batch_size, **options)


def ours(course: Course, seed: int) -> Race:
    race = Race(course.wanted)

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if message.startswith("Validation Loss"):
                race.validated(float(message.rpartition(":")[2].strip(" %")))

    logger = logging.Logger("benchmark")
    logger.addHandler(Watch())
    request = TrainingRequest.model_validate(
        {
            "preset": "fast",
            "model": course.model,
            "num_classes": CLASSES,
            "train_path": str(course.root / "train"),
            "val_path": str(course.root / "val"),
            "save_path": str(course.root),
            "image_size": course.image_size,
            "hflip": False,
            "pretrained": False,
            "seed": seed,
        }
    )
    with tempfile.TemporaryDirectory() as output:
        train(
            request,
            output_dir=Path(output) / "run",
            device=str(course.device),
            logger=logger,
            should_stop=lambda: False,
        )
    return race


@torch.inference_mode()
def accuracy_of(course: Course, network: nn.Module, batches: Any) -> float:
    network.eval()
    right = seen = 0
    for images, targets in batches:
        with course.autocast():
            logits = network(course.there(images))
        right += int((logits.argmax(dim=1).cpu() == targets).sum())
        seen += len(targets)
    network.train()
    return 100 * right / seen


def timm(course: Course, seed: int) -> Race:
    from timm.optim import create_optimizer_v2  # type: ignore[import-not-found]
    from timm.scheduler import CosineLRScheduler  # type: ignore[import-not-found]

    race = Race(course.wanted)
    network = course.network(seed)
    training, validation = course.loaders(128)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.05, weight_decay=2e-5, momentum=0.9)
    schedule = CosineLRScheduler(
        optimizer, t_initial=course.timm_epochs, warmup_t=5, warmup_lr_init=1e-5, warmup_prefix=False
    )
    schedule.step(0)
    for epoch in range(course.timm_epochs):
        for images, targets in training:
            with course.autocast():
                loss = functional.cross_entropy(network(course.there(images)), targets.to(course.device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step(epoch + 1)
        race.validated(accuracy_of(course, network, validation))
    return race


def lightning(course: Course, seed: int) -> Race:
    import lightning as pl  # type: ignore[import-not-found]

    race = Race(course.wanted)

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = course.network(seed)
            self.right = self.seen = 0

        def training_step(self, batch: Any, _index: int) -> Tensor:
            images, targets = batch
            return functional.cross_entropy(self.network(images.contiguous(memory_format=torch.channels_last)), targets)

        def validation_step(self, batch: Any, _index: int) -> None:
            images, targets = batch
            self.right += int((self.network(images).argmax(dim=1) == targets).sum())
            self.seen += len(targets)

        def on_validation_epoch_end(self) -> None:
            race.validated(100 * self.right / self.seen)
            self.right = self.seen = 0

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    pl.Trainer(
        max_epochs=course.lightning_epochs,
        accelerator="gpu" if course.device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if computes_bf16(course.device) else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(Module(), *course.loaders(64))
    return race


CONTENDERS: dict[str, Callable[[Course, int], Race]] = {"this trainer": ours, "timm": timm, "Lightning": lightning}


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds until a network is accurate.")
    parser.add_argument("--sets", nargs="+", choices=IMAGE_SETS, default=list(IMAGE_SETS))
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--timm-epochs", type=int, default=30)
    parser.add_argument("--lightning-epochs", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--workers", type=int, help="of the peers' loaders; default: none on a CPU, one a core, but eight, for a GPU"
    )
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # of the peers
    most = 0 if arguments.device == "cpu" else min(8, os.cpu_count() or 1)
    workers = most if arguments.workers is None else arguments.workers
    where = arguments.device if arguments.device == "cpu" else torch.cuda.get_device_name(arguments.device)
    epochs = f"timm {arguments.timm_epochs} and Lightning {arguments.lightning_epochs} epochs"
    print(f"{where}, {workers} workers for peers, {epochs}")
    print(f"{arguments.model}, {arguments.image_size} px; {machine('torch', 'torchvision')}", flush=True)
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as folder:
            IMAGE_SETS[name](Path(folder))
            course = Course(
                root=Path(folder),
                model=arguments.model,
                image_size=arguments.image_size,
                wanted=WANTED[name],
                timm_epochs=arguments.timm_epochs,
                lightning_epochs=arguments.lightning_epochs,
                device=torch.device(arguments.device),
                workers=workers,
            )
            races: dict[str, list[Race]] = {contender: [] for contender in arguments.only}
            for seed in range(arguments.seeds):
                for contender in arguments.only:
                    race = CONTENDERS[contender](course, seed)
                    races[contender].append(race)
                    reached = f"{race.seconds:.1f} s, {race.processor_seconds:.1f} s of processors"
                    took = f"{reached}, epoch {race.reached_in}" if race.reached_in else "never"
                    last = f"the best of {race.epochs} epochs is {race.best:.2f} %"
                    print(f"{name}, seed {seed}, {contender}: {took}; {last}", flush=True)
            report(name, course.wanted, races)


def report(name: str, wanted: float, races: dict[str, list[Race]]) -> None:
    print(f"{name}: seconds until {wanted:g} % of the validation images are right; the best accuracy of each training")
    for contender, found in races.items():
        seconds = median_and_range(race.seconds for race in found)
        processor = median_and_range(race.processor_seconds for race in found)
        best = median_and_range((race.best for race in found), digits=2)
        print(f"{contender:14} {seconds} s, {processor} s of processors, {best} %", flush=True)


if __name__ == "__main__":
    main()
