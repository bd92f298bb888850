"""The layers of a network, from its input to its head, and which of them are trained.

A pretrained network knows edges and textures already; with few images, training all of it forgets more than it
learns. Only its last layers are trained then, or the others more slowly.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.schemas import TrainingRequest

_BEGINS_A_LAYER = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)

Layer = list[nn.Parameter]


def layers_of(network: nn.Module) -> list[Layer]:
    """The parameters of each convolution and linear map, an attention's input being one, in the order of the modules.

    Whatever else has parameters (normalisation, embeddings) belongs to the layer in front of it. The last layer is
    the head in every torchvision family.
    """
    layers: list[Layer] = [[]]
    for module in network.modules():
        if isinstance(module, _BEGINS_A_LAYER) and layers[-1]:
            layers.append([])
        layers[-1].extend(module.parameters(recurse=False))
    return layers


def freeze(network: nn.Module, request: TrainingRequest) -> None:
    """Leave the layers as they are that `request` does not train."""
    if request.freeze == "none":
        return
    trained = 1 if request.freeze == "head_only" else request.trainable_layers
    for layer in layers_of(network)[:-trained]:
        for parameter in layer:
            parameter.requires_grad_(False)


def trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def set_training(network: nn.Module) -> None:
    """As `network.train()`, but a frozen batch normalisation keeps its statistics: they are learned, too."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
