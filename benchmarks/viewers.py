"""What viewers cost a training, and what one that never reads costs the others.

    python -m benchmarks.viewers [--rounds 3]

Starts the real service, then trains resnet18 on handwritten digits again and again: with no viewer, and
with nine that read and one that never does (a socket with a tiny buffer), alternated. Prints images per
second of both, their ratio, and how long after its time stamp a line reached the nine.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from client import TrainingClient
from client.demo.digits import digit_folders
from client.demo.local_service import free_url, service_at

EPOCHS = 3
IMAGES = 1437 * EPOCHS
READERS = 9


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # progress, in a pipe too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    url = free_url()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train_path, val_path = digit_folders(folder / "digits")
        request = {
            "model": "resnet18",
            "num_classes": 10,
            "train_path": str(train_path),
            "val_path": str(val_path),
            "save_path": str(folder / "runs"),
            "num_epochs": EPOCHS,
            "image_size": 32,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "pretrained": False,
            "device": "cpu",
        }
        with service_at(url, folder / "state"):
            compare(url, request, rounds)


def compare(url: str, request: dict[str, Any], rounds: int) -> None:
    run(url, request, watched=False)  # imports torch
    ratios, delays = [], []
    for number in range(rounds):
        rates: dict[bool, float] = {}
        for watched in (False, True) if number % 2 else (True, False):
            rates[watched], seen = run(url, request, watched=watched)
            delays += seen
        ratios.append(rates[True] / rates[False])
        print(f"round {number + 1}: alone {rates[False]:.0f} images/s, with ten viewers {rates[True]:.0f} images/s")
    delays.sort()
    print(f"Throughput with ten viewers, one of which never reads, against none: {statistics.median(ratios):.3f}")
    print(f"Delay of a line at the nine readers: median {1000 * statistics.median(delays):.1f} ms, ", end="")
    print(f"p99 {1000 * delays[int(0.99 * len(delays))]:.1f} ms, {len(delays)} lines")


def run(url: str, request: dict[str, Any], *, watched: bool) -> tuple[float, list[float]]:
    """One training: images a second from its first epoch to its end, and the delays that the readers saw."""
    delays: list[float] = []
    counts: list[int] = []
    with TrainingClient(url) as client:
        task_id = client.start(**request).task_id
        readers = [threading.Thread(target=read, args=(url, task_id, delays, counts)) for _ in range(READERS * watched)]
        for reader in readers:
            reader.start()
        deaf = open_and_never_read(url, task_id) if watched else None
        task = client.wait(task_id)
        for reader in readers:
            reader.join()
        if deaf is not None:
            deaf.close()
        lines = list(client.history(task_id))
    assert task.status == "completed", task
    assert set(counts) <= {len(lines)}, "a reader missed a line"
    first = next(line for line in lines if line.stage == "epoch_start")
    return IMAGES / (lines[-1].timestamp - first.timestamp).total_seconds(), delays


def read(url: str, task_id: str, delays: list[float], counts: list[int]) -> None:
    with TrainingClient(url) as client:
        started, seen = datetime.now(), 0
        for line in client.follow(task_id):
            seen = line.id
            if line.timestamp > started:  # not one that was there before the reader
                delays.append((datetime.now() - line.timestamp).total_seconds())
        counts.append(seen)


def open_and_never_read(url: str, task_id: str) -> socket.socket:
    address = httpx.URL(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.connect((address.host, address.port))
    connection.sendall(
        f"GET /api/v2/training/{task_id}/logs HTTP/1.1\r\nHost: {address.netloc.decode()}\r\n\r\n".encode()
    )
    time.sleep(0.1)
    return connection


if __name__ == "__main__":
    main()
