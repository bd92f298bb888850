"""The soak test measures growth, and knows when a process has come to rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.soaking import gauge
from benchmarks.soaking.gauge import Sample, growth, sample, settled


def at(minute: float, rss: float) -> Sample:
    return Sample(60 * minute, rss, 0, 0, 0, 0, 0)


@given(
    slope=st.floats(-50, 50),
    start=st.floats(0, 2000),
    minutes=st.lists(st.integers(0, 600), min_size=3, max_size=50, unique=True),
)
def test_growth_of_a_straight_line_is_its_slope_without_a_doubt(slope: float, start: float, minutes: list[int]) -> None:
    samples = [at(minute, start + slope * minute) for minute in sorted(minutes)]
    found = growth(samples, lambda each: each.rss)
    assert found.slope == pytest.approx(slope, abs=1e-6)
    assert found.error == pytest.approx(0, abs=1e-4)


def test_growth_is_known_no_better_than_what_comes_and_goes_lets_it_be() -> None:
    samples = [at(minute / 60, 500 + (40 if minute // 30 % 2 else 0)) for minute in range(300)]
    found = growth(samples, lambda each: each.rss)
    assert abs(found.slope) < 2 * found.error
    assert found.error > 1


def test_a_sample_counts_what_a_process_opens() -> None:
    process = psutil.Process()
    before = sample(process)
    opened = [os.open("/", os.O_RDONLY) for _ in range(5)]
    during = sample(process)
    for descriptor in opened:
        os.close(descriptor)
    assert during.descriptors == before.descriptors + 5
    assert before.rss > before.anonymous > 0


async def test_a_process_has_settled_when_nothing_changes_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: Iterator[int] = (max(3, 10 - number) for number in count())
    monkeypatch.setattr(gauge, "SETTLED_S", 0.05)
    monkeypatch.setattr(gauge, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(gauge, "sample", lambda _process: Sample(0, 0, 0, 0, 7, next(threads), 0))
    touched = []
    found = await settled(psutil.Process(), limit_s=30, touch=lambda: touched.append(1))
    assert found.threads == 3
    assert len(touched) >= 7
