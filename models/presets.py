"""Values that belong together, for whoever does not want to choose each of them.

Plain data: what a preset says stands in the request afterwards, as if its author had written it. The reasons are in
doc/PRESETS.md.
"""

from __future__ import annotations

from typing import Any

_COMMON: dict[str, Any] = {
    "learning_rate": 1e-3,
    "label_smoothing": 0.1,
    "clip_grad_norm": 1.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "fast": _COMMON
    | {
        "batch_size": "auto",
        "num_epochs": 15,
        "backbone_lr_scale": 0.1,
        "ema_decay": 0.98,
    },
    "balanced": _COMMON
    | {
        "batch_size": 32,
        "num_epochs": 30,
        "backbone_lr_scale": 0.3,
        "random_erasing": 0.1,
        "ema_decay": 0.998,
        "early_stopping_patience": 10,
    },
    "accurate": _COMMON
    | {
        "batch_size": 32,
        "num_epochs": 120,
        "warmup_epochs": 5.0,
        "backbone_lr_scale": 0.3,
        "random_erasing": 0.25,
        "mixup_alpha": 0.2,
        "cutmix_alpha": 1.0,
        "ema_decay": 0.9995,
        "early_stopping_patience": 40,
    },
}
"""`fast` is for a first answer, `accurate` for the last percent. None has TrivialAugment, which turns images."""


def with_preset(body: dict[str, Any]) -> dict[str, Any]:
    """`body` with the values of its preset in the fields that it leaves out; without one that is known, as it is."""
    name = body.get("preset")
    return {**PRESETS[name], **body} if isinstance(name, str) and name in PRESETS else body
