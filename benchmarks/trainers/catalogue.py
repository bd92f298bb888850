"""Which trainers are run, and where in their output the last value of everything stands.

Where it stands is said by the text right before it, as the library prints it, so that nothing here knows how
the service reads a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Find = Callable[[str], float]
"""From everything that a trainer printed to one number."""
STEP = "step"
"""Not among the latest metrics: the step of the last line that has one."""


def after(text: str, word: int = 0) -> Find:
    """What was printed last after `text`: the number that the first, or a later, word begins with."""
    return lambda output: number(output.rsplit(text, 1)[1].split()[word])


def before(text: str) -> Find:
    """The last number before the last `text`."""
    return lambda output: number(output.rsplit(text, 1)[0].split()[-1])


def number(word: str) -> float:
    """Raises `ValueError` for a word that begins with none."""
    found = re.match(r"-?[\d.]+(e-?\d+)?", word)
    if found is None:
        raise ValueError(f"{word!r} begins with no number")
    return float(found[0])


@dataclass(frozen=True)
class Trainer:
    name: str
    package: str
    """Whose version is shown."""
    command: tuple[str, ...]
    """A file of `scripts/`, and its arguments."""
    printed: Mapping[str, Find]
    """By the name that the service is to show it under."""


TRAINERS = (
    Trainer(
        "scikit-learn MLPClassifier",
        "scikit-learn",
        ("sklearn_mlp.py",),
        {"epoch": after("Iteration "), "train_loss": after("loss = "), "val_acc": after("Validation score: ")},
    ),
    Trainer(
        "Keras",
        "keras",
        ("keras_fit.py",),
        {
            "epoch": after("Epoch "),
            "train_loss": after("- loss: "),
            "train_acc": after("- accuracy: "),
            "val_loss": after("val_loss: "),
            "val_acc": after("val_accuracy: "),
        },
    ),
    Trainer(
        "Hugging Face Trainer",
        "transformers",
        ("hf_trainer.py",),
        {
            "epoch": after("'epoch': "),
            "train_loss": after("'train_loss': "),
            "learning_rate": after("'learning_rate': "),
            "val_loss": after("'eval_loss': "),
            "val_acc": after("'eval_accuracy': "),
        },
    ),
    Trainer(
        "Lightning, tqdm",
        "lightning",
        ("lightning_fit.py", "--bar", "tqdm"),
        {
            "epoch": after("Epoch "),
            "train_loss": after("train_loss="),
            "val_loss": after("val_loss="),
            "val_acc": after("val_acc="),
        },
    ),
    Trainer(
        "Lightning, Rich",
        "lightning",
        ("lightning_fit.py", "--bar", "rich"),
        {
            "epoch": after("Epoch "),
            "train_loss": after("train_loss: "),
            "val_loss": after("val_loss: "),
            "val_acc": after("val_acc: "),
        },
    ),
    Trainer(
        "LightGBM",
        "lightgbm",
        ("lightgbm_train.py",),
        {
            STEP: after("\n["),
            "train_loss": after("training's multi_logloss: "),
            "val_loss": after("valid_1's multi_logloss: "),
        },
    ),
    Trainer(
        "XGBoost",
        "xgboost",
        ("xgboost_train.py",),
        {STEP: after("\n["), "train_loss": after("train-mlogloss:"), "val_loss": after("val-mlogloss:")},
    ),
    Trainer(
        "Ultralytics classify",
        "ultralytics",
        ("ultralytics_classify.py",),
        {
            "epoch": before(" 0G "),
            "train_loss": after(" 0G "),
            "top1_acc": after(" all "),
            "top5_acc": after(" all ", word=1),
        },
    ),
)
