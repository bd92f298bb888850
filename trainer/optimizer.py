"""The optimizer: which weights it changes, and by how much of the learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from models.schemas import TrainingRequest
from trainer.layers import layers_of, trainable

_SCALE = "lr_scale"
"""Of a group of parameters: its share of the learning rate, where it has not the whole."""


def build_optimizer(request: TrainingRequest, network: nn.Module, *, is_trained: bool = True) -> Optimizer:
    """Adam, AdamW or SGD with Nesterov momentum 0.9, for what is not frozen.

    Biases and normalisation weights are not decayed, since pulling them to zero does not make the network
    simpler (He et al. 2018, arXiv:1812.01187, section 3.1). The first group has the whole learning rate; so have all
    where nothing was trained before (`is_trained`), for then there is nothing that should change slowly.
    """
    parameters = trainable(network)
    if request.backbone_lr_scale == 1:
        groups = _groups(parameters, request)
    else:
        head = {id(parameter) for parameter in layers_of(network)[-1]}
        groups = _groups([parameter for parameter in parameters if id(parameter) in head], request)
        backbone = _groups([parameter for parameter in parameters if id(parameter) not in head], request)
        groups += [group | {_SCALE: request.backbone_lr_scale if is_trained else 1.0} for group in backbone]
    if request.optimizer == "sgd":
        return SGD(groups, lr=request.learning_rate, momentum=0.9, nesterov=True, fused=True)
    kind = Adam if request.optimizer == "adam" else AdamW
    return kind(groups, lr=request.learning_rate, fused=True)


def _groups(parameters: Iterable[nn.Parameter], request: TrainingRequest) -> list[dict[str, Any]]:
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        {"params": weights, "weight_decay": request.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_SCALE, 1.0)
