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

_UNSET = 0.0
"""The schedule says the rate of every step before it is taken."""


def build_optimizer(request: TrainingRequest, network: nn.Module, *, is_trained: bool = True) -> Optimizer:
    """Adam, AdamW or SGD with Nesterov momentum 0.9, for what is not frozen.

    Parameters of one dimension, which are biases and normalisation weights, are not decayed, since pulling them to zero
    does not make the network simpler (He et al. 2018, arXiv:1812.01187, section 3.1). The first group has the whole
    learning rate; so have all where nothing was trained before (`is_trained`), for then there is nothing that should
    change slowly.
    """
    parts = _parts(request, network, is_trained=is_trained)
    groups = [group | share for parameters, share in parts for group in _groups(parameters, request)]
    if request.optimizer == "sgd":
        return SGD(groups, lr=_UNSET, momentum=0.9, nesterov=True, fused=True)
    kind = Adam if request.optimizer == "adam" else AdamW
    return kind(groups, lr=_UNSET, fused=True)


def _parts(
    request: TrainingRequest, network: nn.Module, *, is_trained: bool
) -> list[tuple[list[nn.Parameter], dict[str, float]]]:
    """What is trained, the head first, and its share of the rate where it has not the whole.

    Layer-wise decay as in Clark et al. 2020 (arXiv:2003.10555, section 3.1): a layer has `layer_decay` times the share
    of the next one towards the head. The parts are the same ones whatever was trained before: a training that goes on
    finds its own among them.
    """
    parameters = trainable(network)
    if request.backbone_lr_scale == 1 and request.layer_decay == 1:
        return [(parameters, {})]
    *backbone, head = layers_of(network)
    of_head = {id(parameter) for parameter in head}
    parts: list[tuple[list[nn.Parameter], dict[str, float]]] = [
        ([parameter for parameter in parameters if id(parameter) in of_head], {})
    ]
    scale = request.backbone_lr_scale if is_trained else 1.0
    if request.layer_decay == 1:
        return [*parts, ([parameter for parameter in parameters if id(parameter) not in of_head], {_SCALE: scale})]
    for layer in reversed(backbone):
        scale *= request.layer_decay if is_trained else 1.0
        if trained := [parameter for parameter in layer if parameter.requires_grad]:
            parts.append((trained, {_SCALE: scale}))
    return parts


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
