"""What is known of the GPUs without waiting for their driver."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from services.devices import Gpu
from services.known_gpus import KnownGpus

TIMEOUT_S = 30
ONE = Gpu("cuda:0", 5, utilization=0.5)


class Driver:
    """Gives its answers one by one, the last one for ever; not before `may_answer`."""

    def __init__(self, *answers: Sequence[Gpu] | None) -> None:
        self.answers = list(answers)
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> Sequence[Gpu] | None:
        assert self.may_answer.wait(TIMEOUT_S)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_a_driver_that_takes_its_time_is_not_waited_for() -> None:
    driver, told = Driver([ONE]), threading.Event()
    known = KnownGpus(driver)
    known.when_answered = told.set
    driver.may_answer.clear()
    assert known.recent() is None
    driver.may_answer.set()
    assert told.wait(TIMEOUT_S)
    assert known.recent() == (ONE,)


def test_an_answer_counts_for_a_while_and_is_then_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    known = KnownGpus(Driver([ONE], []))
    known.when_answered = told.set
    known()
    assert known.recent() == (ONE,)
    monkeypatch.setattr("services.known_gpus.FRESH_S", 0)
    assert known.recent() is None
    monkeypatch.undo()
    assert told.wait(TIMEOUT_S)
    assert known.recent() == ()


def test_a_driver_that_fails_is_asked_again_as_long_as_somebody_needs_to_know(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.known_gpus.RETRY_S", 0)
    known, answered = KnownGpus(Driver(None, None, [ONE])), threading.Event()
    known.when_answered = lambda: answered.set() if known.recent() else None
    assert known.recent() is None
    assert answered.wait(TIMEOUT_S)
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once, however often it was asked


def test_gpus_are_not_gone_because_their_driver_fails_once() -> None:
    known = KnownGpus(Driver([ONE], None))
    known()
    (gpu,) = known()
    assert (gpu.name, gpu.memory_used, gpu.utilization) == ("cuda:0", 5, None)


def test_where_the_driver_has_never_answered_no_gpu_is_known() -> None:
    assert KnownGpus(Driver(None))() == ()
