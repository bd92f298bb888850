"""A training step with the gradients of `trainer.convolution`, beside one with torch's alone.

    python -m benchmarks.convolution [--models resnet18 ...] [--image-sizes 32 224] [--batch-size 32] [--rounds 5]
                                     [--anywhere]

Forward and backward passes of two copies of one network over one batch in memory, alternated. Printed are milliseconds,
median and range, and the median ratio of a step of torch's to the one behind it. The trainer takes its own gradients
on processors with AVX2 and without AVX-512 alone; `--anywhere` tells what they would do on this one.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.figures import machine, median_and_range
from trainer.convolution import quicken
from trainer.network import bare_network

CLASSES = 10
MODELS = ("resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "densenet121")


def step_ms(network: nn.Module, images_BCHW: Tensor, targets_B: Tensor) -> float:  # noqa: N803 - shape suffixes
    network.zero_grad()
    started = time.perf_counter()
    functional.cross_entropy(network(images_BCHW), targets_B).backward()  # type: ignore[no-untyped-call]
    return 1000 * (time.perf_counter() - started)


def compare(model: str, size: int, batch_size: int, rounds: int) -> None:
    torch.manual_seed(0)
    plain = bare_network(model, CLASSES, size).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    quicken(ours, torch.device("cpu"))
    images = torch.randn(batch_size, 3, size, size).to(memory_format=torch.channels_last)
    targets = torch.randint(0, CLASSES, (batch_size,))
    for network in (plain, ours):
        step_ms(network, images, targets)
    pairs = [(step_ms(plain, images, targets), step_ms(ours, images, targets)) for _ in range(rounds)]
    theirs, own = zip(*pairs, strict=True)
    ratio = statistics.median(before / after for before, after in pairs)
    print(
        f"{model:20} {size:3} px  {median_and_range(theirs, 0):>22}  {median_and_range(own, 0):>22}  {ratio:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps with and without the trainer's own gradients.")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--image-sizes", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--anywhere", action="store_true", help="also where the trainer leaves gradients to torch")
    arguments = parser.parse_args()
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{machine('torch')}; {capability}, batches of {arguments.batch_size}")
    taken = "AVX2" if arguments.anywhere else capability
    if taken != "AVX2":
        print("Both sides are the same here: see --anywhere")
    print(f"{'':27}  {'torch, ms a step':>22}  {'this trainer':>22}  ratio")
    with mock.patch.object(torch.backends.cpu, "get_cpu_capability", return_value=taken):
        for model in arguments.models:
            for size in arguments.image_sizes:
                compare(model, size, arguments.batch_size, arguments.rounds)


if __name__ == "__main__":
    main()
