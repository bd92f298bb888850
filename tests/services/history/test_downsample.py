"""Fewer points, and every spike."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.history.downsample import pick

VALUES = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(st.lists(VALUES, max_size=400), st.integers(16, 64))
def test_extremes_ends_and_gaps_stay_and_no_more_than_asked_for(values: list[float | None], most: int) -> None:
    picked = pick(values, most)
    assert len(picked) <= most
    assert all(one < other for one, other in pairwise(picked))
    kept = [values[index] for index in picked]
    finite = [value for value in values if value is not None]
    if finite:
        shown = [value for value in kept if value is not None]
        assert (min(shown), max(shown)) == (min(finite), max(finite))
    if values:
        assert (picked[0], picked[-1]) == (0, len(values) - 1)
    assert (None in kept) == (None in values)


@given(st.integers(0, 4999), st.floats(1, 1e6))
def test_a_single_spike_never_vanishes(where: int, height: float) -> None:
    values: list[float | None] = [0.5] * 5000
    values[where] = height
    assert height in [values[index] for index in pick(values, 100)]


@pytest.mark.parametrize("most", [16, 100, 2000])
def test_of_each_part_the_lowest_and_the_highest_are_there(most: int) -> None:
    """A wave that has more hills than there are points still fills its band everywhere."""
    values: list[float | None] = [float(index % 2) for index in range(10_000)]
    shown = [values[index] for index in pick(values, most)]
    assert shown.count(0.0) > most // 3
    assert shown.count(1.0) > most // 3


def test_a_series_that_is_short_enough_is_left_as_it_is() -> None:
    assert pick([1.0, None, 2.0], 16) == [0, 1, 2]
    assert pick([], 16) == []
