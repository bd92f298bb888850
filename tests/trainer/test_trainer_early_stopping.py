"""A training ends where it no longer gets better, and not before."""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.helpers import logger_and_lines, never, request_for, same, write_digits
from trainer.early_stopping import EarlyStopping, score_of
from trainer.evaluation import evaluate
from trainer.loop import TrainingResult, train


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=3, validation=2, classes=2)


def trained(digits: Path, output_dir: Path, **changes: Any) -> tuple[TrainingResult, list[str]]:
    """With a rate so small that nothing gets better."""
    request = request_for(digits, learning_rate=1e-12, augment=False, **changes)
    logger, lines = logger_and_lines()
    resume = output_dir.exists()
    result = train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never, resume=resume)
    return result, lines.messages


def test_it_is_over_after_so_many_epochs_in_a_row_without_a_better_one() -> None:
    stopping = EarlyStopping(patience=2)
    over = []
    for score in (1, 2, 2, 3, 2, 3):
        stopping.epoch_done(score)
        over.append(stopping.is_over)
    assert over == [False, False, False, False, False, True]


@pytest.mark.parametrize("monitor", ["val_acc", "val_loss", "macro_f1", "mAP"])
def test_a_better_network_has_a_greater_score(monitor: str) -> None:
    targets_N = torch.tensor([0, 1, 2, 0])
    right = torch.nn.functional.one_hot(targets_N).float() * 5
    wrong = right.roll(1, dims=1)
    assert score_of(evaluate(right, targets_N), monitor) > score_of(evaluate(wrong, targets_N), monitor)


def test_a_training_that_gets_no_better_is_ended_and_complete(digits: Path, tmp_path: Path) -> None:
    changes = {"num_epochs": 9, "early_stopping_patience": 2, "model": "squeezenet1_1"}
    result, said = trained(digits, tmp_path / "run", **changes)
    assert result.epochs == 3
    assert said[-2:] == [
        "Early stopping: no better val_acc in the last 2 epochs",
        f"Training complete. Best Accuracy: {result.best_acc:.2f}%",
    ]
    again, said_again = trained(digits, tmp_path / "run", **changes)
    assert again == result
    assert said_again == ["Resuming from last.pt: epochs 1 to 3 of 9 are done", *said[-2:]]


def test_without_patience_every_epoch_is_trained(digits: Path, tmp_path: Path) -> None:
    result, said = trained(digits, tmp_path / "run", num_epochs=3, model="squeezenet1_1")
    assert result.epochs == 3
    assert not any("Early" in line for line in said)


def test_a_training_that_is_over_with_its_last_epoch_was_not_stopped(digits: Path, tmp_path: Path) -> None:
    result, said = trained(digits, tmp_path / "run", num_epochs=3, early_stopping_patience=2, model="squeezenet1_1")
    assert result.epochs == 3
    assert not any("Early" in line for line in said)


def test_the_count_goes_on_from_its_state() -> None:
    stopping = EarlyStopping(patience=3, best=0.5, waited=2)
    other = EarlyStopping(patience=3)
    other.load_state_dict(stopping.state_dict())
    other.epoch_done(0.5)
    assert other.is_over
    stopping.epoch_done(0.5)
    assert same(other.state_dict(), stopping.state_dict())
