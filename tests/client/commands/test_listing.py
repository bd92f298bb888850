"""`trainctl list`, `status`, `compare`: which tasks there are, and which one is meant by a name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models.fields import RESERVED_TASK_IDS
from tests.client.commands.conftest import Result

Run = Callable[..., Result]


@pytest.fixture(scope="module", autouse=True)
def tasks(train: Callable[..., str]) -> None:
    train("short", epochs=1, name="kurz")
    train("longer", epochs=3, name="训练一")
    train("broken", epochs=2, status=3, name="twice")
    train("broken-too", epochs=2, status=3, name="twice")


def ids(result: Result) -> list[str]:
    return [task["task_id"] for task in result.objects]


def test_newest_first(trainctl: Run) -> None:
    assert ids(trainctl("list", "--json")) == ["broken-too", "broken", "longer", "short"]
    assert ids(trainctl("list", "--json", "--limit", "1")) == ["broken-too"]


def test_filters(trainctl: Run) -> None:
    assert ids(trainctl("--json", "list", "--status", "failed")) == ["broken-too", "broken"]
    assert ids(trainctl("list", "--json", "--name", "训练*")) == ["longer"]
    assert ids(trainctl("list", "--json", "--active")) == []
    assert trainctl("list", "--device", "cuda:7").lines == ["There is no such task."]


def test_sorted_by_a_metric_the_best_is_first(trainctl: Run) -> None:
    assert ids(trainctl("list", "--json", "--sort", "train_loss"))[0] == "longer"
    assert ids(trainctl("list", "--json", "--sort", "train_acc"))[0] == "longer"
    assert ids(trainctl("list", "--json", "--sort", "train_acc", "--reverse"))[0] == "short"


def test_sorted_by_a_metric_that_no_task_has(trainctl: Run) -> None:
    """A name that is spelled wrong must not look like an order; a known metric may be still to come."""
    result = trainctl("list", "--sort", "train_ac", "--json")
    assert (result.status, result.output) == (2, "")
    assert "--sort train_ac: none of these tasks has such a metric. They have epoch, total_epochs, train_acc" in (
        result.error
    )
    assert ids(trainctl("list", "--json", "--sort", "mAP")) == ["broken-too", "broken", "longer", "short"]
    nothing = trainctl("list", "--active", "--sort", "train_ac")
    assert (nothing.status, nothing.error) == (0, "")


def test_columns_of_chinese_names_stand_below_each_other(trainctl: Run) -> None:
    head, *rows = trainctl("list", "--metrics", "train_acc").output.splitlines()
    (chinese,) = [row for row in rows if "训练一" in row]
    (plain,) = [row for row in rows if "kurz" in row]
    assert plain.index("cpu") - chinese.index("cpu") == len("训练一")  # each of its letters is two columns wide
    assert head.index("device") == plain.index("cpu")


def test_status_by_id_by_name_and_by_the_beginning_of_an_id(trainctl: Run) -> None:
    for name in ("longer", "训练一", "long"):
        result = trainctl("status", name, "--json")
        assert (result.status, result.objects[0]["task_id"]) == (0, "longer")
    shown = dict(line.split(maxsplit=1) for line in trainctl("status", "longer").lines if line)
    assert (shown["epoch"], shown["train_acc"], shown["status"]) == ("3", "63.00%", "completed")


@pytest.mark.parametrize("name", sorted(RESERVED_TASK_IDS))
def test_a_task_with_the_name_of_a_route_is_found(trainctl: Run, train: Callable[..., str], name: str) -> None:
    """Asked for by id, `events` would be a stream without an end."""
    missing = trainctl("status", name)
    assert (missing.status, missing.output) == (3, "")
    task_id = train(f"called-{name}", epochs=1, name=name)
    assert ids(trainctl("status", name, "--json")) == [task_id]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a?b"])
def test_what_can_be_no_id_means_no_task(trainctl: Run, name: str) -> None:
    result = trainctl("status", name)
    assert (result.status, result.output) == (3, "")
    assert result.error.startswith(f"There is no task {name!r}")


def test_a_name_that_two_tasks_have_means_none(trainctl: Run) -> None:
    result = trainctl("status", "twice")
    assert (result.status, result.output) == (3, "")
    assert "broken-too, broken" in result.error
    unknown = trainctl("status", "nobody")
    assert (unknown.status, unknown.error) == (3, "There is no task 'nobody'; 'trainctl list' shows all tasks.\n")


def test_too_few_characters_of_an_id_are_told_to_be_too_few(trainctl: Run) -> None:
    result = trainctl("status", "lon")
    assert (result.status, result.output) == (3, "")
    assert result.error == (
        "There is no task 'lon'; of the beginning of an id at least 4 characters are needed. "
        "'trainctl list' shows all tasks.\n"
    )
    assert trainctl("status", "xyz").error == "There is no task 'xyz'; 'trainctl list' shows all tasks.\n"
    assert "at least 4 characters" in trainctl("--help").output


def test_compare_marks_the_best(trainctl: Run) -> None:
    lines = trainctl("compare", "kurz", "longer").lines
    assert lines[0].split() == ["kurz", "训练一"]
    row = next(line for line in lines if line.startswith("train_loss"))
    assert row.split() == ["train_loss", "1.0000", "@1", "0.3333", "@3", "*"]
    assert any(line.startswith("command") for line in lines)  # it is what the requests differ in
    (whole,) = trainctl("compare", "kurz", "longer", "--json").objects
    assert [task["task_id"] for task in whole["comparison"]["tasks"]] == ["short", "longer"]
    assert trainctl("compare", "kurz", "short").status == 2


def test_compare_on_a_narrow_terminal_has_a_line_for_each_value(trainctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    lines = trainctl("compare", "short", "longer", "--metrics", "train_loss").lines
    at = lines.index("train_loss")
    assert lines[at : at + 3] == ["train_loss", "  kurz: 1.0000 @1", "  训练一: 0.3333 @3 *"]


def test_a_narrow_list_keeps_the_task_and_its_status(trainctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    assert trainctl("list").lines[0].split() == ["task", "status"]
