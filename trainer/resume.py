"""What a training needs to go on where it was cut off, as if it never had been.

Beside the network, `last.pt` holds the optimizer, the states of torch's random generators, the best
accuracy so far and the images that were left out; of a training that has them also its plateau, how long it has
waited for a better epoch, and with averaged weights those that are trained. Of the rest the epoch tells all: order,
crop, variation and mixing of the images, and the learning rate of a step, follow from the seed and the epoch
alone, so the epoch is the sampler's place and the schedule's. No scaler: bf16 has the range of fp32 and needs none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from models.schemas import TrainingRequest
from trainer import lines
from trainer.automatic import AUTO
from trainer.checkpoint import read_checkpoint
from trainer.checkpoint_file import BEST, LAST, damage_in, find_damage
from trainer.errors import TrainingFailed
from trainer.options import OPTIONS, default_of
from trainer.roots import Folders, OutsideRoots, open_file
from trainer.split import Split

_DECISIVE = (
    *("model", "num_classes", "image_size", "amp"),
    *("optimizer", "learning_rate", "weight_decay", "warmup_epochs", "num_epochs"),
    *("batch_size", "shuffle", "augment", "hflip", "seed"),
    *OPTIONS,
)
"""Fields of a request that another training would differ in. Folders and devices may change: data moves."""


class Part(Protocol):
    """Something that changes from epoch to epoch. Its state is tensors on the CPU and plain values."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Saved:
    """A training as `last.pt` holds it. `best_accuracy` is percent, `epoch` the last one that is done.

    `names_left_out` and `fingerprints` are those of the splits, by the field of the request.
    """

    epoch: int
    best_accuracy: float
    names_left_out: dict[str, list[str]]
    fingerprints: dict[str, str]
    content: dict[str, Any]

    @property
    def chosen(self) -> dict[str, int | float]:
        """What `auto` has stood for, by the field of the request."""
        return dict(self.content.get("chosen", {}))

    @property
    def stopped_early(self) -> bool:
        return bool(self.content.get("early_stopping", {}).get("is_over"))


def progress(
    optimizer: Optimizer,
    device: torch.device,
    *,
    best_accuracy: float,
    splits: Iterable[Split],
    parts: Mapping[str, Part],
) -> dict[str, Any]:
    """What `last.pt` has beside a checkpoint for prediction: tensors on the CPU and plain values."""
    generators = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(device)
    return {
        "optimizer": _on_cpu(optimizer.state_dict()),
        "generators": generators,
        "best_accuracy": best_accuracy,
        "left_out": {split.name: split.names_left_out for split in splits},
        "fingerprints": {split.name: split.fingerprint for split in splits},
        **{name: part.state_dict() for name, part in parts.items()},
    }


def read_last(output_dir: Path, request: TrainingRequest, save_roots: Folders = ()) -> Saved | None:
    """The training that was saved in `output_dir`; None where it never finished an epoch.

    Raises `TrainingFailed`: `checkpoint_damaged`, and `checkpoint_differs` where it is not that of `request`.
    """
    path = output_dir / LAST
    try:
        with open_file(path, save_roots) as file:
            if damage := damage_in(file):
                raise _damaged(path, damage)
            content = read_checkpoint(file)
            saved = Saved(
                content["epoch"], content["best_accuracy"], content["left_out"], content["fingerprints"], content
            )
    except FileNotFoundError:
        return None
    except OutsideRoots:
        raise _damaged(path, "it leads out of the folders that may be written to") from None
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror})") from error
    except TrainingFailed:
        raise
    except Exception as error:  # whole, and not from this trainer: torch raises nearly anything
        raise _damaged(path, "it holds no training that could go on") from error
    asked = request.model_dump(mode="json")
    before = {name: default_of(name) for name in OPTIONS} | content["request"]  # the options are younger than requests
    before |= dict.fromkeys(saved.chosen, AUTO)
    _refuse_difference(repr(str(path)), {name: (before.get(name), asked[name]) for name in _DECISIVE})
    return saved


def damage_of_best(output_dir: Path) -> str | None:
    """As `find_damage`. The training can do without `best.pt`; whoever wants to predict cannot."""
    try:
        return find_damage(output_dir / BEST)
    except OSError as error:
        return error.strerror or str(error)


def restore(
    saved: Saved,
    network: nn.Module,
    optimizer: Optimizer,
    device: torch.device,
    splits: Iterable[Split],
    parts: Mapping[str, Part],
    logger: logging.Logger,
) -> None:
    """Put everything back, the generators last: building a network has drawn from them.

    Says so where there are other images than before: the training goes on, as another one than it would have been.

    Raises `TrainingFailed("checkpoint_differs")` where there are other classes than before.
    """
    content = saved.content
    for split in splits:
        _refuse_difference(LAST, {f"classes in {split.name}": (content["classes"], split.classes)})
        if saved.fingerprints[split.name] != split.fingerprint:
            logger.warning(lines.other_images(split.name))
    network.load_state_dict(content["state_dict"])
    optimizer.load_state_dict(content["optimizer"])
    for name, part in parts.items():
        part.load_state_dict(content[name])
    torch.set_rng_state(content["generators"]["cpu"])
    if device.type == "cuda" and "cuda" in content["generators"]:
        torch.cuda.set_rng_state(content["generators"]["cuda"], device)


def _refuse_difference(source: str, fields: dict[str, tuple[Any, Any]]) -> None:
    differences = [f"{name} {before!r}, now {now!r}" for name, (before, now) in fields.items() if before != now]
    if differences:
        raise TrainingFailed(
            "checkpoint_differs",
            f"{source} is of another training, with {'; '.join(differences)}: ask for the same as before, or "
            f"start a new training.",
        )


def _damaged(path: Path, why: str) -> TrainingFailed:
    return TrainingFailed(
        "checkpoint_damaged",
        f"{str(path)!r} is damaged: {why}. Delete it to begin again at epoch 1, or start a new training with the "
        f"weights of best.pt (weight_path).",
    )


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value
