"""A task may have a name that is no id: a word that is a route of the service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.client.commands.conftest import Result

Run = Callable[..., Result]


def test_a_task_is_found_by_a_name_that_is_a_route(trainctl: Run, train: Callable[..., str]) -> None:
    train("stream", epochs=1, name="events")
    found = trainctl("status", "events", "--json")
    assert (found.status, found.objects[0]["task_id"]) == (0, "stream")


@pytest.mark.parametrize("name", ["", ".", "..", "compare"])
def test_what_no_task_is_called_is_no_task(trainctl: Run, name: str) -> None:
    result = trainctl("status", name)
    assert (result.status, result.output) == (3, "")
    assert result.error.startswith(f"There is no task {name!r}")
