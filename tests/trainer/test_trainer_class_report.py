"""What is kept of the best epoch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.trainer.helpers import request_for, write_digits
from tests.trainer.test_trainer_loop import trained
from trainer.checkpoint_file import EVALUATION, checksum_in
from trainer.class_report import report
from trainer.evaluation import evaluate


def test_rows_are_true_classes_and_names_may_be_anything() -> None:
    evaluation = evaluate(torch.eye(3)[[0, 1, 1, 1]], torch.tensor([0, 1, 1, 0]))
    content = json.loads(report(evaluation, 7, ["<b>", "\udcff", "never"]))
    assert (content["epoch"], content["classes"]) == (7, ["<b>", "\udcff", "never"])
    assert content["confusion_matrix"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert [each["support"] for each in content["per_class"]] == [2, 2, 0]
    assert (content["per_class"][0]["recall"], content["per_class"][2]["ap"]) == (0.5, None)


def test_it_is_of_the_epoch_of_the_best_checkpoint(tmp_path: Path) -> None:
    data = write_digits(tmp_path, training=10, validation=5, classes=3)
    result, _ = trained(request_for(data, num_classes=3, num_epochs=3), tmp_path / "run")
    content = json.loads((tmp_path / "run" / EVALUATION).read_text())
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert content["epoch"] == best["epoch"]
    with (tmp_path / "run" / "best.pt").open("rb") as file:
        assert content["checkpoint"] == checksum_in(file)
    assert content["metrics"]["val_acc"] == pytest.approx(result.best_acc)
    right = sum(row[index] for index, row in enumerate(content["confusion_matrix"]))
    images = sum(map(sum, content["confusion_matrix"]))
    assert 100 * right / images == pytest.approx(result.best_acc)
    assert content["classes"] == best["classes"]
