"""A preset fills what is left out, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from models.presets import PRESETS
from models.schemas import StartRequest, TrainingRequest

BODY: dict[str, Any] = {
    "model": "resnet18",
    "num_classes": 2,
    "train_path": "/data/train",
    "val_path": "/data/val",
    "save_path": "/runs",
}
every_preset = pytest.mark.parametrize("name", PRESETS)


@every_preset
def test_a_preset_fills_the_fields_that_the_request_leaves_out(name: str) -> None:
    request = TrainingRequest.model_validate(BODY | {"preset": name})
    plain = TrainingRequest.model_validate(BODY)
    for field in TrainingRequest.model_fields:
        expected = name if field == "preset" else PRESETS[name].get(field, getattr(plain, field))
        assert getattr(request, field) == expected, field


@every_preset
def test_a_field_of_the_request_wins_with_its_default_too(name: str) -> None:
    defaults = {field: TrainingRequest.model_fields[field].default for field in PRESETS[name]}
    request = TrainingRequest.model_validate(BODY | defaults | {"preset": name})
    assert {field: getattr(request, field) for field in defaults} == defaults


@every_preset
def test_what_was_filled_in_is_stored_as_if_it_had_been_written(name: str) -> None:
    """Another version's preset may be another one: a training that goes on must not notice."""
    request = TypeAdapter[Any](StartRequest).validate_python(BODY | {"preset": name})
    stored = request.model_dump(mode="json", exclude_unset=True)
    assert stored.items() >= PRESETS[name].items()
    assert TrainingRequest.model_validate(stored) == request


@every_preset
def test_a_preset_says_nothing_that_is_so_anyway(name: str) -> None:
    for field, value in PRESETS[name].items():
        assert value != TrainingRequest.model_fields[field].default, field


def test_every_preset_can_be_asked_for_and_no_other() -> None:
    assert TrainingRequest.model_json_schema()["properties"]["preset"]["anyOf"][0]["enum"] == list(PRESETS)
    for unknown in ("best", "", 3, ["fast"], {"fast": 1}):
        with pytest.raises(ValidationError, match="preset"):
            TrainingRequest.model_validate(BODY | {"preset": unknown})


def test_without_a_preset_the_request_is_as_it_was_written() -> None:
    assert TrainingRequest.model_validate(BODY).model_fields_set == BODY.keys()
    assert TrainingRequest.model_validate(BODY | {"preset": None}).model_fields_set == {*BODY, "preset"}
