"""What is chosen is said with its reason, and is what the request could have said itself."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from services.parsing import LineParser
from tests.trainer.helpers import logger_and_lines, never, request_for, same, write_digits
from trainer import automatic, lines, range_test
from trainer.automatic import Choice, chosen_batch_size
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.loop import train
from trainer.network import bare_network
from trainer.resume import read_last
from trainer.run import Run

CPU = torch.device("cpu")
GPU = torch.device("cuda:0")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), training=8, validation=2, classes=3)


def content_after(digits: Path, output_dir: Path, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    logger, said = logger_and_lines()
    request = request_for(digits, **{"num_classes": 3, "num_epochs": 2, "model": "mnasnet0_5"} | changes)
    train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never)
    content: dict[str, Any] = torch.load(output_dir / "last.pt", weights_only=True)
    return content, said.messages


def batch_size(images: int, **changes: Any) -> Choice:
    request = request_for(Path("/anywhere"), **{"batch_size": "auto"} | changes)
    return chosen_batch_size(request, nn.Identity(), images, CPU)


@pytest.mark.parametrize(("images", "size"), [(2, 8), (319, 8), (320, 16), (700, 32), (1437, 64), (1_000_000, 64)])
def test_a_batch_is_a_power_of_two_that_leaves_enough_updates(images: int, size: int) -> None:
    choice = batch_size(images)
    assert (choice.field, choice.value) == ("batch_size", size)
    assert f"{images} training images make {math.ceil(images / size)} batches" in choice.why


def test_larger_images_make_smaller_batches() -> None:
    assert batch_size(100_000, image_size=448).value == 16


def test_each_worker_gets_two_images() -> None:
    request = request_for(Path("/anywhere"), batch_size="auto")
    assert chosen_batch_size(request, nn.Identity(), 50, CPU, workers=5).value == 16


def test_on_a_gpu_it_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def fits(_request: Any, _network: Any, size: int, _device: Any) -> bool:
        tried.append(size)
        return size <= 32

    monkeypatch.setattr(automatic, "_fits", fits)
    request = request_for(Path("/anywhere"), batch_size="auto")
    choice = chosen_batch_size(request, nn.Identity(), 100_000, GPU)
    assert tried == [256, 128, 64, 32]
    assert choice == Choice("batch_size", 32, "the memory of cuda:0 does not take 64")


def test_what_is_tried_out_leaves_the_network_as_it_was() -> None:
    network = bare_network("mnasnet0_5", 3, 32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    assert automatic._fits(request_for(Path("/anywhere")), network, 4, CPU)
    assert same(dict(network.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), random), "dropout has drawn from the training's numbers"
    assert all(parameter.grad is None for parameter in network.parameters())


def test_too_little_memory_is_no_failure_yet() -> None:
    class Greedy(nn.Module):
        def forward(self, _images: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError

    assert not automatic._fits(request_for(Path("/anywhere")), Greedy(), 4, CPU)


def test_the_training_is_that_of_the_numbers_in_the_log(digits: Path, tmp_path: Path) -> None:
    content, said = content_after(digits, tmp_path / "auto", batch_size="auto", learning_rate="auto")
    chosen = [line.removeprefix("Chosen for auto: ") for line in said if line.startswith("Chosen for auto: ")]
    values = dict(line.split(",")[0].split("=") for line in chosen)
    assert list(values) == ["batch_size", "learning_rate"]
    assert all(", because " in line for line in chosen)
    assert said.index(f"Chosen for auto: {chosen[1]}") < said.index("Epoch [1/2] started")
    numbers = {"batch_size": int(values["batch_size"]), "learning_rate": float(values["learning_rate"])}
    plain, _ = content_after(digits, tmp_path / "plain", **numbers)
    assert content.pop("chosen") == numbers
    assert same(content, plain)


RATES = [1e-4 * (step + 1) for step in range(80)]


@pytest.mark.parametrize(
    ("losses", "rate", "why"),
    [
        ([*range(50, 0, -1), *range(1, 31)], 0.0005, "a tenth of 5.0e-03, where the loss was lowest in a range test"),
        ([*range(80, 0, -1)], 0.001, "the loss has not risen in a range test, and this is the usual one of adamw"),
        ([], 0.001, "the loss was no number in a range test, and this is the usual one of adamw"),
    ],
    ids=["rises", "falls to the end", "no number"],
)
def test_a_tenth_of_the_best_rate_or_the_usual_one(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: list[float], rate: float, why: str
) -> None:
    monkeypatch.setattr(range_test, "_tested", lambda _run: (RATES[: len(losses)], losses))
    content, said = content_after(digits, tmp_path, learning_rate="auto", num_epochs=1)
    assert content["chosen"] == {"learning_rate": rate}
    [line] = [line for line in said if line.startswith("Chosen for auto")]
    assert line.startswith(f"Chosen for auto: learning_rate={rate:g}, because {why}")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_test_ends_once_the_loss_has_risen(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """At ever higher rates every network gets worse than it was."""
    found: list[tuple[list[float], list[float]]] = []
    plain = range_test._tested

    def watched(run: Run) -> tuple[list[float], list[float]]:
        found.append(plain(run))
        return found[0]

    monkeypatch.setattr(range_test, "_tested", watched)
    content_after(digits, tmp_path, learning_rate="auto", num_epochs=1, optimizer=optimizer, model="shufflenet_v2_x0_5")
    [(rates, losses)] = found
    slowest, fastest = range_test.RANGES[optimizer]
    assert rates[0] == slowest
    assert rates == sorted(rates)
    assert rates[-1] <= fastest * 1.0001
    assert min(losses) < losses[0]
    assert losses[-1] > min(losses)


def test_images_one_at_a_time_have_a_rate_as_well(digits: Path, tmp_path: Path) -> None:
    options = {"batch_size": 1, "model": "squeezenet1_1", "image_size": 32, "num_epochs": 1}
    _, said = content_after(digits, tmp_path, learning_rate="auto", **options)
    assert any(line.startswith("Chosen for auto: learning_rate=") for line in said)


def test_where_broken_images_leave_no_batch_the_usual_rate_is_taken(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_test, "_batches", lambda _run: [])
    content, _ = content_after(digits, tmp_path, learning_rate="auto", num_epochs=1)
    assert content["chosen"] == {"learning_rate": range_test.USUAL["adamw"]}


def test_the_test_can_be_stopped(digits: Path, tmp_path: Path) -> None:
    logger, said = logger_and_lines()
    request = request_for(digits, num_classes=3, learning_rate="auto")
    with pytest.raises(TrainingStopped):
        train(
            request,
            output_dir=tmp_path,
            device="cpu",
            logger=logger,
            should_stop=lambda: any(line.startswith("Training ") for line in said.messages),
        )
    assert not any(line.startswith("Chosen") for line in said.messages)


def test_a_number_does_not_go_on_where_auto_began(digits: Path, tmp_path: Path) -> None:
    content_after(digits, tmp_path, batch_size="auto")
    asked = {"num_classes": 3, "num_epochs": 2, "model": "mnasnet0_5"}
    assert read_last(tmp_path, request_for(digits, **asked, batch_size="auto")) is not None
    with pytest.raises(TrainingFailed, match="batch_size 'auto', now 16"):
        read_last(tmp_path, request_for(digits, **asked, batch_size=16))


@pytest.mark.parametrize("choice", [Choice("batch_size", 32, "x"), Choice("learning_rate", 0.0012, "a tenth of 1e-02")])
def test_the_line_is_no_metric(choice: Choice) -> None:
    """It comes in front of the first epoch."""
    read = LineParser().parse(lines.chosen(choice.field, choice.value, choice.why))
    assert (read.metrics, read.step, read.stage) == ({}, None, None)


def test_the_line_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("automatic")
    with caplog.at_level(logging.INFO, "automatic"):
        automatic.say(Choice("batch_size", 32, "of this"), logger)
    assert caplog.messages == ["Chosen for auto: batch_size=32, because of this"]
