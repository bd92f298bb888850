"""In what two records differ."""

from __future__ import annotations

from services.provenance import differences


def test_fields_by_their_path_with_the_value_of_each_that_has_it() -> None:
    a = {"code": {"commit": "1", "branch": "main"}, "packages": {"torch": "2.0"}, "devices": [{"device": "cpu"}]}
    b = {"code": {"commit": "2", "branch": "main"}, "packages": {"torch": "2.0", "x": "1"}, "seeds": {"seed": 1}}
    assert differences({"a": a, "b": b}) == {
        "code.commit": {"a": "1", "b": "2"},
        "devices.0.device": {"a": "cpu"},
        "packages.x": {"b": "1"},
        "seeds.seed": {"b": 1},
    }
    assert differences({"a": a, "b": a}) == {}


def test_what_every_task_has_for_itself_is_no_difference() -> None:
    a = {"task_id": "a", "attempt": 1, "recorded_at": "x", "request": {"task_id": "a", "lr": 1}}
    b = {"task_id": "b", "attempt": 2, "recorded_at": "y", "request": {"task_id": "b", "lr": True}}
    assert differences({"a": a, "b": b}) == {"request.lr": {"a": 1, "b": True}}


def test_of_diffs_length_and_digest_are_compared() -> None:
    found = differences({"a": {"code": {"diff": ""}}, "b": {"code": {"diff": "+x\n+y\n"}}})
    assert found["code.diff"]["a"] == "none"
    assert found["code.diff"]["b"].startswith("2 lines, sha256 ")
