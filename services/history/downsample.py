"""Fewer points that look the same: of each part of a series its lowest and its highest stay, so no spike vanishes.

Min-max downsampling by `tsdownsample` (Van Der Donckt et al., 2023, "MinMaxLTTB"), which alone among its algorithms
keeps every local extreme at the resolution of the chart.
"""

from __future__ import annotations

from collections.abc import Sequence

NULL_SHARE = 8
"""One point in so many may be one without a value: a gap that a viewer must see."""


def warm_up() -> None:
    """Import what the first one who asks would else wait for."""
    import numpy  # noqa: F401
    import tsdownsample  # noqa: F401


def pick(values: Sequence[float | None], most: int) -> list[int]:
    """Indices of at most `most` of the values, in order: the first, the last and both extremes are among them.

    Args:
        values: of one series, oldest first; `None` for one that was not finite.
        most: at least 16.
    """
    if len(values) <= most:
        return list(range(len(values)))
    gaps = [index for index, value in enumerate(values) if value is None]
    gaps = _thin(gaps, most // NULL_SHARE)
    finite = [index for index, value in enumerate(values) if value is not None]
    kept = {0, len(values) - 1, *gaps}
    room = (most - len(kept)) // 2 * 2
    if len(finite) > room:
        import numpy as np
        from tsdownsample import MinMaxDownsampler

        heights = np.array([values[index] for index in finite], dtype=np.float64)
        downsampler = MinMaxDownsampler()  # type: ignore[no-untyped-call]
        finite = [finite[index] for index in downsampler.downsample(heights, n_out=room)]
    return sorted(kept.union(finite))


def _thin(indices: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, evenly."""
    if len(indices) <= most:
        return list(indices)
    return [indices[number * len(indices) // most] for number in range(most)]
