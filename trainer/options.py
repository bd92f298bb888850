"""What a request asks for beyond the plain training, by the names of its fields."""

from __future__ import annotations

from collections.abc import Callable

from models.schemas import TrainingRequest
from trainer.progressive import takes_several_sizes

OPTIONS = (
    *("accumulate_batches", "backbone_lr_scale", "layer_decay", "clip_grad_norm"),
    *("schedule", "lr_factor", "lr_step_epochs", "lr_patience"),
    *("monitor", "early_stopping_patience", "ema_decay"),
    *("label_smoothing", "class_weights", "freeze", "trainable_layers"),
    *("progressive_resizing", "trivial_augment", "random_erasing", "mixup_alpha", "cutmix_alpha"),
)
"""Each changes what is trained, and by default nothing."""

_NEEDS: dict[str, tuple[str, Callable[[TrainingRequest], bool]]] = {
    "lr_factor": ("schedule=step or plateau", lambda request: request.schedule in ("step", "plateau")),
    "lr_step_epochs": ("schedule=step", lambda request: request.schedule == "step"),
    "lr_patience": ("schedule=plateau", lambda request: request.schedule == "plateau"),
    "monitor": (
        "schedule=plateau or early_stopping_patience",
        lambda request: request.schedule == "plateau" or request.early_stopping_patience > 0,
    ),
    "progressive_resizing": (
        "a network that takes images of several sizes",
        lambda request: takes_several_sizes(request.model),
    ),
    "trainable_layers": ("freeze=last_n", lambda request: request.freeze == "last_n"),
}


def default_of(field: str) -> object:
    return TrainingRequest.model_fields[field].default


def chosen(request: TrainingRequest) -> dict[str, object]:
    """Every option that is not as it is by default, and the preset that may have filled it in."""
    values = {name: getattr(request, name) for name in ("preset", *OPTIONS)}
    return {name: value for name, value in values.items() if value != default_of(name)}


def without_effect(request: TrainingRequest) -> dict[str, str]:
    """Every option that is chosen, and does nothing without another one: that one."""
    return {name: need for name, (need, is_met) in _NEEDS.items() if name in chosen(request) and not is_met(request)}
