"""How fast the trainer trains, from folders of JPEG files, beside other trainers and the network alone.

    python -m benchmarks.training [--device cpu] [--model resnet18] [--image-size 224] [--images 256] [--rounds 5]

Writes photograph-like JPEG files, then trains on them in turn: with this trainer (the time of its second epoch, which
decodes nothing where images fit into memory, and of its first, both without validation), with each peer that is
installed (`benchmarks/trainings/peers.py`: its second epoch), and with a plain loop over one batch that stays on the
device, which nothing that reads files can beat. The rounds alternate; medians and ranges are printed. All use SGD, one
batch size, channels last, and bf16 where there are instructions for it.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from benchmarks.trainings.contest import CLASSES, Contest, computes_bf16, plain_loop, write_photographs
from benchmarks.trainings.peers import PEERS
from models.schemas import TrainingRequest
from trainer.loop import train

LIMIT = "the network alone"


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


def ours(contest: Contest, *, epoch: int = 2) -> float:
    logger, clock = logging.Logger("benchmark"), Clock()
    logger.addHandler(clock)
    request = TrainingRequest.model_validate(
        {
            "model": contest.model,
            "num_classes": CLASSES,
            "train_path": str(contest.root / "train"),
            "val_path": str(contest.root / "val"),
            "save_path": str(contest.root),
            "image_size": contest.image_size,
            "batch_size": contest.batch_size,
            "num_epochs": epoch,
            "pretrained": False,
            "optimizer": "sgd",
            "weight_decay": 0,
            "amp": "bf16" if computes_bf16(contest.device) else "fp32",
        }
    )
    with tempfile.TemporaryDirectory(dir=contest.root) as output:
        train(
            request,
            output_dir=Path(output) / "run",
            device=str(contest.device),
            logger=logger,
            should_stop=lambda: False,
        )
    return contest.images / (clock.trained - clock.began)


def limit(contest: Contest) -> float:
    shape = (contest.batch_size, 3, contest.image_size, contest.image_size)
    images = torch.randn(shape, device=contest.device).to(memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (contest.batch_size,), device=contest.device)
    network = contest.network()
    plain_loop(contest, network, [(images, targets)] * 3)  # chooses its algorithms
    return plain_loop(contest, network, [(images, targets)] * max(3, contest.images // contest.batch_size))


def processor() -> str:
    found = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if platform.system() == "Linux" else None
    )
    return found[1] if found else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description="Images a second of the trainer and of its peers.")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--photograph", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--workers", type=int, help="of the peers' loaders; default: none on a CPU, one a core for a GPU"
    )
    parser.add_argument("--only", nargs="+", metavar="WORD", help="of whose name one of these words is a part")
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    workers = arguments.workers if arguments.workers is not None else 0 if on_cpu else os.cpu_count() or 1

    print(f"{arguments.model}, {arguments.image_size} px, batches of {arguments.batch_size}", end=", ")
    print(f"photographs of {arguments.photograph[0]} x {arguments.photograph[1]}, {workers} workers for peers")
    print(processor() if on_cpu else torch.cuda.get_device_name(arguments.device), end=", ")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {arguments.rounds} rounds, images a second", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(
            root=Path(folder),
            images=arguments.images,
            device=torch.device(arguments.device),
            model=arguments.model,
            image_size=arguments.image_size,
            batch_size=arguments.batch_size,
            workers=workers,
        )
        write_photographs(contest.root, arguments.images, *arguments.photograph)
        contenders: dict[str, Callable[[Contest], float]] = {
            "this trainer": ours,
            "its first epoch": partial(ours, epoch=1),
            **PEERS,
        }
        chosen = {
            name: measure
            for name, measure in contenders.items()
            if not arguments.only or any(word in name for word in arguments.only)
        }
        results = compete(contest, chosen, arguments.rounds)
    report(results)


@dataclass
class Result:
    """Images a second of one contender, and its shares of the limit, which is measured before and after it."""

    rates: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)


def compete(contest: Contest, contenders: dict[str, Callable[[Contest], float]], rounds: int) -> dict[str, Result]:
    """What each has reached in each round. One whose package is missing is left out, and said so."""
    results = {name: Result() for name in contenders}
    alone = results[LIMIT] = Result()
    before = limit(contest)
    for number in range(rounds):
        for name, measure in contenders.items():
            if name not in results:
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of the peers
                    rate = measure(contest)
            except ImportError as error:
                print(f"{name} is left out: {error}")
                del results[name]
                continue
            after = limit(contest)
            results[name].rates.append(rate)
            results[name].shares.append(2 * rate / (before + after))
            alone.rates.append(after)
            alone.shares.append(2 * after / (before + after))
            before = after
        row = ", ".join(f"{name} {result.rates[-1]:.1f}" for name, result in results.items())
        print(f"round {number + 1}: {row}", flush=True)
    return results


def report(results: dict[str, Result]) -> None:
    for name, result in results.items():
        median, share = statistics.median(result.rates), statistics.median(result.shares)
        spread = f"({min(result.rates):.1f}-{max(result.rates):.1f})"
        shares = f"({min(result.shares):.2f}-{max(result.shares):.2f})"
        print(f"{name:26} {median:8.1f} {spread:18} {share:.3f} {shares} of the limit")


if __name__ == "__main__":
    main()
