"""A training from its request to its checkpoints, as its log and its files show it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.schemas import TrainingRequest
from tests.trainer.helpers import Lines, logger_and_lines, never, request_for, write_digits, write_images
from trainer import loop, run
from trainer.checkpoint import load_classifier
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.loop import TrainingResult, train

NUMBER = r"\d+(\.\d+)?(e-\d+)?"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes with five training and two validation images each."""
    return write_digits(tmp_path_factory.mktemp("digits"), training=5, validation=2, classes=6)


def trained(
    request: TrainingRequest, output_dir: Path, should_stop: Callable[[], bool] = never
) -> tuple[TrainingResult, Lines]:
    logger, lines = logger_and_lines()
    result = train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=should_stop)
    return result, lines


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def test_the_lines_of_a_training_come_in_order(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEP_LINE_SECONDS", 0.0)
    result, lines = trained(request_for(digits, num_classes=6, num_epochs=2), tmp_path)

    def epoch(number: int) -> list[str]:
        steps = [
            rf"Epoch \[{number}/2\], Step \[{step}/4\], Train Loss: {NUMBER}, \d+\.\d images/s, ETA: \d+s"
            for step in range(1, 5)
        ]
        return [
            rf"Epoch \[{number}/2\] started",
            *steps,
            rf"Train Loss: {NUMBER}, Train Accuracy: \d+\.\d\d%",
            rf"Validation Loss: {NUMBER}, Validation Accuracy: \d+\.\d\d%",
            rf"Validation macro_F1: {NUMBER}",
            rf"Validation micro_F1: {NUMBER}",
            rf"Validation macro_Precision: {NUMBER}",
            rf"Validation macro_Recall: {NUMBER}",
            rf"Validation micro_Precision: {NUMBER}",
            rf"Validation micro_Recall: {NUMBER}",
            rf"Validation mAP: {NUMBER}",
            r"Validation Top-k Accuracy: \{'top1': \d+\.\d+, 'top3': \d+\.\d+, 'top5': \d+\.\d+\}",
            rf"Learning Rate: {NUMBER}",
            *([r"Decoded images kept in memory: 42 of 42 \(\d+ MiB\)"] if number == 1 else []),
            r"(New best model saved with Accuracy: \d+\.\d\d%)?",
            rf"Epoch \[{number}/2\] finished in \d+\.\ds",
        ]

    expected = [
        r"Training shufflenet_v2_x0_5 on cpu: 30 training and 12 validation images, 6 classes, fp32",
        *epoch(1),
        *epoch(2),
        rf"Training complete\. Best Accuracy: {result.best_acc:.2f}%",
    ]
    assert re.fullmatch(
        "".join(f"({line}\n)" if line[0] != "(" else f"({line}\n)?" for line in expected),
        "".join(f"{message}\n" for message in lines.messages),
    )
    assert all(record.levelname == "INFO" for record in lines.records)
    assert result.epochs == 2


def test_a_network_learns_digits_and_its_checkpoint_predicts_them(tmp_path: Path) -> None:
    data = write_digits(tmp_path, training=25, validation=10, classes=3)
    request = request_for(
        data, num_classes=3, num_epochs=4, model="resnet18", learning_rate=1e-3, hflip=False, augment=False
    )
    result, lines = trained(request, tmp_path / "run")
    assert result.best_acc >= 90, lines.messages

    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best.pt", "evaluation.json", "last.pt"]
    last, best = (torch.load(tmp_path / "run" / name, weights_only=True) for name in ("last.pt", "best.pt"))
    assert last["epoch"] == 4
    assert best["metrics"]["val_acc"] == best["metrics"]["best_acc"] == result.best_acc
    assert TrainingRequest.model_validate(last["request"]) == request

    classifier = load_classifier(tmp_path / "run/best.pt")
    images = sorted((data / "val").rglob("*.png"))
    right = sum(next(iter(classifier.predict(image))) == image.parent.name for image in images)
    assert 100 * right / len(images) == pytest.approx(result.best_acc)


def test_the_best_checkpoint_is_written_only_when_the_accuracy_improves(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lines = trained(request_for(digits, num_classes=6, num_epochs=3, learning_rate=1e-9), tmp_path)
    assert sum(message.startswith("New best model") for message in lines.messages) < 3
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] < 3


@pytest.mark.parametrize("model", ["shufflenet_v2_x0_5", "squeezenet1_1"])  # the latter has dropout
def test_the_same_seed_gives_the_same_weights_bit_for_bit(digits: Path, tmp_path: Path, model: str) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(len(name))  # what the process does with its generator does not matter
        trained(request_for(digits, num_classes=6, model=model, seed=seed), tmp_path / name)
        torch.rand(3)
    first, same, other = (weights(tmp_path / name / "last.pt") for name in ("a", "b", "c"))
    assert all(torch.equal(value, same[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


def test_the_generator_of_the_process_is_left_as_it_was(digits: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    trained(request_for(digits, num_classes=6), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("call", [1, 9, 20, 34, 40, 43, 60])
def test_a_stop_takes_effect_at_once(digits: Path, tmp_path: Path, call: int) -> None:
    asked = 0

    def at_that_call() -> bool:
        nonlocal asked
        asked += 1
        return asked >= call

    with pytest.raises(TrainingStopped):
        trained(request_for(digits, num_classes=6, num_epochs=9), tmp_path, at_that_call)
    assert asked == call


def test_a_stop_leaves_the_checkpoint_of_the_finished_epoch(digits: Path, tmp_path: Path) -> None:
    logger, lines = logger_and_lines()
    with pytest.raises(TrainingStopped):
        train(
            request_for(digits, num_classes=6, num_epochs=9),
            output_dir=tmp_path,
            device="cpu",
            logger=logger,
            should_stop=lambda: "Epoch [2/9] started" in lines.messages,
        )
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 1
    assert load_classifier(tmp_path / "best.pt").classes == ["0", "1", "2", "3", "4", "5"]


def test_a_training_that_diverges_says_so_and_what_to_do(digits: Path, tmp_path: Path) -> None:
    logger, lines = logger_and_lines()
    request = request_for(
        digits, num_classes=6, model="squeezenet1_1", optimizer="sgd", learning_rate=100, num_epochs=5
    )
    with pytest.raises(TrainingFailed, match=r"Lower learning_rate \(now 100\)") as failure:
        train(request, output_dir=tmp_path, device="cpu", logger=logger, should_stop=never)
    assert failure.value.reason == "diverged"
    assert lines.at("ERROR") == [str(failure.value)]
    assert lines.messages[-1].startswith("Training diverged in epoch ")


def test_data_that_changed_since_the_request_is_refused_with_a_line(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"cat": 2, "dog": 2})
    write_images(tmp_path / "val", {"cat": 2, "fox": 2})
    logger, lines = logger_and_lines()
    with pytest.raises(TrainingFailed, match="only in train_path: 'dog'") as failure:
        train(request_for(tmp_path), output_dir=tmp_path, device="cpu", logger=logger, should_stop=never)
    assert failure.value.reason == "classes_differ"
    assert lines.at("ERROR") == [str(failure.value)]


def test_a_device_without_enough_memory_says_what_to_lower(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_arguments: object, **_named: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(run, "build_network", exhaust)
    logger, lines = logger_and_lines()
    with pytest.raises(TrainingFailed, match=r"lower batch_size \(now 8\)") as failure:
        train(request_for(digits, num_classes=6), output_dir=tmp_path, device="cpu", logger=logger, should_stop=never)
    assert failure.value.reason == "out_of_memory"
    assert lines.at("ERROR") == [str(failure.value)]


def test_a_single_image_left_over_does_not_break_batch_normalisation(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"cat": 2, "dog": 3})
    write_images(tmp_path / "val", {"cat": 1, "dog": 2})
    result, _ = trained(request_for(tmp_path, model="resnet18", batch_size=2), tmp_path / "run")
    assert result.epochs == 1


@pytest.mark.parametrize("amp", ["auto", "bf16", "fp32"])
def test_every_precision_trains(digits: Path, tmp_path: Path, amp: str) -> None:
    _, lines = trained(request_for(digits, num_classes=6, amp=amp), tmp_path)
    assert lines.messages[0].endswith("bf16 autocast" if amp == "bf16" else "fp32")  # depthwise: auto is fp32


def test_a_checkpoint_is_a_place_to_start_from(digits: Path, tmp_path: Path) -> None:
    request = request_for(digits, num_classes=6)
    trained(request, tmp_path / "first")
    path = str(tmp_path / "first/last.pt")
    _, lines = trained(request.model_copy(update={"weight_path": path, "learning_rate": 1e-12}), tmp_path / "second")
    assert lines.messages[0] == f"Weights loaded from {path}"
    first, second = weights(tmp_path / "first/last.pt"), weights(tmp_path / "second/last.pt")
    assert torch.allclose(first["fc.weight"], second["fc.weight"], atol=1e-6)
