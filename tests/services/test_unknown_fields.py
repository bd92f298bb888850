"""What a field that nobody knows may have meant."""

from __future__ import annotations

import time
from typing import Any

import pytest

from models.schemas import AnyRequest, CommandRequest, ImportRequest, TrainingRequest
from services.unknown_fields import _OTHER_NAMES, unknown_fields

GUESSES = {
    "lr": "learning_rate",
    "lerning_rate": "learning_rate",
    "learningRate": "learning_rate",
    "Learning-Rate": "learning_rate",
    "epochs": "num_epochs",
    "EPOCHS": "num_epochs",
    "batch": "batch_size",
    "bs": "batch_size",
    "batchsize": "batch_size",
    "weights": "weight_path",
    "weight_paths": "weight_path",
    "img_size": "image_size",
    "imgsz": "image_size",
    "classes": "num_classes",
    "wd": "weight_decay",
    "random_seed": "seed",
    "patience": "early_stopping_patience",
    "optimiser": "optimizer",
}


def training(body: dict[str, Any], **more: Any) -> TrainingRequest:
    return TrainingRequest(**body, **more)


@pytest.mark.parametrize(("name", "meant"), GUESSES.items())
def test_a_name_that_is_close_or_usual_elsewhere_is_guessed(body: dict[str, Any], name: str, meant: str) -> None:
    expected = f"Unknown field {name!r} was ignored. Did you mean {meant!r}?"
    assert unknown_fields(training(body, **{name: 1})) == (expected,)


@pytest.mark.parametrize("name", ["zoom", "gpu_memory", "旧字段", "", "__class__", "x" * 10_000])
def test_nothing_is_guessed_of_another(body: dict[str, Any], name: str) -> None:
    assert unknown_fields(training(body, **{name: 1})) == (f"Unknown field {name!r} was ignored.",)


def test_only_fields_of_the_request_are_guessed() -> None:
    command = CommandRequest(command=["true"], working_dir="/", lr=1, cwd="/")
    assert unknown_fields(command) == (
        "Unknown field 'cwd' was ignored. Did you mean 'working_dir'?",
        "Unknown field 'lr' was ignored.",
    )
    imported = ImportRequest(path="/log", log_file="/log")
    assert unknown_fields(imported) == ("Unknown field 'log_file' was ignored. Did you mean 'path'?",)


def test_every_guess_is_a_field_and_no_field_is_another_ones_other_name() -> None:
    fields = {name for model in AnyRequest.__args__ for name in model.model_fields}
    others = [other for names in _OTHER_NAMES.values() for other in names.split()]
    assert _OTHER_NAMES.keys() <= fields
    assert len(others) == len(set(others))
    assert fields.isdisjoint(others)


def test_a_body_of_such_fields_takes_no_longer_for_the_guesses(body: dict[str, Any]) -> None:
    request = training(body, **{f"learning_rat_{number}": 1 for number in range(20_000)})
    begin = time.process_time()
    assert len(unknown_fields(request)) == 20_000
    assert time.process_time() - begin < 2
