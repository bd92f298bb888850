"""Formats whose numbers have no names: what they mean, their place on the line says.

One small file a preset, with sample lines that are its tests. To add one, write the file and list it here.
"""

from __future__ import annotations

from services.parsing.presets.base import Preset
from services.parsing.presets.catboost import CATBOOST
from services.parsing.presets.classification_report import CLASSIFICATION_REPORT
from services.parsing.presets.coco import COCO
from services.parsing.presets.darknet import DARKNET
from services.parsing.presets.keras import KERAS
from services.parsing.presets.pytorch_tutorial import PYTORCH_TUTORIAL
from services.parsing.presets.scikit_learn import SCIKIT_LEARN
from services.parsing.presets.torchtune import TORCHTUNE

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (CATBOOST, CLASSIFICATION_REPORT, COCO, DARKNET, KERAS, PYTORCH_TUTORIAL, SCIKIT_LEARN, TORCHTUNE)
}

AUTO, NONE = "auto", "none"
"""As a format: all presets beside the engine; nothing but the user's own patterns."""


def presets_of(log_format: str) -> tuple[Preset, ...]:
    """The presets to try on every line.

    Raises:
        ValueError: there is no such format.
    """
    if log_format == AUTO:
        return tuple(PRESETS.values())
    if log_format == NONE:
        return ()
    if log_format not in PRESETS:
        raise ValueError(f"There is no log format {log_format!r}.")
    return (PRESETS[log_format],)
