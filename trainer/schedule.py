"""The learning rate at every update of the weights.

It is a function of the place in the training, not a scheduler of torch's that counts its steps: an epoch has
fewer updates where images turn out to be unreadable, and other ones where a training goes on with other
images; a scheduler that was told a number of steps (`OneCycleLR`) ends such a training with an error. So the
epoch is the schedule's place, and nothing of it has to be saved. Only a plateau depends on how the training
went: that one is torch's, and is saved.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models.schemas import TrainingRequest
from trainer.automatic import learning_rate_of

LONGEST_WARMUP = 0.3
"""Share of a training: what one-cycle schedules use (Smith & Topin 2017, arXiv:1708.07120). A training of one
epoch with one epoch of warmup would otherwise end where its learning should begin."""
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 1e4
"""Of the peak, as in `torch.optim.lr_scheduler.OneCycleLR`."""


def learning_rate_at(step: int, *, steps: int, steps_per_epoch: int, request: TrainingRequest) -> float:
    """Rate of update `step` (from 0) of `steps`, as the request asks for it; of a plateau, as if it had none.

    First the warmup, linear from near 0 to the peak. Then `cosine` is half a cosine to near 0, that of Loshchilov &
    Hutter 2016 (arXiv:1608.03983), equation 5, without restarts; `step` is `StepLR`. `one_cycle` is the learning
    rate of `OneCycleLR`, with a warmup of its own; the momentum stays. Neither of the curves ends at 0.
    """
    assert 0 <= step < steps
    peak = learning_rate_of(request)
    if request.schedule == "one_cycle":
        return peak * _one_cycle(step, steps)
    warmup = math.floor(min(request.warmup_epochs * steps_per_epoch, LONGEST_WARMUP * steps))
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if request.schedule == "cosine":
        return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
    if request.schedule == "step":
        return peak * request.lr_factor ** (step // steps_per_epoch // request.lr_step_epochs)
    return peak


def _one_cycle(step: int, steps: int) -> float:
    top, last = max(LONGEST_WARMUP * steps - 1, 0), steps - 1
    if step < top:
        return _between(ONE_CYCLE_START, 1, step / top)
    return _between(1, ONE_CYCLE_END, (step - top) / (last - top or 1))


def _between(start: float, end: float, share: float) -> float:
    """From `start` to `end` on half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class Plateau:
    """What the rate is multiplied by, less each time that no epoch was better for a while.

    It is `ReduceLROnPlateau` on an optimizer of its own with rate 1, so that the warmup, and each layer's share of
    the rate, know nothing of it.
    """

    def __init__(self, request: TrainingRequest) -> None:
        self._optimizer = SGD([torch.zeros(1)], lr=1.0)
        self._scheduler = ReduceLROnPlateau(
            self._optimizer,
            mode="max",
            factor=request.lr_factor,
            patience=request.lr_patience,
            threshold=0.0,
            threshold_mode="abs",
        )

    @property
    def scale(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def epoch_done(self, score: float) -> None:
        """`score` is that of the epoch; greater is better."""
        self._scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scheduler.load_state_dict(state["scheduler"])
        self._optimizer.param_groups[0]["lr"] = state["scale"]
