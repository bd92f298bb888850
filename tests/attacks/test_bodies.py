"""Bodies that are no request, or would cost too much to find out."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import Target

TRIAL = '{"text": "x", "metric_definitions": [], "log_format": %s}'
BROKEN = {
    "NaN": '{"text": NaN, "metric_definitions": []}',
    "infinity": '{"text": -Infinity, "metric_definitions": []}',
    "a number out of range": '{"text": 1e400, "metric_definitions": []}',
    "a lone surrogate": r'{"text": ["\ud800"], "metric_definitions": []}',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_what_is_no_json_is_no_fault_of_the_service(ours: Target, stock: Target, body: str) -> None:
    def breaks(target: Target) -> bool:
        headers = {"Content-Type": "application/json"}
        return target.post("parsing/try", content=body, headers=headers).status_code >= 500

    assert not breaks(ours)
    assert breaks(stock)


def test_a_body_without_end_is_not_read_to_its_end(ours: Target, stock: Target) -> None:
    def swallows(target: Target) -> bool:
        parts = (b'{"text": "', *(b"x" * 100_000 for _ in range(100)), b'", "metric_definitions": []}')
        headers = {"Content-Type": "application/json"}
        return target.post("parsing/try", content=iter(parts), headers=headers).status_code == 200

    assert not swallows(ours)
    assert swallows(stock)
