"""The life of a task."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from models.schemas import TaskStatus
from services.state_machine import INTERRUPTED, RESUMED, TRANSITIONS, Transition, restarts, usual_reason
from services.task_state import TaskState
from tests.services.builders import MOMENT, fold, task_state, turn


def walk(steps: list[int]) -> tuple[TaskState, list[TaskStatus]]:
    """A life that takes, at each crossing, the arrow of the given number."""
    state, path = task_state(), []
    for step in steps:
        arrows = sorted(TRANSITIONS[state.status])
        if not arrows:
            break
        path.append(arrows[step % len(arrows)])
        again = path[-1] is TaskStatus.QUEUED and state.status is not TaskStatus.PENDING
        state = fold(state, turn(path[-1], attempt=state.attempt + again))
    return state, path


@given(st.lists(st.integers(0, 4), max_size=30))
def test_every_change_is_kept_with_its_reason_time_and_attempt(steps: list[int]) -> None:
    state, path = walk(steps)
    assert [each.status for each in state.history] == path
    assert all(each.reason == usual_reason(each.status) for each in state.history)
    assert [each.at for each in state.history] == sorted(each.at for each in state.history)
    returns = sum(status is TaskStatus.QUEUED for status in path[1:])
    assert state.attempt == 1 + returns
    assert [each.attempt for each in state.history] == sorted(each.attempt for each in state.history)


@given(st.lists(st.integers(0, 4), max_size=30))
def test_only_the_queue_leads_on_from_an_end_and_nothing_from_completion(steps: list[int]) -> None:
    _, path = walk(steps)
    for before, after in pairwise(path):
        assert before is not TaskStatus.COMPLETED
        assert not before.is_terminal or after is TaskStatus.QUEUED


def test_every_status_can_be_reached_and_has_an_end_within_reach() -> None:
    assert {TaskStatus.PENDING}.union(*TRANSITIONS.values()) == set(TaskStatus) == TRANSITIONS.keys()
    for status in TaskStatus:
        assert status.is_terminal or any(after.is_terminal for after in TRANSITIONS[status])


@given(st.sampled_from(TaskStatus), st.text(), st.datetimes(), st.integers(1, 2**31))
def test_a_transition_is_read_as_it_was_stored(status: TaskStatus, reason: str, at: datetime, attempt: int) -> None:
    transition = Transition(status, reason, at, attempt)
    assert Transition.from_json(transition.to_json()) == transition


def test_restarts_count_from_the_last_time_that_somebody_asked() -> None:
    reasons = ["accepted", INTERRUPTED, INTERRUPTED, RESUMED, INTERRUPTED]
    history = [
        Transition(TaskStatus.QUEUED, reason, MOMENT + timedelta(seconds=number))
        for number, reason in enumerate(reasons)
    ]
    assert [restarts(history[:length]) for length in range(1, 6)] == [0, 1, 2, 0, 1]


def test_a_failure_by_interruption_is_no_restart() -> None:
    assert restarts([Transition(TaskStatus.FAILED, INTERRUPTED, MOMENT)]) == 0
