"""The course of a metric, however long it is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.schemas import TaskStatus
from services.base_service import BaseService
from services.history.axis import Axis
from services.history.series import RAW_BUCKETS, RAW_POINTS, MetricHistory, Series, Window
from services.log_entry import LogEntry
from services.state_machine import Transition
from services.storage.buckets import BUCKET
from tests.services.builders import MOMENT, line, task_state, turn
from tests.services.following import TIMEOUT_S

LONG = (RAW_BUCKETS + 10) * BUCKET
"""Points of a series that is read by its buckets."""
_names = itertools.count()


@pytest.fixture
def live(base: BaseService) -> BaseService:
    base.create_log_queue("t", task_state(status=TaskStatus.RUNNING))
    return base


@pytest.fixture
def history(base: BaseService) -> MetricHistory:
    return MetricHistory(base.series, base.ask_for_buckets)


def say(base: BaseService, entries: Sequence[LogEntry]) -> None:
    for entry in entries:
        base.log_queues["t"].put(entry)
    base._writer.flush(TIMEOUT_S)


def losses(values: Sequence[float | None], **changes: Any) -> list[LogEntry]:
    return [line(metrics={"val_loss": value, "epoch": epoch}, **changes) for epoch, value in enumerate(values, start=1)]


def read(
    base: BaseService,
    history: MetricHistory,
    window: Window | None = None,
    axis: Axis = "epoch",
    name: str = "val_loss",
) -> Series:
    (series,) = history.read(base.get_task("t"), [name], axis, window or Window())
    return series


def values(series: Series) -> list[float | None]:
    return [point.value for point in series.points]


def test_a_short_one_is_there_point_by_point_with_the_lines_that_said_it(
    live: BaseService, history: MetricHistory
) -> None:
    say(live, [line("nothing"), *losses([0.5, None, 0.25])])
    series = read(live, history)
    assert (values(series), [point.seq for point in series.points]) == ([0.5, None, 0.25], [2, 3, 4])
    assert [series.place(point) for point in series.points] == [1, 2, 3]
    assert (series.total, series.unit) == (3, None)


def test_all_metrics_are_series_but_those_that_say_where_a_line_is(live: BaseService, history: MetricHistory) -> None:
    say(live, [line(metrics={"epoch": 1, "total_epochs": 3, "total_steps": 9, "val_acc": 50.0, "val_loss": 1.0})])
    found = history.read(live.get_task("t"), None, "epoch", Window())
    assert [(series.name, series.unit) for series in found] == [("val_acc", "percent"), ("val_loss", None)]
    assert history.read(live.get_task("t"), ["epoch", "none"], "epoch", Window()) == []


def test_a_window_is_open_at_both_ends(live: BaseService, history: MetricHistory) -> None:
    say(live, losses([1, 2, 3, 4, 5]))
    assert values(read(live, history, Window(after=1, before=4))) == [2, 3]
    assert values(read(live, history, Window(after=5))) == []


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_long_one_keeps_its_extremes_its_ends_and_its_gaps(
    base: BaseService, history: MetricHistory, data: st.DataObject
) -> None:
    length = data.draw(st.integers(LONG, LONG + 200))
    said: list[float | None] = [float(number % 97) for number in range(length)]
    odd = st.tuples(st.integers(0, length - 1), st.none() | st.floats(-1e9, 1e9))
    for where, height in data.draw(st.lists(odd, max_size=8)):
        said[where] = height
    after, before = sorted((data.draw(st.integers(0, length)), data.draw(st.integers(0, length + 1))))
    task_id = f"t{next(_names)}"
    base.create_log_queue(task_id, task_state(task_id, status=TaskStatus.RUNNING))
    for entry in losses(said):
        base.log_queues[task_id].put(line(task_id=task_id, metrics=entry.metrics))
    base.ask_for_buckets(task_id, ["val_loss"])
    base._writer.flush(TIMEOUT_S)
    for window, expected in (
        (Window(max_points=100), said),
        (Window(after, before, max_points=50), said[after : max(after, before - 1)]),
    ):
        (series,) = history.read(base.get_task(task_id), ["val_loss"], "epoch", window)
        found = values(series)
        assert len(found) <= window.max_points
        assert series.total == len(expected)
        assert [said[point.seq - 1] for point in series.points] == found
        if expected:
            assert (found[0], found[-1]) == (expected[0], expected[-1])
            assert (None in found) == (None in expected)
            finite = [value for value in expected if value is not None]
            shown = [value for value in found if value is not None]
            assert (min(shown, default=0), max(shown, default=0)) == (min(finite, default=0), max(finite, default=0))


def test_buckets_are_asked_for_where_many_points_have_none(live: BaseService) -> None:
    asked: list[tuple[str, Sequence[str]]] = []
    history = MetricHistory(live.series, lambda task_id, names: asked.append((task_id, names)))
    say(live, losses([1.0] * 10))
    read(live, history)
    assert asked == []
    say(live, losses([1.0] * RAW_POINTS))
    with live._database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM metric_buckets")
    read(live, history)
    assert asked == [("t", ["val_loss"])]


class TestAttempts:
    """An epoch that was trained twice counts once."""

    @pytest.fixture
    def twice(self, live: BaseService) -> BaseService:
        """Its first run ended in epoch 3, and its second one began with that."""
        say(live, losses([10, 20, 30]))
        say(live, [turn(TaskStatus.QUEUED, reason="interrupted", attempt=2)])
        say(live, [line(metrics={"val_loss": value, "epoch": epoch}, attempt=2) for epoch, value in ((3, 31), (4, 41))])
        return live

    def test_what_was_done_again_is_left_out(self, twice: BaseService, history: MetricHistory) -> None:
        series = read(twice, history)
        assert values(series) == [10, 20, 31, 41]
        assert [point.attempt for point in series.points] == [1, 1, 2, 2]

    def test_it_can_be_seen_all_the_same(self, twice: BaseService, history: MetricHistory) -> None:
        assert values(read(twice, history, Window(all_attempts=True))) == [10, 20, 30, 31, 41]

    def test_of_a_long_one_too(self, live: BaseService, history: MetricHistory) -> None:
        say(live, [*losses([float(epoch) for epoch in range(1, LONG + 1)]), *losses([1e6])])
        say(live, [turn(TaskStatus.QUEUED, reason="interrupted", attempt=2)])
        first = LONG // 2 + 7
        again = [line(metrics={"val_loss": -1.0, "epoch": epoch}, attempt=2) for epoch in range(first, LONG)]
        say(live, again)
        live.ask_for_buckets("t", ["val_loss"])
        live._writer.flush(TIMEOUT_S)
        series = read(live, history)
        assert series.total == first - 1 + 1 + len(again)
        shown = [value for value in values(series) if value is not None]
        assert (min(shown), max(value for value in shown if value < 1e6)) == (-1.0, first - 1)


class TestAxes:
    def test_steps_that_begin_anew_in_each_epoch_go_on(self, live: BaseService, history: MetricHistory) -> None:
        said = [(epoch, step) for epoch in (1, 2, 3) for step in (5, 10)]
        say(live, [line(metrics={"val_loss": 1.0, "epoch": epoch}, step=step) for epoch, step in said])
        series = read(live, history, axis="step")
        assert [series.place(point) for point in series.points] == [5, 10, 15, 20, 25, 30]
        series = read(live, history)
        assert [series.place(point) for point in series.points] == [0.5, 1, 1.5, 2, 2.5, 3]

    def test_epochs_that_count_from_nought_begin_there(self, base: BaseService, history: MetricHistory) -> None:
        foreign = task_state(status=TaskStatus.RUNNING, request={"command": ["train"]})
        base.create_log_queue("t", foreign)
        for epoch in (0, 1):
            say(base, [line(metrics={"loss": 1.0, "epoch": epoch, "total_steps": 10}, step=step) for step in (0, 5)])
            say(base, [line(metrics={"val_loss": 1.0, "epoch": epoch})])
        series = read(base, history, axis="step", name="loss")
        assert [series.place(point) for point in series.points] == [0, 5, 10, 15]
        series = read(base, history, Window(after=3), name="loss")  # what is seen of it later alone does not tell
        assert [series.place(point) for point in series.points] == [1, 1.5]
        series = read(base, history, axis="step")
        assert [series.place(point) for point in series.points] == [10, 20]

    def test_an_epoch_has_as_many_as_the_log_says(self, live: BaseService, history: MetricHistory) -> None:
        where = {"epoch": 2, "total_steps": 40}
        say(live, [line(metrics={"val_loss": 1.0, **where}, step=10), line(metrics={"val_loss": 1.0, **where})])
        series = read(live, history, axis="step")
        assert [series.place(point) for point in series.points] == [50, 80]

    def test_steps_that_go_on_by_themselves_are_left_alone(self, live: BaseService, history: MetricHistory) -> None:
        said = [(1, 100), (1, 200), (2, 300)]
        say(live, [line(metrics={"val_loss": 1.0, "epoch": epoch}, step=step) for epoch, step in said])
        series = read(live, history, axis="step")
        assert [series.place(point) for point in series.points] == [100, 200, 300]
        assert [read(live, history).place(point) for point in series.points] == [1, 1, 2]

    def test_time_counts_from_the_first_run(self, base: BaseService, history: MetricHistory) -> None:
        began = Transition(TaskStatus.RUNNING, "device_free", MOMENT + timedelta(seconds=60))
        base.create_log_queue("t", task_state(status=TaskStatus.RUNNING, history=(began,)))
        say(base, [line(metrics={"val_loss": 1.0}, timestamp=MOMENT + timedelta(seconds=90.5))])
        series = read(base, history, axis="time")
        assert [series.place(point) for point in series.points] == [30.5]

    def test_a_log_without_epochs_and_steps_has_no_place_there(self, live: BaseService, history: MetricHistory) -> None:
        say(live, [line(metrics={"val_loss": 1.0})])
        for axis in ("epoch", "step"):
            series = read(live, history, axis=axis)
            assert [series.place(point) for point in series.points] == [None]
