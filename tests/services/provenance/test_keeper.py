"""When a record is made, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from models.schemas import CommandRequest, TaskStatus
from services.base_service import BaseService
from services.provenance import ProvenanceKeeper, keeper
from tests.services.builders import task_state
from trainer.roots import ANYWHERE

REQUEST = CommandRequest(command=["true"], working_dir="/", device="cpu")


@pytest.fixture
def kept(base: BaseService, monkeypatch: pytest.MonkeyPatch) -> ProvenanceKeeper:
    """Records of a task `t`, which say how many were made."""
    made: list[int] = []

    def collect(*_: object, **__: object) -> dict[str, Any]:
        made.append(1)
        return {"number": len(made), "text": "nul \x00 and \ud800"}

    monkeypatch.setattr(keeper, "collect", collect)
    base.create_log_queue("t", task_state(status=TaskStatus.RUNNING))
    return ProvenanceKeeper(base.database, base.apply, list, ANYWHERE)


def begin(kept: ProvenanceKeeper, *, attempt: int = 1, is_resumed: bool = False, is_cancelled: bool = False) -> None:
    kept.begin(
        "t",
        REQUEST,
        "cpu",
        attempt=attempt,
        is_resumed=is_resumed,
        place="process",
        is_cancelled=lambda: is_cancelled,
    )


def numbers(kept: ProvenanceKeeper, *attempts: int) -> list[int | None]:
    records = [kept.read("t", attempt)[1] for attempt in attempts]
    return [record.content["number"] if record else None for record in records]


def test_each_attempt_has_its_own_and_the_last_is_shown(kept: ProvenanceKeeper) -> None:
    kept.accept("t", REQUEST, {"command": ["true"], "more": 1})
    assert kept.read("t") == ({"request": {"command": ["true"], "more": 1}}, None)
    begin(kept)
    begin(kept, attempt=2)
    assert numbers(kept, 1, 2, 3) == [1, 2, None]
    sent, last = kept.read("t")
    assert last is not None
    assert (last.attempt, sent["request"]["more"]) == (2, 1)


def test_a_run_that_an_earlier_service_began_keeps_its_record(kept: ProvenanceKeeper) -> None:
    kept.accept("t", REQUEST, None)
    begin(kept)
    begin(kept, is_resumed=True)
    assert numbers(kept, 1) == [1]


def test_a_service_that_was_killed_before_it_had_one_leaves_it_to_the_next(kept: ProvenanceKeeper) -> None:
    kept.accept("t", REQUEST, None)
    begin(kept, is_resumed=True)
    assert numbers(kept, 1) == [1]


def test_what_the_end_of_a_service_has_cut_short_is_not_kept_and_the_next_one_makes_it(kept: ProvenanceKeeper) -> None:
    kept.accept("t", REQUEST, None)
    begin(kept, is_cancelled=True)
    assert numbers(kept, 1) == [None]
    begin(kept, is_resumed=True)
    assert numbers(kept, 1) == [2]


def test_a_run_of_an_older_release_gets_none_afterwards(kept: ProvenanceKeeper) -> None:
    begin(kept, is_resumed=True)
    assert kept.read("t") == ({}, None)


def test_text_that_no_store_takes_is_escaped(kept: ProvenanceKeeper) -> None:
    begin(kept)
    _, record = kept.read("t")
    assert record is not None
    assert record.content["text"] == "nul \\x00 and \\ud800"


def test_a_task_that_is_gone_by_then_leaves_nothing(kept: ProvenanceKeeper, base: BaseService) -> None:
    kept.accept("gone", REQUEST, None)
    assert kept.read("gone") == ({}, None)


def test_a_body_that_cannot_be_kept_is_no_error(kept: ProvenanceKeeper) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    kept.accept("t", REQUEST, {"command": deep})
    begin(kept)
    assert numbers(kept, 1) == [1]
