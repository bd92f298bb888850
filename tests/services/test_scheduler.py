"""Which task runs next, and where."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.devices import Gpu
from services.scheduler import FILES_AT_A_TIME, Scheduler

IDLE = (Gpu("cuda:0", 0), Gpu("cuda:1", 0))


def scheduler(*, cpu: int = 1, gpu: int = 1, gpus: tuple[Gpu, ...] = IDLE) -> Scheduler:
    return Scheduler(cpu_limit=cpu, gpu_limit=gpu, gpus=lambda: gpus)


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
        order.add(task_id, priority=priority, device="cpu")
    assert [task_id for task_id, _ in start_all(order)] == ["c", "e", "a", "b", "d"]


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_takes_as_many_as_its_limit(device: str) -> None:
    order = scheduler(cpu=2, gpu=2)
    for task_id in "abc":
        order.add(task_id, priority=5, device=device)
    assert start_all(order) == [("a", device), ("b", device)]
    assert (order.running, order.queued) == (2, 1)
    order.discard("a")
    assert start_all(order) == [("c", device)]


def test_a_task_for_a_busy_device_does_not_hold_up_one_for_a_free_device() -> None:
    order = scheduler()
    for task_id, device in (("a", "cuda:0"), ("b", "cuda:0"), ("c", "cpu")):
        order.add(task_id, priority=5, device=device)
    assert start_all(order) == [("a", "cuda:0"), ("c", "cpu")]


def test_any_gpu_means_the_free_one_with_the_least_memory_in_use() -> None:
    order = scheduler(gpus=(Gpu("cuda:0", 900), Gpu("cuda:1", 100), Gpu("cuda:2", 500)))
    for task_id in "abcd":
        order.add(task_id, priority=5, device="cuda")
    assert start_all(order) == [("a", "cuda:1"), ("b", "cuda:2"), ("c", "cuda:0")]


def test_memory_in_use_is_asked_for_again_each_time() -> None:
    busy = [Gpu("cuda:0", 0), Gpu("cuda:1", 500)]
    order = Scheduler(cpu_limit=1, gpu_limit=2, gpus=lambda: busy)
    order.add("a", priority=5, device="cuda")
    assert order.next_runnable() == ("a", "cuda:0")
    busy[0] = Gpu("cuda:0", 900)
    order.add("b", priority=5, device="cuda")
    assert order.next_runnable() == ("b", "cuda:1")


def test_a_task_for_any_gpu_waits_while_there_is_none() -> None:
    order = scheduler(gpus=())
    order.add("a", priority=5, device="cuda")
    assert start_all(order) == []
    assert order.queued == 1


def test_a_discarded_task_never_runs_and_an_unknown_one_does_no_harm() -> None:
    order = scheduler()
    order.add("a", priority=1, device="cpu")
    order.add("b", priority=5, device="cpu")
    order.discard("a")
    order.discard("nobody")
    assert start_all(order) == [("b", "cpu")]


@dataclass(frozen=True)
class Asked:
    task_id: str
    priority: int
    age: int
    device: str


class SchedulerMachine(RuleBasedStateMachine):
    """Tasks come, run and go in any order; a plain list of wishes says what must hold."""

    @initialize(
        cpu=st.integers(1, 3), gpu=st.integers(1, 2), memory=st.lists(st.integers(0, 3), min_size=0, max_size=3)
    )
    def begin(self, cpu: int, gpu: int, memory: list[int]) -> None:
        self.gpus = [Gpu(f"cuda:{index}", used) for index, used in enumerate(memory)]
        self.limits = {"cpu": cpu} | {each.name: gpu for each in self.gpus}
        self.scheduler = Scheduler(cpu_limit=cpu, gpu_limit=gpu, gpus=lambda: self.gpus)
        self.waiting: list[Asked] = []
        self.running: dict[str, str] = {}
        self.count = 0

    def places(self, device: str) -> list[str]:
        """Devices with room on which a task that asked for `device` may run."""
        allowed = [each.name for each in self.gpus] if device == "cuda" else [device]
        taken = Counter(self.running.values())
        return [name for name in allowed if taken[name] < self.limits[name]]

    @rule(priority=st.integers(1, 10), data=st.data())
    def add(self, priority: int, data: st.DataObject) -> None:
        device = data.draw(st.sampled_from(["cpu", "cuda", *(each.name for each in self.gpus)]))
        self.count += 1
        asked = Asked(f"task-{self.count}", priority, self.count, device)
        self.waiting.append(asked)
        self.scheduler.add(asked.task_id, priority=priority, device=device)

    @rule()
    def run_next(self) -> None:
        could_run = [asked for asked in self.waiting if self.places(asked.device)]
        runnable = self.scheduler.next_runnable()
        if not could_run:
            assert runnable is None
            return
        first = min(could_run, key=lambda asked: (asked.priority, asked.age))
        assert runnable is not None, "a device idles while a task that could run there waits"
        task_id, device = runnable
        assert task_id == first.task_id
        assert device in self.places(first.device)
        if first.device == "cuda":
            used = {each.name: each.memory_used for each in self.gpus}
            assert used[device] == min(used[name] for name in self.places("cuda"))
        self.waiting.remove(first)
        self.running[task_id] = device

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
        self.waiting.remove(asked)
        self.scheduler.discard(asked.task_id)

    @precondition(lambda self: self.gpus)
    @rule(data=st.data(), used=st.integers(0, 3))
    def use_memory(self, data: st.DataObject, used: int) -> None:
        index = data.draw(st.integers(0, len(self.gpus) - 1))
        self.gpus[index] = Gpu(f"cuda:{index}", used)

    @invariant()
    def no_device_is_over_its_limit(self) -> None:
        taken = Counter(self.running.values())
        assert all(taken[name] <= self.limits[name] for name in taken)

    @invariant()
    def counts_are_true(self) -> None:
        assert (self.scheduler.queued, self.scheduler.running) == (len(self.waiting), len(self.running))


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_task_that_runs_already_takes_its_place_even_where_there_is_none() -> None:
    order = scheduler(cpu=1)
    order.adopt("a", device="cpu")
    order.adopt("b", device="cpu")
    order.add("c", priority=5, device="cpu")
    assert (order.running, order.queued) == (2, 1)
    order.discard("a")
    assert order.next_runnable() is None
    order.discard("b")
    assert order.next_runnable() == ("c", "cpu")


def test_files_are_read_beside_every_device_up_to_their_own_limit() -> None:
    order = scheduler(cpu=1)
    order.add("training", priority=5, device="cpu")
    for number in range(FILES_AT_A_TIME + 1):
        order.add(f"file {number}", priority=5, device="file")
    running = [order.next_runnable() for _ in range(FILES_AT_A_TIME + 2)]
    assert running.count(None) == 1
    assert ("training", "cpu") in running
