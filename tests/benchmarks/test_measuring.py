"""What the benchmarks compute and fill is right: a wrong figure looks as good as a right one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fanning.ticks import METRICS, WRITTEN, line
from benchmarks.figures import percentile
from benchmarks.growing.filling import LONG, fill, name_of
from benchmarks.load import at_fixed_times, without_pause
from benchmarks.streams import quantile
from benchmarks.tracking.race import timing
from benchmarks.tracking.readers import BLOCK, FIRST, FULL, HEADER, LAST, WANDB_HEAD, LevelDbLog
from services.parsing import LineParser
from services.storage.database import Database
from services.storage.series import SeriesStore
from services.storage.store import Store


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected
    assert quantile(Counter(range(10, 1010, 10)), percent) == expected


def test_a_step_is_seen_once_its_values_and_those_before_are() -> None:
    found = timing([(1.0, 1.5), (2.0, 2.5), (3.0, 3.5)], [(2, 1.1), (4, 1.2), (9, 4.0)])
    assert found.p99_ms == pytest.approx(2000)  # the second of them, at 4.0: six values were there only then
    assert found.p50_ms == pytest.approx(1000)
    assert found.call_us == pytest.approx(1.5e6 / 9)
    assert found.per_value_us == pytest.approx(3e6 / 9)
    assert found.missing == 0


def test_values_that_nobody_has_seen_are_missing() -> None:
    assert timing([(1.0, 1.5), (2.0, 2.5)], [(3, 1.1), (5, 2.1)]).missing == 3


def pieces(records: list[bytes]) -> Iterator[bytes]:
    """LevelDB's log format, checksums left out."""
    at = WANDB_HEAD
    for record in records:
        is_first = True
        while True:
            left = BLOCK - at % BLOCK
            if left < HEADER:
                yield bytes(left)
                at += left
                continue
            part, record = record[: left - HEADER], record[left - HEADER :]
            kind = (FULL if is_first else LAST) if not record else (FIRST if is_first else 3)
            yield bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
            at += HEADER + len(part)
            is_first = False
            if not record:
                break


def test_a_log_that_is_being_written_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    records = [bytes([number % 251]) * (number * 97 % 90_000) for number in range(1, 60)]
    path = tmp_path / "run.wandb"
    path.write_bytes(bytes(WANDB_HEAD))
    log, found = LevelDbLog(path), []
    data = b"".join(pieces(records))
    for start in range(0, len(data), 12_345):
        with path.open("ab") as file:
            file.write(data[start : start + 12_345])
        found += log.read()
    assert found == records


def test_a_line_of_the_fan_out_has_the_metrics_that_its_peers_make_up() -> None:
    text = line(7, 12.5)
    found = WRITTEN.search(text.encode())
    assert found is not None
    assert float(found[1]) == 12.5
    parsed = LineParser().parse(text)
    assert (parsed.metrics, parsed.step) == (METRICS, 7)


def test_a_store_is_filled_as_the_service_would_have(tmp_path: Path) -> None:
    path = tmp_path / "training.db"
    fill(path, task_count=5, lines=30, long_lines=100)
    database = Database(f"sqlite:///{path}")
    try:
        store, series = Store(database), SeriesStore(database)
        assert {state.task_id for _, state in store.list_tasks()} == {*map(name_of, range(4)), LONG}
        for _, state in store.list_tasks():
            entries = store.read_entries(state.task_id)
            assert [entry.seq for entry in entries] == list(range(1, state.last_seq + 1))
            assert [entry.is_last for entry in entries].index(True) == state.last_seq - 1
            points = [entry.seq for entry in entries if entry.metrics and "train_loss" in entry.metrics]
            assert [point.seq for point in series.every_point(state.task_id, "train_loss")] == points
        assert len(store.read_entries(name_of(3))) == 30
        assert len(store.read_entries(LONG)) == 3 * 29 + 1
    finally:
        database.close()


@pytest.mark.parametrize("rate", [None, 200])
async def test_the_load_counts_what_is_answered_and_what_is_not(rate: float | None) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            asked += 1
            status = b"503 No" if asked % 5 == 0 else b"200 OK"
            for piece in (b"HTTP/1.1 " + status, b"\r\nContent-Le", b"ngth: 4\r\n\r\nye", b"s!"):
                writer.write(piece)
                await asyncio.sleep(0.001)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/x?y=1"
        if rate is None:
            found = await without_pause(url, connections=2, seconds=0.4)
        else:
            found = await asyncio.to_thread(at_fixed_times, url, rate, 0.4)
        await asyncio.sleep(0.05)
    assert found.requests == asked > 3
    assert found.failed == asked // 5
    assert 3 < found.p50 <= found.p99 <= found.worst
