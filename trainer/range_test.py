"""The learning rate range test of Smith 2015 (arXiv:1506.01186, section 3.3): how fast can this training learn?

A copy of the network is trained for a moment while the rate rises from next to nothing until the loss rises too. A
tenth of the rate at which the loss was lowest is as fast as it goes safely: the rule of fastai's `lr_find`.
"""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from trainer.automatic import AUTO, Choice, batch_size_of, say
from trainer.data import batches, epoch_order, group
from trainer.errors import TrainingStopped
from trainer.framing import Augmented, Central
from trainer.layers import set_training
from trainer.optimizer import build_optimizer, set_learning_rate
from trainer.progressive import training_image_size
from trainer.run import Run

STEPS = 80
RANGES = {"adam": (1e-6, 0.1), "adamw": (1e-6, 0.1), "sgd": (1e-5, 10.0)}
"""Rates that are tried, by optimizer: steps of Adam are as long as the rate, whatever the gradient."""
USUAL = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05}
"""Where the test has no answer."""
MOST_BATCHES = 20
"""Different ones, which are kept meanwhile and used in turn."""
SHARE_OF_BEST = 0.1
_SMOOTHING = 0.9
_WORSE = 3.0
"""Times the lowest loss: there the test ends."""
_STILL_FALLING = 0.95
"""Of the steps: a loss that is lowest behind that has not risen, as it does only where it began far too high."""


def with_learning_rate(run: Run) -> Run:
    """`run`, and where its rate is `auto`, with one that the first rank chooses now and says."""
    if run.request.learning_rate != AUTO:
        return run
    choice = run.ranks.from_first(chosen_learning_rate(run) if run.ranks.is_first else None)
    assert choice is not None
    run.ranks.leave_out_alike(run.training)
    say(choice, run.logger)
    chosen = {choice.field: choice.value}
    return replace(run, request=run.request.model_copy(update=chosen), chosen=run.chosen | chosen)


def chosen_learning_rate(run: Run) -> Choice:
    """For the first epoch of `run`, whose network and random generators are left as they were.

    The rate has two digits, so that it can be written down. Raises `TrainingStopped`, and what `batches` raises.
    """
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        rates, losses = _tested(run)
    optimizer = run.request.optimizer
    lowest = min(range(len(losses)), key=losses.__getitem__, default=0)
    if not losses or lowest >= _STILL_FALLING * STEPS:
        failed = "the loss has not risen" if losses else "the loss was no number"
        why = f"{failed} in a range test, and this is the usual one of {optimizer}"
        return Choice("learning_rate", USUAL[optimizer], why)
    rate = float(f"{SHARE_OF_BEST * rates[lowest]:.1e}")
    why = f"a tenth of {rates[lowest]:.1e}, where the loss was lowest in a range test of {len(losses)} steps"
    return Choice("learning_rate", rate, why)


def _tested(run: Run) -> tuple[list[float], list[float]]:
    """The rates, and the smoothed losses, until they were much worse than the best."""
    network = copy.deepcopy(run.network)
    optimizer = build_optimizer(run.request, network, is_trained=run.is_trained)
    kept = _batches(run)
    set_training(network)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    slowest, fastest = RANGES[run.request.optimizer]
    for step in range(STEPS if kept else 0):
        if run.stops_alone():
            raise TrainingStopped
        images_BCHW, targets_B = kept[step % len(kept)]
        rate = slowest * (fastest / slowest) ** (step / (STEPS - 1))
        set_learning_rate(optimizer, rate)
        loss = run.objective(run.logits(network, run.ready(images_BCHW)), targets_B.to(run.device))
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss.item()
        smooth = mean / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (losses and smooth > _WORSE * min(losses)):
            break
        rates.append(rate)
        losses.append(smooth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rates, losses


def _batches(run: Run) -> list[tuple[Tensor, Tensor]]:
    """The first ones of the first epoch, as they are before they are varied or mixed."""
    request, split = run.request, run.training
    order = epoch_order(len(split.paths), seed=request.seed, epoch=1, shuffle=True)
    groups = group([index for index in order if index not in split.left_out], batch_size_of(request))[:MOST_BATCHES]
    size = training_image_size(request, 1)
    frame = Augmented(size, hflip=request.hflip, seed=request.seed, epoch=1) if request.augment else Central(size)
    loaded = batches(
        split,
        groups,
        frame,
        image_size=size,
        should_stop=run.stops_alone,
        device=run.device,
        whole_size=request.image_size,
        readers=run.readers,
    )
    enough = min(2, batch_size_of(request))  # as the training wants of them
    return [(images_BCHW, targets_B) for images_BCHW, targets_B in loaded if len(targets_B) >= enough]
