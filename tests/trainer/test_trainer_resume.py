"""A training that goes on is the training that was never cut off."""

from __future__ import annotations

import gc
import logging
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.schemas import Stage, TrainingRequest
from services.parsing import LineParser
from tests.trainer.helpers import Lines, logger_and_lines, never, request_for, same, write_digits, write_images
from trainer import lines as wording
from trainer import loop, run
from trainer.checkpoint import load_classifier
from trainer.checkpoint_file import find_damage
from trainer.errors import STATUS_OF_REASON, TrainingFailed, TrainingStopped
from trainer.loop import TrainingResult, train
from trainer.network import build_network
from trainer.optimizer import build_optimizer

TIMINGS = re.compile(r"finished in [\d.]+s|, [\d.]+ images/s, ETA: \d+s")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes with five training and two validation images each."""
    return write_digits(tmp_path_factory.mktemp("digits"), training=5, validation=2, classes=6)


def trained(request: TrainingRequest, output_dir: Path, *, until: str | None = None, resume: bool = False) -> list[str]:
    """What was said; with `until`, the training is stopped at that line."""
    logger, lines = logger_and_lines()

    def stop() -> bool:
        return until in lines.messages

    try:
        train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=stop, resume=resume)
        assert until is None
    except TrainingStopped:
        assert until is not None
    return lines.messages


def content(path: Path) -> dict[str, Any]:
    assert find_damage(path) is None
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def without_timings(messages: list[str]) -> list[str]:
    return [TIMINGS.sub("", message) for message in messages]


@pytest.mark.parametrize("model", ["mnasnet0_5", "squeezenet1_1"])  # both draw from the generator, one normalises
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_that_was_cut_off_ends_like_one_that_was_not(
    digits: Path, tmp_path: Path, model: str, optimizer: str
) -> None:
    request = request_for(digits, num_classes=6, num_epochs=3, model=model, optimizer=optimizer, learning_rate=1e-3)
    whole = trained(request, tmp_path / "whole")
    first = trained(request, tmp_path / "cut", until="Epoch [2/3] started")
    torch.rand(3)
    rest = trained(request, tmp_path / "cut", resume=True)

    assert rest[0] == "Resuming from last.pt: epochs 1 to 1 of 3 are done"
    begun = first.index("Epoch [2/3] started")
    assert without_timings(first[:begun] + rest[2:]) == without_timings(whole)
    for name in ("last.pt", "best.pt"):
        assert same(content(tmp_path / "cut" / name), content(tmp_path / "whole" / name)), name


STATEFUL: list[dict[str, Any]] = [
    {"schedule": "plateau", "lr_patience": 0, "lr_factor": 0.5, "monitor": "val_loss", "ema_decay": 0.9},
    {"schedule": "one_cycle", "early_stopping_patience": 9, "mixup_alpha": 0.3, "cutmix_alpha": 1, "ema_decay": 0.99},
    {"schedule": "step", "lr_step_epochs": 1, "trivial_augment": True, "random_erasing": 0.5, "clip_grad_norm": 0.1},
    {"freeze": "last_n", "trainable_layers": 5, "backbone_lr_scale": 0.1, "accumulate_batches": 3, "ema_decay": 0.9},
    {"progressive_resizing": 0.5, "layer_decay": 0.9, "ema_decay": 0.9},
    {"batch_size": "auto", "learning_rate": "auto", "augment": False},
    {"augment": False, "freeze": "head_only", "ema_decay": 0.9},
    {"label_smoothing": 0.1, "class_weights": "balanced", "accumulate_batches": 2, "mixup_alpha": 0.2},
]
"""Every option that has a state, or draws numbers, or has a part in the optimizer's."""


@pytest.fixture(scope="module", params=STATEFUL, ids=lambda options: next(iter(options)))
def with_options(
    request: pytest.FixtureRequest, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingRequest, Path, list[str]]:
    """A request, and the folder and the lines of a training that was not cut off.

    mnasnet0_5 drops out: what is drawn for the images must leave the numbers of the network alone.
    """
    asked = request_for(
        digits,
        num_classes=6,
        num_epochs=4,
        model="mnasnet0_5",
        max_unreadable_share=0.5,
        **{"learning_rate": 1e-2} | request.param,
    )
    folder = tmp_path_factory.mktemp("whole") / "run"
    return asked, folder, trained(asked, folder)


@pytest.mark.parametrize("cut", [2, 3])
def test_so_it_does_with_every_option(
    with_options: tuple[TrainingRequest, Path, list[str]], tmp_path: Path, cut: int
) -> None:
    request, whole_folder, whole = with_options
    first = trained(request, tmp_path / "cut", until=f"Epoch [{cut}/4] started")
    torch.rand(3)
    rest = trained(request, tmp_path / "cut", resume=True)

    begun = first.index(f"Epoch [{cut}/4] started")
    after = rest.index(f"Epoch [{cut}/4] started")
    assert without_timings(first[:begun] + rest[after:]) == without_timings(whole)
    for name in ("last.pt", "best.pt"):
        assert same(content(tmp_path / "cut" / name), content(whole_folder / name)), name


def test_the_state_of_an_option_is_in_the_checkpoint_where_it_is_chosen(digits: Path, tmp_path: Path) -> None:
    options = {"schedule": "plateau", "early_stopping_patience": 3, "ema_decay": 0.9}
    trained(request_for(digits, num_classes=6, **options), tmp_path)
    last, best = content(tmp_path / "last.pt"), content(tmp_path / "best.pt")
    assert last["early_stopping"] == {"best": last["metrics"]["val_acc"], "waited": 0, "is_over": False}
    assert last["plateau"]["scale"] == 1
    assert last["average"]["updates"] == 4
    assert not {"early_stopping", "plateau", "average"} & best.keys()
    assert same(last["state_dict"], best["state_dict"])  # what was evaluated


def test_a_last_checkpoint_holds_all_that_changes_as_tensors_and_plain_values(digits: Path, tmp_path: Path) -> None:
    trained(request_for(digits, num_classes=6), tmp_path)
    last, best = content(tmp_path / "last.pt"), content(tmp_path / "best.pt")
    assert last.keys() - best.keys() == {"optimizer", "generators", "best_accuracy", "left_out", "fingerprints"}
    assert last["best_accuracy"] == last["metrics"]["best_acc"]
    assert same(last["state_dict"], best["state_dict"])
    assert (tmp_path / "last.pt").stat().st_size > 2 * (tmp_path / "best.pt").stat().st_size
    assert load_classifier(tmp_path / "last.pt").classes == load_classifier(tmp_path / "best.pt").classes


def test_without_a_checkpoint_it_begins_at_the_first_epoch(digits: Path, tmp_path: Path) -> None:
    request = request_for(digits, num_classes=6)
    said = trained(request, tmp_path / "resumed", resume=True)
    assert said[0] == "No last.pt to resume from: beginning at epoch 1"
    assert without_timings(said[1:]) == without_timings(trained(request, tmp_path / "begun"))


def test_a_training_that_is_complete_says_so_at_once(digits: Path, tmp_path: Path) -> None:
    request = request_for(digits, num_classes=6)
    whole = trained(request, tmp_path)
    before = (tmp_path / "last.pt").stat().st_mtime_ns
    said = trained(request.model_copy(update={"train_path": "/no/longer/there"}), tmp_path, resume=True)
    assert said == ["Resuming from last.pt: epochs 1 to 1 of 1 are done", whole[-1]]
    assert (tmp_path / "last.pt").stat().st_mtime_ns == before


def test_the_file_that_a_training_started_from_may_be_gone(digits: Path, tmp_path: Path) -> None:
    request = request_for(digits, num_classes=6, num_epochs=2)
    trained(request, tmp_path / "first")
    request = request.model_copy(update={"weight_path": str(tmp_path / "first/best.pt")})
    trained(request, tmp_path / "second", until="Epoch [2/2] started")
    (tmp_path / "first/best.pt").unlink()
    assert trained(request, tmp_path / "second", resume=True)[-1].startswith("Training complete.")


def failed(request: TrainingRequest, output_dir: Path) -> TrainingFailed:
    logger, lines = logger_and_lines()
    with pytest.raises(TrainingFailed) as failure:
        train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never, resume=True)
    assert lines.at("ERROR") == [str(failure.value)]
    assert failure.value.reason in STATUS_OF_REASON
    return failure.value


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "other"])
def test_a_damaged_checkpoint_is_refused_with_what_to_do(digits: Path, tmp_path: Path, damage: str) -> None:
    request = request_for(digits, num_classes=6, num_epochs=2)
    trained(request, tmp_path, until="Epoch [2/2] started")
    whole = (tmp_path / "last.pt").read_bytes()
    if damage == "flipped":
        middle = len(whole) // 2
        (tmp_path / "last.pt").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage == "cut":
        (tmp_path / "last.pt").write_bytes(whole[:-1])
    elif damage == "empty":
        (tmp_path / "last.pt").write_bytes(b"")
    else:
        (tmp_path / "last.pt").write_bytes((tmp_path / "best.pt").read_bytes())
    failure = failed(request, tmp_path)
    assert failure.reason == "checkpoint_damaged"
    assert "Delete it to begin again" in str(failure)


def test_a_damaged_checkpoint_neither_predicts_nor_starts_a_training(digits: Path, tmp_path: Path) -> None:
    request = request_for(digits, num_classes=6)
    trained(request, tmp_path)
    path = tmp_path / "best.pt"
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(ValueError, match="is damaged"):
        load_classifier(path)
    failure = failed(request.model_copy(update={"weight_path": str(path)}), tmp_path / "next")
    assert failure.reason == "checkpoint_damaged"


@pytest.mark.parametrize(
    "change", [{"model": "resnet18"}, {"num_epochs": 9}, {"seed": 1}, {"learning_rate": 1.0}, {"hflip": False}]
)
def test_a_checkpoint_of_another_training_is_refused(digits: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    request = request_for(digits, num_classes=6, num_epochs=2)
    trained(request, tmp_path, until="Epoch [2/2] started")
    failure = failed(request.model_copy(update=change), tmp_path)
    assert failure.reason == "checkpoint_differs"
    assert f"{next(iter(change))} {getattr(request, next(iter(change)))!r}, now" in str(failure)


def test_other_classes_than_before_are_refused(tmp_path: Path) -> None:
    for name, classes in (("a", {"cat": 3, "dog": 3}), ("b", {"cat": 3, "fox": 3})):
        write_images(tmp_path / name / "train", classes)
        write_images(tmp_path / name / "val", classes)
    trained(request_for(tmp_path / "a", num_epochs=2), tmp_path / "run", until="Epoch [2/2] started")
    assert failed(request_for(tmp_path / "b", num_epochs=2), tmp_path / "run").reason == "checkpoint_differs"


def test_other_images_than_before_are_said(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"cat": 3, "dog": 3})
    write_images(tmp_path / "val", {"cat": 2, "dog": 2})
    request = request_for(tmp_path, num_epochs=2)
    trained(request, tmp_path / "run", until="Epoch [2/2] started")
    (tmp_path / "train/cat/000.png").unlink()
    said = trained(request, tmp_path / "run", resume=True)
    assert said[1] == "Other images in train_path than before: going on with those that are there now"
    assert said[-1].startswith("Training complete.")


def test_a_best_checkpoint_that_is_of_no_use_is_said(digits: Path, tmp_path: Path) -> None:
    request = request_for(digits, num_classes=6, num_epochs=2)
    trained(request, tmp_path, until="Epoch [2/2] started")
    (tmp_path / "best.pt").unlink()
    said = trained(request, tmp_path, resume=True)
    assert said[1].startswith("best.pt cannot be used, No such file or directory: ")


@pytest.mark.parametrize("log_format", ["auto", "none"])
def test_the_line_of_a_resume_is_no_metric_and_counts_no_epoch(log_format: str) -> None:
    parser = LineParser(log_format=log_format)
    for line in (
        wording.training_starts("resnet18", "cpu", training=30, validation=12, classes=6, bf16=False),
        wording.epoch_started(3, 5),
        wording.epoch_trained(0.5, 50.0),
    ):
        parser.parse(line)
    before = parser.memory.state
    for line in (
        wording.resumed(2, 5),
        wording.nothing_to_resume(),
        wording.other_images("train_path"),
        wording.best_damaged("its content is not what its checksum says"),
        wording.training_starts("resnet18", "cpu", training=30, validation=12, classes=6, bf16=False),
    ):
        read = parser.parse(line)
        assert (read.metrics, read.step, read.stage) == ({}, None, None), line
        assert parser.memory.state == before, line
    if log_format == "auto":
        read = parser.parse(wording.epoch_started(3, 5))
        assert (read.metrics["epoch"], read.metrics["total_epochs"], read.stage) == (3, 5, Stage.EPOCH_START)
        assert parser.parse(wording.epoch_trained(0.25, 75.0)).metrics["epoch"] == 3


def test_a_line_is_flushed_before_the_checkpoint_says_that_it_is_done(digits: Path, tmp_path: Path) -> None:
    """A handler that keeps its lines until it is flushed, as a buffered file does, loses none to a kill."""
    kept: list[str] = []
    epochs_kept: list[int] = []

    class Keeping(logging.Handler):
        waiting: list[str] = []  # noqa: RUF012

        def emit(self, record: logging.LogRecord) -> None:
            self.waiting.append(record.getMessage())

        def flush(self) -> None:
            kept.extend(self.waiting)
            self.waiting.clear()
            last = tmp_path / "last.pt"
            epochs_kept.append(content(last)["epoch"] if last.exists() else 0)

    logger = logging.Logger("test")
    logger.addHandler(Keeping())
    train(
        request_for(digits, num_classes=6, num_epochs=2),
        output_dir=tmp_path,
        device="cpu",
        logger=logger,
        should_stop=never,
    )
    assert epochs_kept == [0, 1]
    assert sum(line.startswith("Validation Loss") for line in kept) == 2
    assert sum(line.startswith("Learning Rate") for line in kept) == 2


class _Defect(Exception):
    pass


def _complete(_lines: Lines) -> bool:
    return False


def _stop(lines: Lines) -> bool:
    return any(line.startswith("Epoch [2/2], Step [2/") for line in lines.messages)


def _fail(lines: Lines) -> bool:
    if _stop(lines):
        raise TrainingFailed("not_saved", "it failed")
    return False


def _break(lines: Lines) -> bool:
    if _stop(lines):
        try:
            raise ValueError
        except ValueError as error:
            raise _Defect from error
    return False


@pytest.mark.parametrize("model", ["shufflenet_v2_x0_5", "googlenet", "densenet121"])
@pytest.mark.parametrize(
    ("should_stop", "end"),
    [(_complete, TrainingResult), (_stop, TrainingStopped), (_fail, TrainingFailed), (_break, _Defect)],
)
def test_nothing_holds_the_network_after_the_end(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    should_stop: Callable[[Lines], bool],
    end: type,
    model: str,
) -> None:
    made: list[weakref.ref[object]] = []
    monkeypatch.setattr(loop, "STEP_LINE_SECONDS", 0.0)

    def network(*arguments: Any, **named: Any) -> tuple[nn.Module, bool]:
        built, is_trained = build_network(*arguments, **named)
        made.extend(weakref.ref(part) for part in (built, *built.parameters()))
        return built, is_trained

    def optimizer(*arguments: Any, **named: Any) -> torch.optim.Optimizer:
        built = build_optimizer(*arguments, **named)
        made.append(weakref.ref(built))
        return built

    monkeypatch.setattr(run, "build_network", network)
    monkeypatch.setattr(run, "build_optimizer", optimizer)
    logger, lines = logger_and_lines()
    kept: BaseException | TrainingResult
    gc.disable()  # what is gone afterwards is gone because of the training
    try:
        kept = train(
            request_for(digits, num_classes=6, num_epochs=2, model=model, ema_decay=0.9, mixup_alpha=0.1),
            output_dir=tmp_path,
            device="cpu",
            logger=logger,
            should_stop=lambda: should_stop(lines),
        )
    except (TrainingFailed, TrainingStopped, _Defect) as error:
        kept = error  # and with it its traceback, as a service does that still writes down why
    finally:
        gc.enable()
    assert isinstance(kept, end)
    assert len(made) > 50
    assert [part() for part in made if part() is not None] == [], kept


def test_cuda_hands_back_what_is_free_when_nothing_refers_to_it(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: the cache is emptied, and at that moment the network is gone, also where an exception is kept."""
    made: list[weakref.ref[nn.Module]] = []
    alive_when_emptied: list[bool] = []

    def network(*arguments: Any, **named: Any) -> tuple[nn.Module, bool]:
        built, is_trained = build_network(*arguments, **named)
        made.append(weakref.ref(built))
        return built, is_trained

    monkeypatch.setattr(loop, "STEP_LINE_SECONDS", 0.0)
    monkeypatch.setattr(run, "build_network", network)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive_when_emptied.append(made[0]() is not None))
    logger, lines = logger_and_lines()
    with pytest.raises(_Defect):
        train(
            request_for(digits, num_classes=6, num_epochs=2),
            output_dir=tmp_path,
            device="cpu",
            logger=logger,
            should_stop=lambda: _break(lines),
        )
    assert alive_when_emptied == [False]
