"""What it costs that a training is watched through its log lines.

    python -m benchmarks.capture [--rounds 5] [--peers PYTHON] [--only trackers] [--quick]

The published document claims: CPU under 1 %, memory about 100 KB a task. Printed here, from a real
training of resnet18 on handwritten digits in this process:

- CPU seconds in the handler (on the training's thread) and in the writer thread, as a share of the
  training's CPU seconds; and the training's time with the handler against without, alternated;
- memory of a running task whose ring of lines is full, and of a viewer that follows one;
- time per line, for lines that match a format and for others: parsing alone, and the whole way to the
  store and the ring;
- time per value until it is on disk and another process has read it, against TensorBoard, MLflow on SQLite, W&B
  offline and Trackio, which log the same values (`benchmarks/tracking`). What is neither installed here nor for the
  interpreter that `--peers` names is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from app_refactored import build_service
from benchmarks.figures import load_after, machine
from benchmarks.tracking import race
from client.demo.digits import digit_folders
from models.schemas import TrainingRequest
from services.executors.thread import ThreadExecutor
from services.log_queue import RING_SIZE
from services.parsing import LineParser
from services.task_state import TaskState
from services.training_service import TrainingLogHandler, TrainingService
from settings import Settings

MATCHING = (
    "Epoch [3/10] started",
    "Epoch [3/10], Step [40/180], Train Loss: 0.5234, 312.4 images/s, ETA: 12s",
    "Train Loss: 0.5234, Train Accuracy: 82.45%",
    "Validation Loss: 0.6123, Validation Accuracy: 78.92%",
    "Validation Top-k Accuracy: {'top1': 78.92, 'top3': 92.34, 'top5': 96.78}",
)
OTHER = (
    "Loading checkpoint shards from /data/models/resnet18/epoch_3_acc_82.pth",
    "UserWarning: the given array is not writeable, and this operation will copy 3 of its 12 parts",
    "optimizer: AdamW (lr: 0.001, betas: (0.9, 0.999), weight_decay: 0.01)",
)
TASKS = 40
VIEWERS = 1000
LINES = 5000


class TimedHandler(TrainingLogHandler):
    """Counts the CPU seconds that its own work takes of the training's thread."""

    seconds = 0.0
    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        started = time.thread_time()
        super().emit(record)
        self.seconds += time.thread_time() - started
        self.lines += 1


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="trainings with and without the handler, each")
    parser.add_argument("--steps", type=int, default=3000, help="that each tracker logs in a row")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="interpreter that has other trackers")
    parser.add_argument("--only", choices=("training", "trackers"), help="one half; default: both")
    parser.add_argument("--quick", action="store_true", help="one round, 300 steps")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.steps = 1, 300
    print(machine("sqlalchemy", "torch"))
    if arguments.only != "trackers":
        measure_here(arguments.rounds)
    if arguments.only != "training":
        print("Time until a value is on disk and read by another process:")
        race.compare(arguments.rounds, arguments.steps, arguments.peers)
    print(load_after())


def measure_here(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        service = build_service(Settings(state_dir=folder / "state"), ThreadExecutor())
        try:
            measure_lines(service)
            measure_memory(service)
            measure_training(service, folder, rounds)
        finally:
            service.close()


def measure_lines(service: TrainingService) -> None:
    print(f"Time per line, {LINES} lines each:")
    for kind, lines in (("matching", MATCHING), ("other", OTHER)):
        parser, task_id = LineParser(), new_task(service)
        handler = TrainingLogHandler(task_id, service)
        records = [logging.LogRecord("trainer", logging.INFO, "", 0, line, None, None) for line in lines]
        parse = timed(lambda parser=parser, lines=lines: [parser.parse(line) for line in lines])  # type: ignore[misc]
        emit = timed(lambda handler=handler, records=records: [handler.emit(record) for record in records])  # type: ignore[misc]
        before = writer_cpu(service)
        service.get_logs(task_id)
        stored = len(service.store.read_entries(task_id))
        print(
            f"  {kind:9} parse {parse / len(lines) * 1e6:6.1f} us   handler {emit / len(lines) * 1e6:6.1f} us"
            f"   ({stored} lines stored, writer {writer_cpu(service) - before:.2f} CPU s after the last one)"
        )


def timed(call: Callable[[], object]) -> float:
    """Median CPU seconds of one call on this thread."""
    times = []
    for _ in range(LINES // 5):
        started = time.thread_time()
        call()
        times.append(time.thread_time() - started)
    return statistics.median(times)


def measure_memory(service: TrainingService) -> None:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    task_ids = [new_task(service) for _ in range(TASKS)]
    for task_id in task_ids:
        handler = TrainingLogHandler(task_id, service)
        for number in range(RING_SIZE):
            handler.emit(logging.LogRecord("t", logging.INFO, "", 0, MATCHING[number % len(MATCHING)], None, None))
        service.get_logs(task_id)
    task = (tracemalloc.get_traced_memory()[0] - before) / TASKS

    async def follow() -> float:
        before = tracemalloc.get_traced_memory()[0]
        streams = [service.stream_logs(task_ids[0], after=RING_SIZE) for _ in range(VIEWERS)]
        waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
        await asyncio.sleep(0.5)
        each = (tracemalloc.get_traced_memory()[0] - before) / VIEWERS
        for each_wait in waiting:
            each_wait.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return each

    viewer = asyncio.run(follow())
    tracemalloc.stop()
    print(f"Memory: {task / 1000:.0f} KB a running task with {RING_SIZE} lines in its ring (document: about 100 KB),")
    print(f"        {viewer / 1000:.1f} KB a viewer that follows it, without its connection")


def measure_training(service: TrainingService, folder: Path, rounds: int) -> None:
    from trainer.loop import train

    train_path, val_path = digit_folders(folder / "digits")
    request = TrainingRequest(
        model="resnet18",
        num_classes=10,
        train_path=str(train_path),
        val_path=str(val_path),
        save_path=str(folder),
        num_epochs=2,
        image_size=32,
        batch_size=64,
        learning_rate=1e-3,
        pretrained=False,
        hflip=False,
    )
    silent = logging.Logger("silent")
    silent.addHandler(logging.NullHandler())
    ratios, shares, lines = [], [], 0
    print(f"Training resnet18 on 1437 images of 32 px, 2 epochs, {rounds} rounds with and without the handler:")
    for number in range(-1, rounds):  # the first one warms up
        walls: dict[bool, float] = {}
        for watched in (False, True) if number % 2 else (True, False):
            output_dir = folder / str(uuid.uuid4())
            logger, handler = silent, None
            if watched:
                logger, handler = logging.Logger("watched"), TimedHandler(new_task(service), service)
                logger.addHandler(handler)
            wall, cpu, writer = time.perf_counter(), time.process_time(), writer_cpu(service)
            train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=lambda: False)
            walls[watched] = time.perf_counter() - wall
            if handler is not None:
                service.get_logs(handler.task_id)
                capture = handler.seconds + writer_cpu(service) - writer
                share, lines = 100 * capture / (time.process_time() - cpu), handler.lines
        if number >= 0:
            ratios.append(walls[True] / walls[False])
            shares.append(share)
            both = f"watched {walls[True]:.2f} s, unwatched {walls[False]:.2f} s"
            print(f"  round {number + 1}: {both}, capture {share:.3f} %")
    print(f"CPU share of log capture, median: {statistics.median(shares):.3f} % of the training ({lines} lines)")
    print("  (document: under 1 %)")
    print(f"Time with the handler against without, median: {statistics.median(ratios):.3f}")


def new_task(service: TrainingService) -> str:
    now, task_id = datetime.now(UTC), str(uuid.uuid4())
    state = TaskState(task_id=task_id, request={}, output_dir="", device="cpu", created_at=now, updated_at=now)
    service.create_log_queue(task_id, state)
    return task_id


def writer_cpu(service: TrainingService) -> float:
    """CPU seconds of the writer thread so far."""
    ident = service._writer._thread.ident
    assert ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


if __name__ == "__main__":
    main()
