"""Fit saved weights into a network, or say precisely why they do not fit.

Weights reach us from our own checkpoints, from torchvision, and from people's own scripts. What can be
adapted without guessing is adapted (another number of classes, `DataParallel` prefixes, another image
size of a vision transformer); anything else is refused by name, because a network that trains from
half-loaded weights looks like one that trains badly.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

from trainer.checkpoint_file import NO_CHECKSUM, damage_in
from trainer.errors import TrainingFailed
from trainer.roots import Folders, OutsideRoots, open_file

StateDict = OrderedDict[str, Tensor]

_SHOWN = 3
"""How many keys an error names."""
_AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")
"""Of GoogLeNet and Inception v3, which are built without them."""
_OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""torchvision's DenseNet files predate its ban on dots in module names: `norm.1.weight` is `norm1.weight` now."""
_POSITIONS = "encoder.pos_embedding"


def read_weights(path: Path, folders: Folders = ()) -> StateDict:
    """Read a state dict, or the state dict of one of our checkpoints, to the CPU.

    Only tensors and plain values are unpickled: a file of weights is often somebody else's, and a
    pickle can run any code. A checksum is verified where the file has one.

    Raises `TrainingFailed`: `bad_weights`, `checkpoint_damaged`, and `path_forbidden` where the file lies in
    none of `folders`.
    """
    try:
        file = open_file(path, folders)
    except OutsideRoots:
        message = f"weight_path {str(path)!r} leads out of the folders that may be read: choose another file."
        raise TrainingFailed("path_forbidden", message) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise TrainingFailed("bad_weights", f"{str(path)!r} cannot be read: {why}.") from error
    with file:
        damage = damage_in(file)
        if damage not in (None, NO_CHECKSUM):
            message = f"{str(path)!r} is damaged: {damage}. Take another checkpoint."
            raise TrainingFailed("checkpoint_damaged", message)
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a file that is no pickle can raise nearly anything
            raise TrainingFailed(
                "bad_weights",
                f"{str(path)!r} cannot be loaded: it is damaged, or holds more than tensors and plain values, which is "
                f"refused because loading it could run code. Save network.state_dict() with torch.save and use that.",
            ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not _is_state_dict(state):
        raise TrainingFailed(
            "bad_weights", f"{str(path)!r} holds no weights: save network.state_dict() with torch.save and use that."
        )
    return _as_state_dict(state, like=state)


def load_weights(
    network: nn.Module, state: StateDict, *, num_classes: int, source: str, logger: logging.Logger
) -> None:
    """Load `state` into `network`, whose head has `num_classes` outputs.

    A head of another size, or none, leaves the network's own, with a WARNING line. `source` is how lines
    and errors call the weights.

    Raises `TrainingFailed("bad_weights")` that names the first keys which do not fit; the network's
    weights are then undefined.
    """
    state = _current_keys(state)
    _fit_positions(network, state)
    _drop_other_head(network, state, num_classes, source, logger)

    own = network.state_dict()
    misshapen = [
        f"{key} is {tuple(value.shape)}, needs {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    if misshapen:
        raise _does_not_fit(source, "have other shapes", misshapen)
    if getattr(state, "_metadata", None) is None:
        state = _as_state_dict(state, like=own)
    missing, unexpected = network.load_state_dict(state, strict=False)
    head = head_name(network)
    missing = [key for key in missing if not key.startswith(f"{head}.") and not key.endswith("num_batches_tracked")]
    if unexpected:
        raise _does_not_fit(source, "are unknown to the network", unexpected)
    if missing:
        raise _does_not_fit(source, "are missing", missing)


def head_name(network: nn.Module) -> str:
    """The module that has one output per class: in every torchvision family the last linear or convolution."""
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return names[-1]


def to_cpu(state: dict[str, Tensor]) -> StateDict:
    """Copy to the CPU, keeping the versions of the modules, which some networks cannot be loaded without."""
    return _as_state_dict({key: value.detach().to("cpu", copy=True) for key, value in state.items()}, like=state)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def _as_state_dict(tensors: dict[str, Tensor], *, like: dict[str, Tensor]) -> StateDict:
    state: StateDict = OrderedDict(tensors)
    state._metadata = getattr(like, "_metadata", None)  # type: ignore[attr-defined]  # where torch keeps versions
    return state


def _current_keys(state: StateDict) -> StateDict:
    renamed = {_OLD_DENSENET_KEY.sub(r"\1\2", key.removeprefix("module.")): value for key, value in state.items()}
    kept = {key: value for key, value in renamed.items() if not key.startswith(_AUXILIARY_HEADS)}
    same_modules = not any(key.startswith("module.") for key in state)
    return _as_state_dict(kept, like=state if same_modules else {})


def _fit_positions(network: nn.Module, state: StateDict) -> None:
    """Stretch a vision transformer's position embeddings to the image size of `network`."""
    if not isinstance(network, VisionTransformer) or _POSITIONS not in state:
        return
    try:
        interpolate_embeddings(network.image_size, network.patch_size, state)
    except (ValueError, RuntimeError):
        return  # not laid out as a square: refused with its shape by the caller


def _drop_other_head(
    network: nn.Module, state: StateDict, num_classes: int, source: str, logger: logging.Logger
) -> None:
    head = head_name(network)
    weight = state.get(f"{head}.weight")
    if weight is None:
        logger.warning(f"No head in {source}: it starts fresh, the rest is loaded")
    elif weight.shape[0] != num_classes:
        logger.warning(
            f"Head of {source} has {weight.shape[0]} classes, needs {num_classes}: head dropped, the rest loaded"
        )
        for key in [key for key in state if key.startswith(f"{head}.")]:
            del state[key]


def _does_not_fit(source: str, what: str, keys: list[str]) -> TrainingFailed:
    named = ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
    return TrainingFailed(
        "bad_weights", f"The weights of {source} are not those of this network. Keys that {what}: {named}."
    )
