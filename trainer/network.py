"""A torchvision network with a head for the classes at hand.

Every torchvision family takes `num_classes` where it is built, so the head needs no surgery, and a
checkpoint can be rebuilt from three facts: name, number of classes, image size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models

from models.schemas import TrainingRequest
from trainer.errors import TrainingFailed
from trainer.pretrained import WeightsUnavailable, pretrained_weights
from trainer.roots import Folders
from trainer.weights import load_weights, read_weights


def build_network(
    request: TrainingRequest, *, logger: logging.Logger, should_stop: Callable[[], bool], folders: Folders = ()
) -> tuple[nn.Module, bool]:
    """The network that `request` asks for, on the CPU, and whether it starts from weights that were trained before.

    Initial weights come from torch's global generator: seed it. `weight_path` wins over `pretrained`, and must
    lie in one of `folders`, if there are any. Says in a line which weights were used, and which could not be.

    Raises `TrainingFailed`: what `read_weights` raises, `bad_weights` where `weight_path` does not fit,
    `no_weights` where `pretrained` is true and there are none; `TrainingStopped` while it waits for the network.
    """
    network = bare_network(request.model, request.num_classes, request.image_size)
    is_trained = bool(request.weight_path)
    if request.weight_path:
        state = read_weights(Path(request.weight_path), folders)
        load_weights(network, state, num_classes=request.num_classes, source="weight_path", logger=logger)
        logger.info(f"Weights loaded from {request.weight_path}")
    elif request.pretrained is not False:
        patient = request.pretrained is True
        try:
            state, file_name = pretrained_weights(
                request.model, patient=patient, logger=logger, should_stop=should_stop
            )
        except WeightsUnavailable as error:
            missing = f"Pretrained weights for {request.model} are not available ({error})"
            if patient:
                advice = 'set pretrained to "auto" or false to train from scratch, or weight_path to a file of weights'
                raise TrainingFailed("no_weights", f"{missing}: {advice}") from error
            logger.warning(f"{missing}; training from scratch")
            _warn_of_frozen_noise(request, logger)
        else:
            load_weights(
                network, state, num_classes=request.num_classes, source="the pretrained weights", logger=logger
            )
            logger.info(f"Pretrained weights for {request.model} loaded from {file_name}")
            is_trained = True
    else:
        _warn_of_frozen_noise(request, logger)
    return network, is_trained


def _warn_of_frozen_noise(request: TrainingRequest, logger: logging.Logger) -> None:
    if request.freeze != "none":
        logger.warning("What freeze leaves as it is are random weights: nothing was loaded that they could know")


def bare_network(name: str, num_classes: int, image_size: int) -> nn.Module:
    """A freshly initialised network for square images of `image_size` pixels.

    GoogLeNet and Inception v3 come without their auxiliary heads. Their authors found the gain small
    (about 0.5 %, Szegedy et al. 2014, section 5) or absent early in training (Szegedy et al. 2015,
    section 4), with batch normalisation in the network it is smaller still, and without them the
    networks take smaller images and have one loss like every other. Both shift their input from
    ImageNet's normalisation to their own, as their published weights need.
    """
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    if name.startswith("maxvit_"):
        options["input_size"] = (image_size, image_size)
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True, "transform_input": True}
    return cast(nn.Module, models.get_model(name, weights=None, num_classes=num_classes, **options))


def image_size_multiple(name: str) -> int:
    """Pixels that the side of an image must be a multiple of, by construction.

    A vision transformer cuts patches of the size in its name; MaxViT halves five times and then cuts
    windows of 7.
    """
    if name.startswith("vit_"):
        return int(name.rsplit("_", 1)[1])
    return 2**5 * 7 if name.startswith("maxvit_") else 1


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build without allocating weights, to ask for shapes alone.

    `torch.device("meta")` would do, but RegNet computes its widths with tensors that must hold numbers.
    """
    with _WeightsOnMeta():
        network = build()
    return network.to("meta")


class _WeightsOnMeta(TorchFunctionMode):
    """Layers allocate their weights with `torch.empty`; only those go to the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        extra = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **extra})
