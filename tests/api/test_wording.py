"""What is said of a field that is wrong: what to write, once, and at the field that it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from models.schemas import CommandRequest
from services.requests import problems_in_words
from services.wording import PATTERNS

CHECK = "/api/v2/training/check"
Body = dict[str, Any]


def errors_of(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    for error in answer.json()["errors"]:
        assert f"{error['field']}: {error['message']}" in answer.json()["detail"]
    return [(error["field"], error["message"]) for error in answer.json()["errors"]]


@pytest.mark.parametrize("device", ["gpu", "mps", "CPU", "cuda:x", "auto", ""])
def test_a_device_that_is_none_is_told_what_there_is_to_write(http: httpx.Client, body: Body, device: str) -> None:
    ((field, message),) = errors_of(http.post(CHECK, json=body | {"device": device}))
    assert field == "device"
    assert all(word in message for word in ("cpu", "cuda", "cuda:0", "cuda:0,1"))


def test_a_command_is_told_of_one_gpu_only(http: httpx.Client) -> None:
    ((field, message),) = errors_of(
        http.post(CHECK, json={"command": ["true"], "working_dir": "/", "device": "cuda:0,1"})
    )
    assert field == "device"
    assert "cuda:0" in message
    assert "cuda:0,1" not in message


@pytest.mark.parametrize("field", ["train_path", "weight_path", "description"])
def test_a_null_character_is_called_one(http: httpx.Client, body: Body, field: str) -> None:
    assert errors_of(http.post(CHECK, json=body | {field: "a\0b"})) == [(field, "must not hold the character NUL")]


@pytest.mark.parametrize("name", ["a\0", "a/b", ""])
def test_a_name_is_told_what_a_folder_may_be_called(http: httpx.Client, body: Body, name: str) -> None:
    ((field, message),) = errors_of(http.post(CHECK, json=body | {"name": name}))
    assert field == "name"
    assert "folder" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("batch_size", value) for value in ("Auto", "many", 0, 1.5, None)),
        *(("learning_rate", value) for value in ("AUTO", 0, [1])),
        *(("pretrained", value) for value in ("sure", 2, None, ["auto"])),
    ],
)
def test_what_may_be_auto_says_so_and_is_told_once(http: httpx.Client, body: Body, field: str, value: Any) -> None:
    ((found, message),) = errors_of(http.post(CHECK, json=body | {field: value}))
    assert found == field
    assert message.endswith('or write "auto"')


@pytest.mark.parametrize("value", [True, False, "auto", "true", 1])
def test_pretrained_is_taken_as_before(http: httpx.Client, body: Body, value: Any) -> None:
    assert http.post(CHECK, json=body | {"pretrained": value}).status_code == 200


def test_a_name_of_the_environment_is_told_at_env(http: httpx.Client) -> None:
    names = {"B=": "1", "1": "2", "": "3", "C" * 1_000: "4"}
    answer = http.post(CHECK, json={"command": ["true"], "working_dir": "/", "env": names})
    errors = errors_of(answer)
    assert [field for field, _ in errors] == ["env"] * len(names)
    assert "the name 'B=' must be" in errors[0][1]
    assert len(answer.content) < 2_000


def test_the_words_of_a_check_of_ours_stand_alone(http: httpx.Client, body: Body) -> None:
    assert errors_of(http.post(CHECK, json=body | {"name": ".."})) == [
        ("name", "must be a folder name of its own, not '.' or '..'")
    ]
    rule = {"name": "r", "kind": "silence"}
    assert errors_of(http.post("/api/v2/alerts/rules", json=rule)) == [("body", "a rule of kind silence needs minutes")]


def test_the_reason_of_a_stored_request_has_the_same_words() -> None:
    with pytest.raises(ValidationError) as refused:
        CommandRequest.model_validate(
            {"command": ["true"], "working_dir": "/", "device": "gpu", "env": {"B=": "s3cret"}}
        )
    told = problems_in_words(refused.value)
    assert told.startswith("env: the name 'B=' must be")
    assert "; device: must be cpu, cuda" in told
    assert "s3cret" not in told


def patterns_in(node: Any) -> Iterator[str]:
    """Of values, not fields that are called so."""
    if isinstance(node, dict):
        if isinstance(node.get("pattern"), str):
            yield node["pattern"]
        for value in node.values():
            yield from patterns_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from patterns_in(value)


def test_every_pattern_of_the_document_has_words(http: httpx.Client) -> None:
    assert set(patterns_in(http.get("/openapi.json").json())) | {r"^[A-Za-z_][A-Za-z0-9_]{0,255}$"} == PATTERNS.keys()


@pytest.mark.parametrize(
    ("path", "field", "message"),
    [
        ("/api/v2/training?cursor=x", "cursor", "must be the next_cursor of the page before"),
        ("/api/v2/training/some/metrics?attempts=first", "attempts", "must be last or all"),
        ("/api/v2/training/a%00b", "task_id", "must not hold the character NUL"),
    ],
)
def test_a_parameter_is_told_in_words_too(http: httpx.Client, path: str, field: str, message: str) -> None:
    assert errors_of(http.get(path)) == [(field, message)]
