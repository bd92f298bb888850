"""Which task runs next, and where."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.devices import Gpu
from services.errors import QueueFull, TaskConflict
from services.scheduler import FILES_AT_A_TIME, Scheduler
from tests.services.builders import MOMENT

IDLE = (Gpu("cuda:0", 0), Gpu("cuda:1", 0))


def scheduler(*, cpu: int = 1, gpu: int = 1, gpus: tuple[Gpu, ...] = IDLE, max_queued: int = 1000) -> Scheduler:
    return Scheduler(cpu_limit=cpu, gpu_limit=gpu, gpus=lambda: gpus, max_queued=max_queued)


def add(order: Scheduler, task_id: str, *, device: str = "cpu", priority: int = 5, second: int | None = None) -> None:
    """Queue a task that was created in this second; without one, after all that wait."""
    second = order.queued if second is None else second
    order.add(task_id, priority=priority, created_at=MOMENT + timedelta(seconds=second), device=device)


def start_all(chosen: Scheduler) -> list[tuple[str, str]]:
    """Everything that can run now, in the order in which it starts."""
    started = []
    while runnable := chosen.next_runnable():
        started.append(runnable)
    return started


def test_nothing_waits_at_first() -> None:
    assert scheduler().next_runnable() is None


def test_smaller_priorities_run_first_and_older_tasks_before_younger() -> None:
    order = scheduler(cpu=10)
    for task_id, priority in (("a", 5), ("b", 5), ("c", 1), ("d", 10), ("e", 1)):
        add(order, task_id, priority=priority)
    assert [task_id for task_id, _ in start_all(order)] == ["c", "e", "a", "b", "d"]


def test_a_task_that_comes_back_has_the_age_that_it_had() -> None:
    order = scheduler()
    for second, task_id in enumerate("abc"):
        add(order, task_id, second=second)
    assert order.next_runnable() == ("a", "cpu")
    order.discard("a")
    add(order, "a", second=0)
    assert order.next_runnable() == ("a", "cpu")


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_takes_as_many_as_its_limit(device: str) -> None:
    order = scheduler(cpu=2, gpu=2)
    for task_id in "abc":
        add(order, task_id, device=device)
    assert start_all(order) == [("a", device), ("b", device)]
    assert (order.running, order.queued) == (2, 1)
    order.discard("a")
    assert start_all(order) == [("c", device)]


def test_a_task_for_a_busy_device_does_not_hold_up_one_for_a_free_device() -> None:
    order = scheduler()
    for task_id, device in (("a", "cuda:0"), ("b", "cuda:0"), ("c", "cpu")):
        add(order, task_id, device=device)
    assert start_all(order) == [("a", "cuda:0"), ("c", "cpu")]


def test_any_gpu_means_the_free_one_with_the_least_memory_in_use() -> None:
    order = scheduler(gpus=(Gpu("cuda:0", 900), Gpu("cuda:1", 100), Gpu("cuda:2", 500)))
    for task_id in "abcd":
        add(order, task_id, device="cuda")
    assert start_all(order) == [("a", "cuda:1"), ("b", "cuda:2"), ("c", "cuda:0")]


def test_memory_in_use_is_asked_for_again_each_time() -> None:
    busy = [Gpu("cuda:0", 0), Gpu("cuda:1", 500)]
    order = Scheduler(cpu_limit=1, gpu_limit=2, gpus=lambda: busy)
    add(order, "a", device="cuda")
    assert order.next_runnable() == ("a", "cuda:0")
    busy[0] = Gpu("cuda:0", 900)
    add(order, "b", device="cuda")
    assert order.next_runnable() == ("b", "cuda:1")


def test_a_task_for_any_gpu_waits_while_there_is_none() -> None:
    order = scheduler(gpus=())
    add(order, "a", device="cuda")
    assert start_all(order) == []
    assert order.queued == 1


def test_no_gpu_is_given_before_the_driver_has_answered_once() -> None:
    order = Scheduler(cpu_limit=1, gpu_limit=1, gpus=lambda: None)
    for task_id, device in (("a", "cuda:0"), ("b", "cuda"), ("c", "cpu")):
        add(order, task_id, device=device)
    assert start_all(order) == [("c", "cpu")]


def test_while_the_driver_does_not_answer_nobody_overtakes_one_that_wants_any_gpu() -> None:
    answers: list[tuple[Gpu, ...] | None] = [IDLE]
    order = Scheduler(cpu_limit=1, gpu_limit=1, gpus=lambda: answers[-1])
    order.look()
    answers.append(None)
    for task_id, device in (("a", "cuda:1"), ("b", "cuda"), ("c", "cuda:0"), ("d", "cpu")):
        add(order, task_id, device=device)
    assert start_all(order) == [("a", "cuda:1"), ("d", "cpu")]
    answers.append(IDLE)
    assert start_all(order) == [("b", "cuda:0")]


class TestSeveralGpus:
    GPUS = tuple(Gpu(f"cuda:{number}", memory_used=100 - number) for number in range(4))

    def test_a_task_takes_all_that_it_names_and_waits_until_all_are_free(self) -> None:
        order = scheduler(gpus=self.GPUS)
        add(order, "a", device="cuda:1")
        add(order, "b", device="cuda:0,1")
        assert start_all(order) == [("a", "cuda:1")]
        order.discard("a")
        assert start_all(order) == [("b", "cuda:0,1")]
        assert order.used_devices() == {"cuda:0", "cuda:1"}
        assert order.running_on("cuda:1") == ["b"]

    def test_any_gpus_are_those_with_the_least_memory_in_use(self) -> None:
        order = scheduler(gpus=self.GPUS)
        add(order, "a", device="cuda*3")
        add(order, "b", device="cuda*2")
        assert start_all(order) == [("a", "cuda:3,2,1")]
        order.discard("a")
        assert start_all(order) == [("b", "cuda:3,2")]

    def test_those_that_want_one_do_not_overtake_one_that_wants_two_for_ever(self) -> None:
        order = scheduler(gpus=self.GPUS[:2])
        add(order, "a", device="cuda")
        add(order, "b", device="cuda*2")
        add(order, "c", device="cuda")
        add(order, "d", device="cuda:0")
        assert start_all(order) == [("a", "cuda:1")]
        assert order.positions() == {"b": 1, "c": 2, "d": 3}
        order.discard("a")
        assert start_all(order) == [("b", "cuda:1,0")]

    @pytest.mark.parametrize("wanted", ["cuda*2", "cuda:0,1"])
    def test_nothing_is_kept_for_one_whose_gpus_take_nothing(self, wanted: str) -> None:
        order = scheduler(gpus=self.GPUS[:2])
        order.set_limits({"cuda:0": 0})
        add(order, "a", device=wanted)
        add(order, "b", device="cuda:1")
        assert start_all(order) == [("b", "cuda:1")]
        order.discard("b")
        order.set_limits({"cuda:0": None})
        assert [task_id for task_id, _ in start_all(order)] == ["a"]

    def test_others_go_on_beside_one_that_waits_for_named_gpus(self) -> None:
        order = scheduler(gpus=self.GPUS)
        add(order, "a", device="cuda:0")
        add(order, "b", device="cuda:0,1")
        add(order, "c", device="cuda:1")
        add(order, "d", device="cuda:2")
        assert start_all(order) == [("a", "cuda:0"), ("d", "cuda:2")]


def test_a_cluster_is_given_more_than_a_device_takes_and_none_of_it_takes_a_device() -> None:
    order = scheduler(cpu=1)
    for task_id in "abc":
        add(order, task_id, device="ray")
    add(order, "d")
    assert len(start_all(order)) == 4


def test_a_discarded_task_never_runs_and_an_unknown_one_does_no_harm() -> None:
    order = scheduler()
    add(order, "a", priority=1)
    add(order, "b")
    order.discard("a")
    order.discard("nobody")
    assert start_all(order) == [("b", "cpu")]


def test_a_task_that_runs_already_takes_its_place_even_where_there_is_none() -> None:
    order = scheduler(cpu=1)
    order.adopt("a", device="cpu")
    order.adopt("b", device="cpu")
    add(order, "c")
    assert (order.running, order.queued) == (2, 1)
    order.discard("a")
    assert order.next_runnable() is None
    order.discard("b")
    assert order.next_runnable() == ("c", "cpu")


def test_files_are_read_beside_every_device_up_to_their_own_limit() -> None:
    order = scheduler(cpu=1)
    add(order, "training")
    for number in range(FILES_AT_A_TIME + 1):
        add(order, f"file {number}", device="file")
    running = [order.next_runnable() for _ in range(FILES_AT_A_TIME + 2)]
    assert running.count(None) == 1
    assert ("training", "cpu") in running


def test_a_place_counts_those_ahead_that_compete_for_the_same_device() -> None:
    order = scheduler()
    for task_id, device in (
        *(("c1", "cpu"), ("g1", "cuda:0"), ("c2", "cpu"), ("h1", "cuda:1")),
        *(("any", "cuda"), ("g2", "cuda:0"), ("f", "file")),
    ):
        add(order, task_id, device=device)
    assert order.positions() == {"c1": 1, "g1": 1, "c2": 2, "h1": 1, "any": 3, "g2": 3, "f": 1}


@given(
    wishes=st.lists(st.tuples(st.sampled_from(["cuda", "cuda:0"]), st.integers(1, 10), st.integers(0, 5)), max_size=12)
)
def test_tasks_of_one_device_start_in_the_order_of_their_places(wishes: list[tuple[str, int, int]]) -> None:
    order = scheduler(gpus=(Gpu("cuda:0", 0),))
    for number, (device, priority, second) in enumerate(wishes):
        add(order, f"task {number}", device=device, priority=priority, second=second)
    places = order.positions()
    started = []
    while runnable := order.next_runnable():
        task_id, device = runnable
        started.append(task_id)
        order.discard(task_id)
    assert [places[task_id] for task_id in started] == list(range(1, len(wishes) + 1))


class TestPriority:
    def test_a_task_moves_to_where_it_would_have_been_with_it(self) -> None:
        order = scheduler(cpu=3)
        for task_id in "abc":
            add(order, task_id)
        order.set_priority("a", 6)
        order.set_priority("c", 4)
        order.set_priority("a", 5)
        assert [task_id for task_id, _ in start_all(order)] == ["c", "a", "b"]

    def test_only_what_waits_is_found(self) -> None:
        order = scheduler()
        add(order, "a", priority=3)
        waiting = order.find("a")
        assert waiting is not None
        assert (waiting.priority, waiting.device) == (3, "cpu")
        order.next_runnable()
        assert order.find("a") is None


class TestLimits:
    def test_a_higher_one_makes_room_and_a_lower_one_ends_nothing(self) -> None:
        order = scheduler(cpu=1)
        for task_id in "abcd":
            add(order, task_id)
        order.set_limits({"cpu": 3})
        assert [task_id for task_id, _ in start_all(order)] == ["a", "b", "c"]
        order.set_limits({"cpu": 1})
        assert order.running_on("cpu") == ["a", "b", "c"]
        for task_id in "ab":
            order.discard(task_id)
            assert order.next_runnable() is None
        order.discard("c")
        assert start_all(order) == [("d", "cpu")]

    def test_zero_starts_nothing_more_there_and_none_is_the_setting_again(self) -> None:
        order = scheduler(gpu=2)
        order.set_limits({"cuda:0": 0})
        add(order, "here", device="cuda:0")
        add(order, "anywhere", device="cuda")
        assert start_all(order) == [("anywhere", "cuda:1")]
        order.set_limits({"cuda:0": None, "cpu": None})
        assert (order.limit("cuda:0"), order.limit("cpu")) == (2, 1)
        assert start_all(order) == [("here", "cuda:0")]

    def test_a_task_for_any_gpu_waits_for_each_of_them(self) -> None:
        order = scheduler()
        for task_id, device in (("a", "cuda:0"), ("b", "cuda:1"), ("c", "cuda"), ("d", "cuda:0"), ("e", "cpu")):
            add(order, task_id, device=device)
        start_all(order)
        assert [order.waiting_for(device) for device in ("cuda:0", "cuda:1", "cpu")] == [["c", "d"], ["c"], []]
        assert order.used_devices() == {"cuda:0", "cuda:1", "cpu"}


class TestBound:
    def test_what_would_have_to_wait_is_refused_where_as_many_wait_as_may(self) -> None:
        order = scheduler(max_queued=2)
        for task_id in "abc":
            order.expect(task_id, device="cpu")
            add(order, task_id)
        order.next_runnable()
        with pytest.raises(QueueFull, match="2 tasks wait, MAX_QUEUED is 2"):
            order.expect("d", device="cpu")
        order.discard("b")
        order.expect("d", device="cpu")

    def test_what_starts_at_once_is_never_refused(self) -> None:
        order = scheduler(max_queued=0)
        for task_id, device in (("a", "cpu"), ("b", "cuda"), ("c", "cuda"), ("d", "file")):
            order.expect(task_id, device=device)
        for device in ("cpu", "cuda", "cuda:0"):
            with pytest.raises(QueueFull):
                order.expect("e", device=device)

    def test_whose_place_is_taken_while_it_is_being_accepted_counts_among_those_that_wait(self) -> None:
        """The store has taken another task first, which runs there now."""
        order = scheduler(max_queued=1)
        order.expect("first", device="cpu")
        order.expect("second", device="cpu")
        add(order, "second")
        assert order.next_runnable() == ("second", "cpu")
        with pytest.raises(QueueFull):
            order.expect("third", device="cpu")

    def test_what_is_being_accepted_keeps_its_place(self) -> None:
        order = scheduler(max_queued=1)
        order.expect("runs", device="cpu")
        order.expect("waits", device="cpu")
        with pytest.raises(QueueFull):
            order.expect("late", device="cpu")
        order.forget("runs")
        order.expect("late", device="cpu")

    def test_of_one_id_only_one_is_accepted_at_a_time(self) -> None:
        order = scheduler()
        order.expect("a", device="cpu")
        with pytest.raises(TaskConflict) as refusal:
            order.expect("a", device="cuda")
        assert refusal.value.code == "task_id_in_use"

    def test_what_an_earlier_service_has_accepted_is_never_refused(self) -> None:
        order = scheduler(max_queued=1)
        for task_id in "abc":
            add(order, task_id)
        assert order.queued == 3


@dataclass(frozen=True)
class Asked:
    task_id: str
    priority: int
    age: int
    device: str

    def competes_with(self, other: Asked) -> bool:
        mine, others = self.device, other.device
        return mine == others or ("cuda" in (mine, others) and mine != "cpu" and others != "cpu")


class SchedulerMachine(RuleBasedStateMachine):
    """Tasks come, run, come back and go in any order; a plain list of wishes says what must hold."""

    @initialize(
        cpu=st.integers(1, 3),
        gpu=st.integers(1, 2),
        memory=st.lists(st.integers(0, 3), min_size=0, max_size=3),
        max_queued=st.integers(0, 4),
    )
    def begin(self, cpu: int, gpu: int, memory: list[int], max_queued: int) -> None:
        self.gpus = [Gpu(f"cuda:{index}", used) for index, used in enumerate(memory)]
        self.settings = {"cpu": cpu} | {each.name: gpu for each in self.gpus}
        self.limits = dict(self.settings)
        self.scheduler = Scheduler(cpu_limit=cpu, gpu_limit=gpu, gpus=lambda: self.gpus, max_queued=max_queued)
        self.max_queued = max_queued
        self.waiting: list[Asked] = []
        self.running: dict[str, str] = {}
        self.ran: dict[str, Asked] = {}
        self.count = 0

    def places(self, device: str) -> list[str]:
        """Devices with room on which a task that asked for `device` may run."""
        allowed = [each.name for each in self.gpus] if device == "cuda" else [device]
        taken = Counter(self.running.values())
        return [name for name in allowed if taken[name] < self.limits[name]]

    def ordered(self) -> list[Asked]:
        return sorted(self.waiting, key=lambda asked: (asked.priority, asked.age))

    def put(self, asked: Asked) -> None:
        self.waiting.append(asked)
        moment = MOMENT + timedelta(seconds=asked.age)
        self.scheduler.add(asked.task_id, priority=asked.priority, created_at=moment, device=asked.device)

    @rule(priority=st.integers(1, 10), data=st.data())
    def ask(self, priority: int, data: st.DataObject) -> None:
        """As a start does: refused where the queue is full. Whatever had room has been started before."""
        while self.scheduler.queued and any(self.places(asked.device) for asked in self.waiting):
            self.run_next()
        device = data.draw(st.sampled_from(["cpu", "cuda", *(each.name for each in self.gpus)]))
        self.count += 1
        asked = Asked(f"task-{self.count}", priority, self.count, device)
        may_come = bool(self.places(device)) or len(self.waiting) < self.max_queued
        try:
            self.scheduler.expect(asked.task_id, device=device)
        except QueueFull:
            assert not may_come
        else:
            assert may_come
            self.put(asked)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """As a task does that was interrupted: as old as it is, and never refused."""
        task_id = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[task_id]
        self.scheduler.discard(task_id)
        self.put(self.ran.pop(task_id))

    @rule()
    def run_next(self) -> None:
        could_run = [asked for asked in self.ordered() if self.places(asked.device)]
        before = self.scheduler.positions()
        runnable = self.scheduler.next_runnable()
        if not could_run:
            assert runnable is None
            return
        first = could_run[0]
        assert runnable is not None, "a device idles while a task that could run there waits"
        task_id, device = runnable
        assert task_id == first.task_id
        assert device in self.places(first.device)
        if first.device == "cuda":
            used = {each.name: each.memory_used for each in self.gpus}
            assert used[device] == min(used[name] for name in self.places("cuda"))
        self.waiting.remove(first)
        self.running[task_id] = device
        self.ran[task_id] = first
        self.nobody_falls_back(before)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[task_id]
        self.scheduler.discard(task_id)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        asked = data.draw(st.sampled_from(self.waiting))
        before = self.scheduler.positions()
        self.waiting.remove(asked)
        self.scheduler.discard(asked.task_id)
        self.nobody_falls_back(before)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), priority=st.integers(1, 10))
    def change_priority(self, data: st.DataObject, priority: int) -> None:
        asked = data.draw(st.sampled_from(self.waiting))
        self.waiting[self.waiting.index(asked)] = replace(asked, priority=priority)
        self.scheduler.set_priority(asked.task_id, priority)

    @rule(data=st.data(), limit=st.none() | st.integers(0, 3))
    def change_limit(self, data: st.DataObject, limit: int | None) -> None:
        device = data.draw(st.sampled_from(sorted(self.limits)))
        self.limits[device] = self.settings[device] if limit is None else limit
        self.scheduler.set_limits({device: limit})

    @precondition(lambda self: self.gpus)
    @rule(data=st.data(), used=st.integers(0, 3))
    def use_memory(self, data: st.DataObject, used: int) -> None:
        index = data.draw(st.integers(0, len(self.gpus) - 1))
        self.gpus[index] = Gpu(f"cuda:{index}", used)

    def nobody_falls_back(self, before: dict[str, int]) -> None:
        """Whoever leaves the queue can only bring the others forward."""
        assert all(place <= before[task_id] for task_id, place in self.scheduler.positions().items())

    @invariant()
    def places_are_true(self) -> None:
        ordered = self.ordered()
        assert self.scheduler.positions() == {
            asked.task_id: 1 + sum(asked.competes_with(other) for other in ordered[:index])
            for index, asked in enumerate(ordered)
        }

    @invariant()
    def counts_are_true(self) -> None:
        assert (self.scheduler.queued, self.scheduler.running) == (len(self.waiting), len(self.running))
        for device, limit in self.limits.items():
            running = [task_id for task_id, where in self.running.items() if where == device]
            assert self.scheduler.running_on(device) == running
            assert self.scheduler.limit(device) == limit


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
