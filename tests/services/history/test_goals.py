"""Whether less is better."""

from __future__ import annotations

import pytest

from services.history.goals import goal_of


@pytest.mark.parametrize("name", ["train_loss", "val_loss", "loss", "perplexity", "val_error", "rmse", "wer"])
def test_losses_and_errors_are_to_be_low(name: str) -> None:
    assert goal_of(name) == "min"


@pytest.mark.parametrize(
    "name",
    [
        "val_acc",
        "top5_acc",
        "macro_f1",
        "mAP",
        "mAP50-95",
        "AP50",
        "precision",
        "macro_recall",
        "val_mIoU",
        "dice",
        "auc",
    ],
)
def test_scores_are_to_be_high(name: str) -> None:
    assert goal_of(name) == "max"


@pytest.mark.parametrize("name", ["learning_rate", "throughput", "eta", "grad_norm", "gpu_mem", "lossless", "mapping"])
def test_of_the_rest_it_is_not_said(name: str) -> None:
    assert goal_of(name) is None
