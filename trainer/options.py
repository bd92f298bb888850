"""What a request asks for beyond the plain training, by the names of its fields."""

from __future__ import annotations

from models.schemas import TrainingRequest

OPTIONS = (
    *("accumulate_batches", "backbone_lr_scale", "clip_grad_norm"),
    *("schedule", "lr_factor", "lr_step_epochs", "lr_patience"),
    *("monitor", "early_stopping_patience", "ema_decay"),
    *("label_smoothing", "class_weights", "freeze", "trainable_layers"),
    *("trivial_augment", "random_erasing", "mixup_alpha", "cutmix_alpha"),
)
"""Each changes what is trained, and by default nothing."""


def default_of(field: str) -> object:
    return TrainingRequest.model_fields[field].default


def chosen(request: TrainingRequest) -> dict[str, object]:
    """Every option that is not as it is by default."""
    values = {name: getattr(request, name) for name in OPTIONS}
    return {name: value for name, value in values.items() if value != default_of(name)}
