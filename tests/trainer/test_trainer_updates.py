"""Several batches make one update, as one large batch would, and no gradient is longer than it may be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.helpers import logger_and_lines, never, request_for, write_digits, write_images
from trainer import loop, updates
from trainer.loop import train
from trainer.schedule import learning_rate_at

SLOW = {"optimizer": "sgd", "weight_decay": 0, "warmup_epochs": 0, "schedule": "constant", "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes with five training images each, 30 in all."""
    return write_digits(tmp_path_factory.mktemp("digits"), training=5, validation=2, classes=6)


def last(digits: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"num_classes": 6, "num_epochs": 2, **SLOW, **changes}
    logger, _ = logger_and_lines()
    train(request_for(digits, **fields), output_dir=output_dir, device="cpu", logger=logger, should_stop=never)
    content: dict[str, Any] = torch.load(output_dir / "last.pt", weights_only=True)
    return content


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any two weights."""
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


@pytest.fixture
def _no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which depends on the size of a batch."""
    monkeypatch.setattr(loop, "set_training", lambda network: network.eval())


@pytest.mark.usefixtures("_no_dropout")
@pytest.mark.parametrize(("size", "batches"), [(2, 6), (5, 2), (4, 3)])  # with 12 images an update, 6 are left over
def test_gathered_batches_are_one_large_batch(digits: Path, tmp_path: Path, size: int, batches: int) -> None:
    network = {"model": "squeezenet1_1"}  # without batch normalisation
    large = last(digits, tmp_path / "large", batch_size=size * batches, **network)["state_dict"]
    gathered = last(digits, tmp_path / "gathered", batch_size=size, accumulate_batches=batches, **network)["state_dict"]
    start = last(digits, tmp_path / "start", batch_size=30, **network | {"learning_rate": 1e-30})["state_dict"]
    moved = distance(large, start)
    assert moved > 1e-4
    assert distance(gathered, large) < 1e-3 * moved


def test_an_update_takes_as_many_batches_as_asked_for_and_the_rest_of_an_epoch(digits: Path, tmp_path: Path) -> None:
    fields = {"optimizer": "adam", "batch_size": 4, "num_epochs": 3}  # eight batches
    for batches, expected in ((1, 24), (3, 9), (8, 3), (100, 3)):
        state = last(digits, tmp_path / str(batches), accumulate_batches=batches, **fields)["optimizer"]["state"]
        assert {int(of["step"]) for of in state.values()} == {expected}, batches


def test_the_rate_follows_the_updates(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []

    def keeping(step: int, **place: Any) -> float:
        seen.append((step, place["steps"], place["steps_per_epoch"]))
        return learning_rate_at(step, **place)

    monkeypatch.setattr(updates, "learning_rate_at", keeping)
    last(digits, tmp_path, batch_size=4, accumulate_batches=3, model="squeezenet1_1")
    assert seen == [(update, 6, 3) for update in range(6)]


def test_an_update_is_made_without_a_last_batch_of_which_nothing_is_left(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"cat": 4, "dog": 4})
    write_images(tmp_path / "val", {"cat": 2, "dog": 2})
    for number in (0, 2, 3):
        (tmp_path / f"train/dog/{number:03}.png").write_bytes(b"broken")
    fields = {"num_classes": 2, "num_epochs": 1, "max_unreadable_share": 0.5, "shuffle": False, "optimizer": "adam"}
    state = last(tmp_path, tmp_path / "run", batch_size=2, accumulate_batches=2, **fields)["optimizer"]["state"]
    assert {int(of["step"]) for of in state.values()} == {1}  # the second update would be of one image
    fields["shuffle"] = True
    for batches in (4, 9):
        state = last(tmp_path, tmp_path / f"run{batches}", batch_size=2, accumulate_batches=batches, **fields)
        assert {int(of["step"]) for of in state["optimizer"]["state"].values()} == {1}


def test_a_clipped_update_is_as_long_as_it_may_be(digits: Path, tmp_path: Path) -> None:
    """Nesterov's first step goes 1.9 times the gradient; of one batch there is one step."""
    one_step = {"model": "resnet18", "batch_size": 30, "num_epochs": 1}
    names = dict(last(digits, tmp_path / "start", **one_step | {"learning_rate": 1e-30})["state_dict"])

    def length(**changes: Any) -> float:
        after = last(digits, tmp_path / str(changes), **one_step, **changes)["state_dict"]
        moves = [
            (after[name] - before).double().square().sum()
            for name, before in names.items()
            if "running" not in name and "num_batches" not in name
        ]
        return math.sqrt(sum(map(float, moves))) / (1.9 * SLOW["learning_rate"])  # type: ignore[operator]

    free = length()
    assert free > 0.5
    assert length(clip_grad_norm=0.01) == pytest.approx(0.01, rel=1e-2)
    assert length(clip_grad_norm=2 * free) == pytest.approx(free)
