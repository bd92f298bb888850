"""The live end of a log: one ring, any number of followers on any number of event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from models.schemas import TaskStatus
from services.base_service import BaseService
from services.errors import TaskConflict
from services.log_queue import CHUNK_BYTES, RING_SIZE, LogQueue
from services.storage.database import Database
from services.storage.writer import Writer
from services.task_state import TaskState
from tests.services.builders import line, task_state, turn

TIMEOUT_S = 30


def frames(first: int, last: int) -> list[bytes]:
    return [b"frame %d" % number for number in range(first, last + 1)]


@pytest.fixture
def idle_writer(database: Database) -> Writer:
    """Never started: tests of the reading side put no lines."""
    states: dict[str, TaskState] = {}
    return Writer(database, states=states.__getitem__, publish=lambda committed: None, announce=lambda notice: None)


@pytest.fixture
def queue(idle_writer: Writer) -> LogQueue:
    return LogQueue("t", idle_writer)


class TestRing:
    def test_a_follower_reads_what_it_does_not_have(self, queue: LogQueue) -> None:
        queue.publish(frames(1, 3), ended=False)
        assert queue.read(0) == frames(1, 3)
        assert queue.read(2) == frames(3, 3)
        assert queue.read(3) == []
        assert queue.read(9) == []

    def test_followers_share_the_frames(self, queue: LogQueue) -> None:
        queue.publish(frames(1, 3), ended=False)
        one, other = queue.read(0), queue.read(1)
        assert one is not None
        assert other is not None
        assert one[1] is other[0]

    def test_a_follower_that_has_fallen_behind_the_ring_is_told(self, queue: LogQueue) -> None:
        queue.publish(frames(1, RING_SIZE), ended=False)
        assert queue.read(0) == frames(1, RING_SIZE)
        queue.publish(frames(RING_SIZE + 1, RING_SIZE + 1), ended=False)
        assert queue.read(0) is None
        assert queue.read(1) == frames(2, RING_SIZE + 1)

    def test_a_batch_larger_than_the_ring_leaves_its_end_there(self, queue: LogQueue) -> None:
        queue.publish(frames(1, 3 * RING_SIZE), ended=False)
        assert queue.read(2 * RING_SIZE - 1) is None
        assert queue.read(2 * RING_SIZE) == frames(2 * RING_SIZE + 1, 3 * RING_SIZE)

    def test_frames_are_rewritten_in_their_places(self, queue: LogQueue) -> None:
        queue.publish(frames(1, 3), ended=False)
        queue.rewrite([b"new 2", b"new 3"])
        assert queue.read(1) == [b"new 2", b"new 3"]
        assert queue.read(0) is None
        assert queue.read(3) == []
        queue.publish(frames(4, 4), ended=False)
        assert queue.read(2) == [b"new 3", b"frame 4"]

    def test_followers_that_are_as_far_share_what_is_sent(self, queue: LogQueue) -> None:
        queue.publish(frames(1, 3), ended=False)
        one, behind, same = queue.read_chunk(1), queue.read_chunk(0), queue.read_chunk(0)
        assert one == (frames(2, 3), b"frame 2frame 3")
        assert behind is same
        assert behind == (frames(1, 3), b"frame 1frame 2frame 3")

    def test_what_is_sent_has_what_was_published_or_rewritten_since(self, queue: LogQueue) -> None:
        queue.publish(frames(1, 2), ended=False)
        assert queue.read_chunk(1) == (frames(2, 2), b"frame 2")
        queue.rewrite([b"new 1", b"new 2"])
        assert queue.read_chunk(1) == ([b"new 2"], b"new 2")
        queue.publish(frames(3, 3), ended=False)
        assert queue.read_chunk(1) == ([b"new 2", b"frame 3"], b"new 2frame 3")
        assert queue.read_chunk(3) == ([], b"")

    def test_no_more_is_sent_at_once_than_a_stalled_viewer_may_hold(self, queue: LogQueue) -> None:
        long = [b"x" * (CHUNK_BYTES // 2)] * 5
        queue.publish(long, ended=False)
        sent = queue.read_chunk(0)
        assert sent is not None
        assert sent.frames == long[:3]
        assert queue.read_chunk(3) == (long[3:], b"".join(long[3:]))

    def test_the_ring_of_a_task_that_was_taken_up_again_begins_after_its_stored_lines(
        self, idle_writer: Writer
    ) -> None:
        queue = LogQueue("t", idle_writer, last_seq=10)
        assert queue.read(0) is None
        assert queue.read(9) is None
        assert queue.read(10) == []
        queue.publish(frames(11, 12), ended=False)
        assert queue.read(9) is None
        assert queue.read(10) == frames(11, 12)


class TestWaiting:
    async def test_a_frame_that_is_there_is_not_waited_for(self, queue: LogQueue) -> None:
        queue.publish(frames(1, 1), ended=False)
        await asyncio.wait_for(queue.wait(0), TIMEOUT_S)

    async def test_the_end_is_not_waited_for_either(self, queue: LogQueue) -> None:
        queue.publish(frames(1, 1), ended=True)
        await asyncio.wait_for(queue.wait(1), TIMEOUT_S)

    async def test_a_follower_that_has_everything_waits(self, queue: LogQueue) -> None:
        queue.publish(frames(1, 1), ended=False)
        waiting = asyncio.create_task(queue.wait(1))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        queue.publish(frames(2, 2), ended=False)
        await asyncio.wait_for(waiting, TIMEOUT_S)

    async def test_a_line_from_another_thread_wakes_every_follower(self, queue: LogQueue) -> None:
        waiting = [asyncio.create_task(queue.wait(0)) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.to_thread(queue.publish, frames(1, 1), ended=False)
        await asyncio.wait_for(asyncio.gather(*waiting), TIMEOUT_S)

    async def test_a_follower_that_leaves_takes_nobody_with_it(self, queue: LogQueue) -> None:
        leaving, staying = (asyncio.create_task(queue.wait(0)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert leaving.cancelled()
        queue.publish(frames(1, 1), ended=False)
        await asyncio.wait_for(staying, TIMEOUT_S)

    async def test_a_follower_that_leaves_at_the_very_moment_of_a_line_does_no_harm(self, queue: LogQueue) -> None:
        leaving, staying = (asyncio.create_task(queue.wait(0)) for _ in range(2))
        await asyncio.sleep(0)
        queue.publish(frames(1, 1), ended=False)  # the wake-up is under way now
        leaving.cancel()
        await asyncio.wait_for(staying, TIMEOUT_S)

    def test_followers_on_several_event_loops_are_all_woken(self, queue: LogQueue) -> None:
        woken: list[str] = []
        ready = threading.Barrier(5)

        async def follow(name: str) -> None:
            waiting = asyncio.create_task(queue.wait(0))
            await asyncio.sleep(0)
            ready.wait(TIMEOUT_S)
            await asyncio.wait_for(waiting, TIMEOUT_S)
            woken.append(name)

        threads = [threading.Thread(target=lambda name=name: asyncio.run(follow(name))) for name in "abcd"]
        for thread in threads:
            thread.start()
        ready.wait(TIMEOUT_S)
        queue.publish(frames(1, 1), ended=False)
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert sorted(woken) == ["a", "b", "c", "d"]

    async def test_a_loop_that_was_closed_under_its_followers_does_no_harm(self, queue: LogQueue) -> None:
        def abandon() -> None:
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda _loop, _context: None)  # it complains of the abandoned task
            waiting = loop.create_task(queue.wait(0))
            loop.run_until_complete(asyncio.sleep(0))
            assert not waiting.done()
            loop.close()

        await asyncio.to_thread(abandon)
        living = asyncio.create_task(queue.wait(0))
        await asyncio.sleep(0)
        queue.publish(frames(1, 1), ended=False)
        queue.publish(frames(2, 2), ended=False)
        await asyncio.wait_for(living, TIMEOUT_S)
        assert queue.read(0) == frames(1, 2)
        gc.collect()


class TestLastLine:
    @pytest.fixture
    def live(self, base: BaseService) -> LogQueue:
        return base.create_log_queue("t", task_state(status=TaskStatus.RUNNING))

    def test_nothing_follows_it(self, base: BaseService, live: LogQueue) -> None:
        live.put(turn(TaskStatus.COMPLETED))
        for late in (line("late"), turn(TaskStatus.FAILED)):
            with pytest.raises(TaskConflict, match="has ended"):
                live.put(late)
        assert [entry["message"] for entry in base.get_logs("t")] == ["now completed"]

    def test_a_status_that_does_not_end_the_task_closes_nothing(self, base: BaseService, live: LogQueue) -> None:
        live.put(turn(TaskStatus.STOPPING))
        live.put(line("still there"))
        assert [entry["message"] for entry in base.get_logs("t")] == ["now stopping", "still there"]

    @pytest.mark.parametrize("_round", range(5))
    def test_of_threads_that_race_against_it_none_gets_past(
        self, base: BaseService, live: LogQueue, _round: int
    ) -> None:
        start = threading.Barrier(4)
        accepted: list[str] = []
        refused: list[str] = []

        def race(make: Callable[[int], str]) -> None:
            start.wait(TIMEOUT_S)
            for number in range(200):
                message = make(number)
                try:
                    live.put(line(message))
                except TaskConflict:
                    refused.append(message)
                else:
                    accepted.append(message)

        def end() -> None:
            start.wait(TIMEOUT_S)
            live.put(turn(TaskStatus.COMPLETED))

        threads = [threading.Thread(target=race, args=(f"{name} {{}}".format,)) for name in "abc"]
        threads.append(threading.Thread(target=end))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        stored = [entry["message"] for entry in base.get_logs("t")]
        assert stored[-1] == "now completed"
        assert sorted(stored[:-1]) == sorted(accepted)
        assert len(accepted) + len(refused) == 600


class RingMachine(RuleBasedStateMachine):
    """Followers at their own pace against a ring: the list of all frames says what each may read."""

    @initialize(stored=st.sampled_from([0, 1, RING_SIZE]))
    def begin(self, stored: int) -> None:
        nobody = cast("Writer", None)  # no line is put
        self.queue = LogQueue("t", nobody, last_seq=stored)
        self.stored = stored
        self.all = frames(1, stored)

    @rule(count=st.integers(0, 5) | st.sampled_from([RING_SIZE - 1, RING_SIZE, RING_SIZE + 1]))
    def publish(self, count: int) -> None:
        new = frames(len(self.all) + 1, len(self.all) + count)
        self.queue.publish(new, ended=False)
        self.all += new

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        after = data.draw(st.integers(0, len(self.all) + 2))
        oldest_kept = max(self.stored, len(self.all) - RING_SIZE)
        expected = self.all[after:] if after >= oldest_kept else None
        assert self.queue.read(after) == expected
        assert self.queue.last_seq == len(self.all)


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
