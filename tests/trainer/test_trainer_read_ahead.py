"""Threads that load ahead: the same results in the same order, and nobody left behind."""

from __future__ import annotations

import threading
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.read_ahead import MOST_READERS, in_order, readers_for


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(0, 4), st.integers(1, 8))
def test_results_and_errors_come_in_order(indices: list[int], readers: int, ahead: int) -> None:
    def load(index: int) -> int:
        return 60 // index

    found: list[int | None] = []
    with in_order(load, indices, readers=readers, ahead=ahead) as loaded:
        for result in loaded:
            try:
                found.append(result())
            except ZeroDivisionError:
                found.append(None)
    assert found == [60 // index if index else None for index in indices]


@pytest.mark.parametrize("readers", [0, 3])
def test_no_more_is_loaded_than_was_allowed(readers: int) -> None:
    begun: list[int] = []
    with in_order(begun.append, range(100), readers=readers, ahead=5) as loaded:
        for result in islice(loaded, 2):
            result()
    assert len(begun) <= (7 if readers else 2)
    assert sorted(begun)[:2] == [0, 1]


def test_who_breaks_off_leaves_no_thread() -> None:
    released = threading.Event()

    def load(_index: int) -> None:
        released.wait(10)

    def break_off() -> None:
        with in_order(load, range(100), readers=4, ahead=8) as loaded:
            next(loaded)
            assert threading.active_count() == before + 4
            released.set()
            raise KeyError

    before = threading.active_count()
    with pytest.raises(KeyError):
        break_off()
    assert threading.active_count() == before


def test_on_the_cpu_the_training_reads_by_itself() -> None:
    assert readers_for(torch.device("cpu")) == 0
    assert 1 <= readers_for(torch.device("cuda:0")) <= MOST_READERS
