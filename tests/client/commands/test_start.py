"""`trainctl start`: where a request comes from, and what is said of a wrong one."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from PIL import Image

from client import TrainingClient
from client.commands.start import EXAMPLES, start
from client.commands.start_options import given_fields
from models.schemas import CommandRequest, TrainingRequest
from tests.client.commands.conftest import Result

Run = Callable[..., Result]


def piped(text: str) -> io.TextIOWrapper:
    """Standard input with a text in it."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8")


def test_a_command_behind_two_dashes_runs_in_this_folder(
    trainctl: Run, client: TrainingClient, trainer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trainer.parent)
    result = trainctl(
        "start", "--device", "cpu", "--task-id", "here", "--", sys.executable, trainer.name, "1", "0", "0"
    )
    assert (result.status, result.output, result.error) == (0, "here\n", "")
    assert client.wait("here").status == "completed"
    assert client.request("here").request["working_dir"] == str(trainer.parent)


def test_options_win_over_a_file(trainctl: Run, client: TrainingClient, trainer: Path, tmp_path: Path) -> None:
    body = {"command": [sys.executable, trainer.name, "1", "0", "0"], "working_dir": str(trainer.parent), "priority": 3}
    file = tmp_path / "request.json"
    file.write_text(json.dumps({**body, "device": "cpu", "task_id": "in-file"}), encoding="utf-8")
    result = trainctl("start", "--file", str(file), "--task-id", "by-option", "--json")
    assert result.status == 0
    assert result.objects[0]["task_id"] == "by-option"
    assert client.request("by-option").request["priority"] == 3


def test_relative_paths_in_a_file_are_of_this_folder_as_those_of_options_are(
    trainctl: Run, client: TrainingClient, trainer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trainer.parent.parent)
    body = {"command": [sys.executable, trainer.name, "1", "0", "0"], "device": "cpu"}
    in_file = {**body, "task_id": "relative", "working_dir": trainer.parent.name}
    monkeypatch.setattr(sys, "stdin", piped(json.dumps(in_file)))
    assert trainctl("start", "--file", "-").status == 0
    assert client.request("relative").request["working_dir"] == str(trainer.parent)
    assert client.wait("relative").status == "completed"

    monkeypatch.chdir(trainer.parent)
    monkeypatch.setattr(sys, "stdin", piped(json.dumps({**body, "task_id": "without"})))
    assert trainctl("start", "--file", "-").status == 0
    assert client.request("without").request["working_dir"] == str(trainer.parent)


@pytest.mark.parametrize("value", [7, ["data"], None])
def test_what_is_no_path_in_a_file_is_refused_by_the_service(
    trainctl: Run, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    body = {"command": ["true"], "device": "cpu", "working_dir": value}
    monkeypatch.setattr(sys, "stdin", piped(json.dumps(body)))
    result = trainctl("start", "--file", "-")
    assert (result.status, result.output) == (2, "")
    assert "working_dir" in result.error


def test_a_request_from_standard_input(trainctl: Run, trainer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"command": [sys.executable, trainer.name, "1", "0", "0"], "working_dir": str(trainer.parent)}
    monkeypatch.setattr(sys, "stdin", piped(json.dumps({**body, "device": "cpu", "task_id": "piped"})))
    assert trainctl("start", "--file", "-", "--watch").status == 0


def test_like_another_task(trainctl: Run, train: Callable[..., str], client: TrainingClient) -> None:
    train("pattern", epochs=1, name="old-name", priority=2)
    result = trainctl("start", "--like", "old-name", "--priority", "9", "--json")
    assert result.status == 0
    task_id = result.objects[0]["task_id"]
    old, new = client.request("pattern").request, client.request(task_id).request
    assert new == {name: value for name, value in old.items() if name not in ("task_id", "name")} | {"priority": 9}


def test_like_a_task_whose_environment_nobody_may_see(trainctl: Run, train: Callable[..., str]) -> None:
    train("with-env", epochs=1, env={"SECRET": "x"})
    result = trainctl("start", "--like", "with-env")
    assert (result.status, result.output) == (2, "")
    assert "--env SECRET=VALUE" in result.error
    assert trainctl("start", "--like", "with-env", "--env", "SECRET=y").status == 0


def test_like_a_task_each_hidden_variable_must_be_given_and_may_be_empty(
    trainctl: Run, train: Callable[..., str], client: TrainingClient
) -> None:
    train("with-two", epochs=1, env={"A": "1", "B": "2"})
    lacking = trainctl("start", "--like", "with-two", "--env", "A=1")
    assert (lacking.status, lacking.output) == (2, "")
    assert "--env B=VALUE" in lacking.error
    assert "--env A=" not in lacking.error
    both = trainctl("start", "--like", "with-two", "--env", "A=", "--env", "B=2", "--env", "C=3")
    assert (both.status, both.error) == (0, "")
    assert set(client.request(both.lines[0]).request["env"]) == {"A", "B", "C"}


def test_a_variable_wins_over_the_one_of_the_file_and_leaves_the_others(
    trainctl: Run, client: TrainingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = "import os; print('has', os.environ['A'], os.environ['B'])"
    body = {"command": [sys.executable, "-c", show], "device": "cpu", "task_id": "merged", "env": {"A": "1", "B": "2"}}
    monkeypatch.setattr(sys, "stdin", piped(json.dumps(body)))
    assert trainctl("start", "--file", "-", "--env", "A=3", "--watch").status == 0
    assert "has 3 2" in [entry.message for entry in client.history("merged")]


@pytest.mark.parametrize("env", [None, 7, ["A"], "A=1"])
def test_what_is_no_environment_in_a_file_is_refused_by_the_service(
    trainctl: Run, train: Callable[..., str], monkeypatch: pytest.MonkeyPatch, env: object
) -> None:
    task_id = train(f"for-env-{type(env).__name__}", epochs=1, env={"SECRET": "x"})
    for like in ((), ("--like", task_id)):
        body = {"command": ["true"], "device": "cpu", "env": env}
        monkeypatch.setattr(sys, "stdin", piped(json.dumps(body)))
        result = trainctl("start", "--file", "-", *like)
        assert (result.status, result.output) == (2, "")
        assert result.error.startswith("env: ")


def test_check_says_what_is_wrong_and_starts_nothing(trainctl: Run, client: TrainingClient, trainer: Path) -> None:
    before = [task.task_id for task in client.tasks()]
    good = trainctl("start", "--check", "--device", "cpu", "--", sys.executable, str(trainer))
    assert good.status == 0
    assert good.lines == ["This can be started; it would run on cpu."]
    bad = trainctl("start", "--check", "--model", "resnet18", "--num-classes", "1")
    assert (bad.status, bad.output) == (2, "")
    assert bad.error.count("\n") == 1
    assert "train_path" in bad.error
    assert [task.task_id for task in client.tasks()] == before


def test_an_id_that_is_taken_is_refused(trainctl: Run, train: Callable[..., str], trainer: Path) -> None:
    train("taken", epochs=1)
    result = trainctl("start", "--device", "cpu", "--task-id", "taken", "--", sys.executable, str(trainer))
    assert (result.status, result.output) == (5, "")
    assert "'taken'" in result.error


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ("[1]", "must be one object"), (None, "cannot be used: No such file")]
)
def test_a_file_that_is_no_request(trainctl: Run, tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "request.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    result = trainctl("start", "--file", str(file))
    assert (result.status, result.output) == (2, "")
    assert said in result.error


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_file_may_be_in_any_form_of_unicode(trainctl: Run, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "request.json"
    body = {"command": ["true"], "working_dir": "/", "device": "cpu", "description": "训练"}
    file.write_text(json.dumps(body, ensure_ascii=False), encoding)
    assert trainctl("start", "--check", "--file", str(file)).error == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"description": "caf\xe9"}', "is no text in UTF-8, at its byte 21"),
        (b'{"weight_decay": NaN}', "NaN is no number"),
        (b'{"weight_decay": -Infinity}', "-Infinity is no number"),
        (b'{"weight_decay": 1e999}', "1e999 is no number"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"description": "\\ud800"}', "'\\ud800' in what was given is no text"),
    ],
)
def test_what_json_or_unicode_does_not_have_is_refused_in_words(
    trainctl: Run, tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(content)
    result = trainctl("start", "--file", str(file))
    assert (result.status, result.output) == (2, "")
    assert said in result.error


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_an_option_takes_no_number_that_json_does_not_have(trainctl: Run, number: str) -> None:
    result = trainctl("start", "--weight-decay", number)
    assert (result.status, result.output) == (2, "")
    assert "is not a valid float" in result.error


def test_every_field_of_a_request_has_an_option(trainctl: Run) -> None:
    shown = trainctl("start", "--help").output
    for name in TrainingRequest.model_fields.keys() | CommandRequest.model_fields.keys():
        option = {"command": "-- PROGRAM", "metric_definitions": "--metric "}.get(name, f"--{name.replace('_', '-')}")
        assert option in shown, name


def test_fields_have_the_types_of_the_request() -> None:
    given = {"pretrained": "true", "num_epochs": None, "metric_definitions": ("dice=D: (.+)=",), "env": ("A=b=c",)}
    assert given_fields(given) == {
        "pretrained": True,
        "metric_definitions": [{"name": "dice", "regex": "D: (.+)="}],
        "env": {"A": "b=c"},
    }


def in_option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def fields_of(*arguments: str) -> dict[str, object]:
    """What the options of `start` come to in a request."""
    with start.make_context("start", list(arguments)) as ctx:
        return given_fields({name: value for name, value in ctx.params.items() if name in FIELDS})


FIELDS = TrainingRequest.model_fields | CommandRequest.model_fields
DEFAULTS = [
    (name, field.default)
    for request in (TrainingRequest, CommandRequest)
    for name, field in request.model_fields.items()
    if not field.is_required() and field.default not in (None, "", [], {})
]


@pytest.mark.parametrize(("name", "default"), DEFAULTS)
def test_every_option_takes_the_default_of_its_field(name: str, default: object) -> None:
    (value,) = fields_of(in_option(name), as_text(default)).values()
    assert (value, type(value)) == (default, type(default))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("learning_rate", value) for value in (0.01, "auto")),
        *(("batch_size", value) for value in (64, "auto")),
        *(("pretrained", value) for value in (True, False, "auto")),
        *(("executor", value) for value in ("thread", "process", "ray")),
        ("device", "cuda:0,1"),
        ("num_classes", 10),
        ("cache_mb", 0.5),
        ("hflip", False),
        ("preset", "fast"),
        ("weight_path", "last.pt"),
    ],
)
def test_every_kind_of_value_reaches_the_request_as_what_it_is(name: str, value: object) -> None:
    (taken,) = fields_of(in_option(name), as_text(value)).values()
    assert (taken, type(taken)) == (value, type(value))


def test_what_is_neither_a_number_nor_a_word_of_the_option_is_refused(trainctl: Run) -> None:
    result = trainctl("start", "--learning-rate", "fast")
    assert (result.status, result.output) == (2, "")
    assert "'fast' is not a valid float or 'auto'" in result.error


def test_help_tells_of_trainings_and_of_commands_what_the_field_is() -> None:
    told = {option.name: option.help for option in start.params if isinstance(option, click.Option)}
    for request in (TrainingRequest, CommandRequest):
        for name in ("device", "executor"):
            assert (request.model_fields[name].description or name) in (told[name] or "")


def test_the_examples_of_the_help_can_be_started(
    trainctl: Run, client: TrainingClient, train: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("digits", epochs=1)
    monkeypatch.chdir(tmp_path)
    for side in ("train", "val"):
        for label in range(10):
            folder = tmp_path / "data" / side / str(label)
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "1.png")
    paths = {"train_path": "data/train", "val_path": "data/val", "save_path": "runs"}
    (tmp_path / "request.json").write_text(json.dumps({"model": "resnet18", "num_classes": 10, **paths}), "utf-8")
    examples = [shlex.split(line) for line in EXAMPLES.splitlines() if line.startswith("  trainctl start")]
    assert len(examples) == EXAMPLES.count("trainctl start")
    for _, _, *arguments in examples:
        result = trainctl("start", "--check", *arguments)
        assert (result.status, result.error) == (0, ""), arguments
