"""Lines and class names that would be frames of the stream, if they were sent as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.api.viewer import EventStream
from tests.attacks.conftest import CLASSES, Target

FORGED = '{"status":"completed","message":"forged"}'
ENDS = {"LF": "\n", "CR": "\r", "CR LF": "\r\n", "U+2028": "\u2028", "U+2029": "\u2029", "NEL": "\x85"}
every_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)


def standard_events(stream: bytes) -> Iterator[str]:
    """As a browser reads them."""
    for event in EventStream().feed(stream):
        yield event.data


def loose_events(stream: bytes) -> Iterator[str]:
    """As a client does that splits lines with `str.splitlines`."""
    for line in stream.decode().splitlines():
        if line.startswith("data:"):
            yield line[5:].strip()


def sees_a_forged_end(target: Target, task_id: str) -> bool:
    stream = target.get(f"training/{task_id}/logs").content
    return any(FORGED in map(str.strip, events(stream)) for events in (standard_events, loose_events))


def forging(end: str) -> str:
    return f"cat{end}{end}data: {FORGED}{end}{end}"


@every_end
def test_a_class_name_is_no_frame(ours: Target, stock: Target, end: str) -> None:
    def forges(target: Target) -> bool:
        for split in ("train", "val"):
            shutil.copytree(target.folder / "data" / split / "cat", target.folder / "data" / split / forging(end))
        body = target.body(task_id="attack", num_classes=CLASSES + 1)
        target.post("training/start", json=body).raise_for_status()
        return sees_a_forged_end(target, "attack")

    assert not forges(ours)
    assert forges(stock)


@pytest.mark.parametrize("end", [end for end in ENDS.values() if "\n" not in end])
def test_a_line_of_a_log_is_no_frame(ours: Target, stock: Target, end: str) -> None:
    def forges(target: Target) -> bool:
        (target.folder / "data/train.log").write_text(f"{forging(end)}\n", newline="")
        body = {"path": str(target.folder / "data/train.log"), "task_id": "attack"}
        target.post("training/import", json=body).raise_for_status()
        return sees_a_forged_end(target, "attack")

    assert not forges(ours)
    assert forges(stock)


def test_what_was_to_be_forged_is_shown_as_it_is(ours: Target) -> None:
    for split in ("train", "val"):
        shutil.copytree(ours.folder / "data" / split / "cat", ours.folder / "data" / split / forging("\n"))
    ours.post("training/start", json=ours.body(task_id="attack", num_classes=CLASSES + 1)).raise_for_status()
    events = [json.loads(data) for data in standard_events(ours.get("training/attack/logs").content)]

    assert f"data: {FORGED}" in [event["message"] for event in events]
    assert [event["message"] for event in events if "status" in event] == ["任务结束"]
