"""What counts as a number in a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from models.alerts import RuleRequest
from models.fields import RequestBody
from models.schemas import (
    CommandRequest,
    ImportRequest,
    LimitsChange,
    ParsingTryRequest,
    PriorityChange,
    TrainingRequest,
)

BODIES: tuple[type[BaseModel], ...] = (
    *(TrainingRequest, CommandRequest, ImportRequest, PriorityChange, LimitsChange, ParsingTryRequest, RuleRequest),
)


def numbers() -> Iterator[Any]:
    """Each field of a request that takes a number, as its schema says."""
    for model in BODIES:
        for name, schema in model.model_json_schema()["properties"].items():
            kinds = {each.get("type") for each in (schema, *schema.get("anyOf", ()))}
            if kinds & {"integer", "number"}:
                yield pytest.param(model, name, id=f"{model.__name__}.{name}")


def errors_of(model: type[BaseModel], **body: Any) -> list[tuple[tuple[int | str, ...], str]]:
    """Those of fields that are there."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate(body)
    return [(each["loc"], each["msg"]) for each in refused.value.errors() if each["type"] != "missing"]


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(("model", "name"), [*numbers()])
def test_a_switch_is_no_number(model: type[BaseModel], name: str, value: bool) -> None:
    assert ((name,), "must be a number, not true or false") in errors_of(model, **{name: value})


@pytest.mark.parametrize(
    ("model", "name", "value", "place"),
    [(LimitsChange, "limits", {"cpu": True}, "cpu"), (RuleRequest, "channels", [True], 0)],
)
def test_nor_is_one_inside_of_an_object_or_a_list(
    model: type[BaseModel], name: str, value: Any, place: str | int
) -> None:
    assert ((name, place), "must be a number, not true or false") in errors_of(model, **{name: value})


def test_every_body_with_a_number_is_looked_after() -> None:
    assert all(issubclass(model, RequestBody) for model in BODIES)


def test_text_is_read_as_a_number_and_a_number_as_a_switch_as_before() -> None:
    needed = {"model": "resnet18", "train_path": "/", "val_path": "/", "save_path": "/"}
    texts = {"num_classes": "3", "num_epochs": "2", "batch_size": "16", "learning_rate": "0.1", "shuffle": 0}
    request = TrainingRequest.model_validate(needed | texts | {"pretrained": 1, "max_runtime_s": "60"})
    assert (request.num_classes, request.num_epochs, request.batch_size, request.learning_rate) == (3, 2, 16, 0.1)
    assert (request.shuffle, request.pretrained, request.max_runtime_s) == (False, True, 60)
