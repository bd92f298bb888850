"""The optimizer, and its learning rate at every step."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from models.schemas import TrainingRequest

LONGEST_WARMUP = 0.3
"""Share of a training: what one-cycle schedules use (Smith & Topin 2017, arXiv:1708.07120). A training of one
epoch with one epoch of warmup would otherwise end where its learning should begin."""


def build_optimizer(request: TrainingRequest, network: nn.Module) -> Optimizer:
    """Adam, AdamW or SGD with Nesterov momentum 0.9.

    Biases and normalisation weights are not decayed, since pulling them to zero does not make the network
    simpler (He et al. 2018, arXiv:1812.01187, section 3.1).
    """
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": request.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if request.optimizer == "sgd":
        return SGD(groups, lr=request.learning_rate, momentum=0.9, nesterov=True, fused=True)
    kind = Adam if request.optimizer == "adam" else AdamW
    return kind(groups, lr=request.learning_rate, fused=True)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate_at(step: int, *, steps: int, steps_per_epoch: int, request: TrainingRequest) -> float:
    """Rate of step `step` (from 0) of `steps`: linear from near 0 to the peak, then half a cosine to near 0.

    The cosine is that of Loshchilov & Hutter 2016 (arXiv:1608.03983), equation 5, without restarts. No
    step has rate 0.
    """
    assert 0 <= step < steps
    warmup = math.floor(min(request.warmup_epochs * steps_per_epoch, LONGEST_WARMUP * steps))
    if step < warmup:
        return request.learning_rate * (step + 1) / (warmup + 1)
    return request.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
