"""Save a training so that three lines of Python use it.

    from trainer.checkpoint import load_classifier
    classifier = load_classifier("runs/digits/best.pt")
    print(classifier.predict("image.png"))      # {'7': 0.98, '1': 0.01, ...}, most likely first

A checkpoint is a dictionary of tensors and plain values: `state_dict`, `classes` (names in the order of
the outputs), `request` (what was asked for), `epoch` (from 1) and `metrics`. `torch.load` reads it with
`weights_only=True`, which runs no code. `last.pt` has what `trainer.resume` needs beside them.
"""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import call
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from models.schemas import TrainingRequest
from trainer.checkpoint_file import NO_CHECKSUM, damage_in, write_checkpoint_file
from trainer.data import normalise
from trainer.framing import Central, to_tensor
from trainer.images import read_rgb
from trainer.network import bare_network
from trainer.roots import Folders
from trainer.weights import to_cpu


def save_checkpoint(
    path: Path,
    network: nn.Module,
    *,
    classes: list[str],
    request: TrainingRequest,
    epoch: int,
    metrics: dict[str, float],
    more: dict[str, Any] | None = None,
    save_roots: Folders = (),
    run: Callable[[Callable[[], None]], object] = call,
) -> None:
    """Replace `path` at once: whoever reads it, or a crash, finds the old checkpoint or the new one whole.

    `more` is stored beside the rest: tensors and plain values, which nobody may change any more. All is copied, and
    then written when and where `run` calls what it is given. Raises what `write_checkpoint_file` raises.
    """
    content = {
        "state_dict": to_cpu(network.state_dict()),
        "classes": classes,
        "request": request.model_dump(mode="json"),
        "epoch": epoch,
        "metrics": metrics,
        **(more or {}),
    }
    run(lambda: write_checkpoint_file(path, lambda sink: torch.save(content, sink), save_roots))


@dataclass(frozen=True)
class Classifier:
    """A trained network with what belongs to it: class names, image size, device."""

    network: nn.Module
    classes: list[str]
    image_size: int
    device: torch.device

    def predict(self, path: str | Path, *, top: int = 5) -> dict[str, float]:
        """The `top` most likely classes of an image file with their probabilities, most likely first.

        The image is read and framed as in validation. Raises `UnreadableImage`, a `ValueError`.
        """
        image_CHW = to_tensor(read_rgb(Path(path), at_least=2 * self.image_size))
        with torch.inference_mode():
            logits_1C = self.network(normalise(Central(self.image_size)(image_CHW, 0)[None].to(self.device)))
            values, indices = logits_1C[0].float().softmax(dim=0).topk(min(top, len(self.classes)))
        return {self.classes[index]: value for index, value in zip(indices.tolist(), values.tolist(), strict=True)}


def load_classifier(path: str | Path, device: str = "cpu") -> Classifier:
    """Load a checkpoint for prediction. Raises what `load_network` raises."""
    content = _load(Path(path))
    network, classes = _rebuild(content, device)
    return Classifier(network, classes, content["request"]["image_size"], torch.device(device))


def load_network(path: str | Path, device: str = "cpu") -> tuple[nn.Module, list[str]]:
    """The network of a checkpoint, in evaluation mode, and its class names in the order of its outputs.

    It takes images_BCHW of `image_size` pixels through `trainer.data.normalise`. Raises `ValueError` where
    the file is no checkpoint of this trainer, or a damaged one; `FileNotFoundError`.
    """
    return _rebuild(_load(Path(path)), device)


def read_checkpoint(file: BinaryIO) -> dict[str, Any]:
    """What was saved, on the CPU. Whether it is what was written is for the caller to find out.

    Raises `ValueError` where it is no checkpoint of this trainer, and what torch raises for a file that it
    cannot read.
    """
    content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not {"state_dict", "classes", "request"} <= content.keys():
        raise ValueError(f"{file.name!r} is not a checkpoint of this trainer")
    return content


def _load(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        damage = damage_in(file)
        if damage not in (None, NO_CHECKSUM):  # this trainer's files had none at first
            raise ValueError(f"{str(path)!r} is damaged: {damage}. Take another checkpoint.")
        try:
            return read_checkpoint(file)
        except (OSError, MemoryError, ValueError):
            raise
        except Exception as error:  # torch's words for it may advise to trust the file
            raise ValueError(f"{str(path)!r} is not a checkpoint of this trainer") from error


def _rebuild(content: dict[str, Any], device: str) -> tuple[nn.Module, list[str]]:
    request, classes = content["request"], content["classes"]
    network = bare_network(request["model"], len(classes), request["image_size"])
    network.load_state_dict(content["state_dict"])
    return network.to(device).eval(), classes
