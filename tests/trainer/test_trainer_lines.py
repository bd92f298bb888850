"""The lines are those of the published format, and no number in them reads as zero that is not."""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import lines
from trainer.evaluation import evaluate


@settings(deadline=None, max_examples=50)
@given(st.floats(min_value=1e-30, max_value=1e6))
def test_a_number_keeps_its_value(value: float) -> None:
    assert math.isclose(float(lines.format_number(value)), value, rel_tol=5.001e-4)
    assert math.isclose(float(lines.format_number(-value)), -value, rel_tol=5.001e-4)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5234, "0.5234"), (12.3, "12.3000"), (0.0, "0.0000"), (0.00012346, "0.0001235"), (3.2e-05, "3.2e-05")],
)
def test_a_number_looks_like_this(value: float, text: str) -> None:
    assert lines.format_number(value) == text


@settings(deadline=None, max_examples=50)
@given(st.floats(min_value=1e-12, max_value=100))
def test_a_learning_rate_is_never_zero(rate: float) -> None:
    assert float(lines.learning_rate(rate).removeprefix("Learning Rate: ")) == pytest.approx(rate, rel=1e-5)


def test_lines_of_an_epoch() -> None:
    assert lines.epoch_started(3, 10) == "Epoch [3/10] started"
    assert (
        lines.step_done(3, 10, 40, 180, loss=0.5234, images_per_second=312.44, seconds_left=12.3)
        == "Epoch [3/10], Step [40/180], Train Loss: 0.5234, 312.4 images/s, ETA: 12s"
    )
    assert lines.epoch_trained(0.5234, 82.4512) == "Train Loss: 0.5234, Train Accuracy: 82.45%"
    assert lines.learning_rate(3.2e-05) == "Learning Rate: 3.2e-05"
    assert lines.best_saved(79.12) == "New best model saved with Accuracy: 79.12%"
    assert lines.epoch_finished(3, 10, 12.34) == "Epoch [3/10] finished in 12.3s"
    assert lines.training_complete(79.12) == "Training complete. Best Accuracy: 79.12%"


def test_the_first_line_says_what_is_trained() -> None:
    line = lines.training_starts("resnet18", "cpu", training=1437, validation=360, classes=10, bf16=True)
    assert line == "Training resnet18 on cpu: 1437 training and 360 validation images, 10 classes, bf16 autocast"
    assert lines.training_starts("a", "b", training=1, validation=2, classes=3, bf16=False).endswith(", fp32")


def test_lines_of_a_validation() -> None:
    logits_NC = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 1, 0]])
    assert lines.validated(evaluate(logits_NC, torch.tensor([0, 1, 2, 1]))) == [
        "Validation Loss: 0.5316, Validation Accuracy: 75.00%",
        "Validation macro_F1: 0.7778",
        "Validation micro_F1: 0.7500",
        "Validation macro_Precision: 0.8333",
        "Validation macro_Recall: 0.8333",
        "Validation micro_Precision: 0.7500",
        "Validation micro_Recall: 0.7500",
        "Validation mAP: 1.0000",
        "Validation Top-k Accuracy: {'top1': 75.0, 'top3': 100.0}",
    ]
