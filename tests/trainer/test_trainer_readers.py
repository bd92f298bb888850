"""Processes that read images: the same batches as without them, and nobody left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from tests.trainer.helpers import logger_and_lines, never, request_for, same, split_of, write_digits, write_images
from trainer.checkpoint import read_checkpoint
from trainer.checkpoint_file import LAST
from trainer.data import batches, epoch_order, group
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.framing import Augmented, Central
from trainer.loop import train
from trainer.readers import MOST_READERS, Readers, readers_for
from trainer.split import Split


def there(readers: Readers) -> Readers:
    """Started, and waiting for work."""
    readers.start()
    deadline = time.monotonic() + 60
    while not readers.are_there(never):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return readers


@pytest.fixture
def readers() -> Iterator[Readers]:
    readers = there(Readers(2, budget=10**7, largest=16))
    yield readers
    readers.close()


def processes() -> list[psutil.Process]:
    """The readers of this process: children of the program that has forked them."""
    server = psutil.Process().children()
    found = [each for each in psutil.Process().children(recursive=True) if each not in server]
    return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]


def assert_ended(begun: list[psutil.Process]) -> None:
    """Also those that have lost the program that forked them, which `processes` does not see."""
    assert begun
    _, alive = psutil.wait_procs(begun, timeout=20)
    assert not alive


def loaded(split: Split, readers: Readers | None, *, size: int = 16, epoch: int = 1) -> list[tuple[Tensor, Tensor]]:
    order = epoch_order(len(split.paths), seed=1, epoch=epoch, shuffle=True)
    frame = Augmented(size, hflip=True, seed=1, epoch=epoch)
    groups = group([index for index in order if index not in split.left_out], 8)
    read = batches(split, groups, frame, image_size=size, should_stop=never, whole_size=16, readers=readers)
    return list(read)


def assert_same(ones: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> None:
    for (images, targets), (its_images, its_targets) in zip(ones, others, strict=True):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, its_images)
        assert torch.equal(targets, its_targets)


def test_batches_and_warnings_are_those_of_one_process(tmp_path: Path, readers: Readers) -> None:
    write_images(tmp_path, {"cat": 31, "dog": 30}, size=20)
    for number in (1, 7, 20):
        (tmp_path / f"cat/{number:03}.png").write_bytes(b"broken")
    found = {}
    for reading in (None, readers):
        logger, said = logger_and_lines()
        split = split_of(tmp_path, logger, max_unreadable_share=0.5)
        epochs = [loaded(split, reading, size=size, epoch=epoch) for epoch, size in ((1, 8), (2, 16), (3, 16))]
        found[reading is readers] = [batch for epoch in epochs for batch in epoch], said.at("WARNING")
    assert len(found[True][1]) == 3
    assert found[True][1] == found[False][1]
    assert_same(found[True][0], found[False][0])


def test_they_take_over_once_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.WORTH_S", 0)
    logger, said = logger_and_lines()
    split = split_of(write_images(tmp_path, {"cat": 40, "dog": 40}), logger)
    readers, groups = Readers(2, budget=10**7, largest=16), group(split.indices, 8)

    def read(by: Readers | None) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(split, groups, Central(16), image_size=16, should_stop=never, readers=by)

    try:
        found = []
        for number, batch in enumerate(read(readers)):
            found.append(batch)
            assert readers.is_started == (number > 0)
            if number == 4:
                there(readers)
        assert readers.kept[0] == 40  # of the five batches that were left
    finally:
        readers.close()
    assert [line.partition("starting")[2] for line in said.messages] == [" 2 processes that read"]
    assert_same(found, list(read(None)))


def test_they_are_not_started_for_what_is_read_in_no_time(tmp_path: Path) -> None:
    split = split_of(write_images(tmp_path, {"cat": 40, "dog": 40}))
    readers = Readers(2, budget=10**7, largest=16)
    assert_same(loaded(split, readers), loaded(split, None))
    assert not readers.is_started


def test_an_image_is_kept_by_one_of_them(tmp_path: Path, readers: Readers) -> None:
    split = split_of(write_images(tmp_path, {"cat": 20, "dog": 20}))
    assert readers.kept == (0, 0)
    loaded(split, readers)
    kept = readers.kept
    assert kept[0] == 40
    for epoch in (2, 3, 4):
        loaded(split, readers, epoch=epoch)
    assert readers.kept == kept


def test_a_file_that_has_changed_is_read_anew(tmp_path: Path, readers: Readers) -> None:
    split = split_of(write_images(tmp_path, {"cat": 8, "dog": 8}))
    loaded(split, readers)
    target = tmp_path / "dog/000.png"
    target.write_bytes((tmp_path / "cat/000.png").read_bytes())
    os.utime(target, ns=(1, 1))
    assert_same(loaded(split, readers), loaded(split, None))


@pytest.mark.parametrize("budget", [0, 3_000])
def test_what_does_not_fit_is_read_again(tmp_path: Path, budget: int) -> None:
    split = split_of(write_images(tmp_path, {"cat": 10, "dog": 10}))
    readers = there(Readers(2, budget=budget, largest=16))
    try:
        for epoch in (1, 2):
            assert_same(loaded(split, readers, epoch=epoch), loaded(split, None, epoch=epoch))
        assert readers.kept[1] <= budget
    finally:
        readers.close()


def test_a_training_is_the_same_bit_for_bit_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_digits(tmp_path / "data", training=12, validation=4, classes=2)
    options = {"progressive_resizing": 0.5, "trivial_augment": True, "random_erasing": 0.3, "learning_rate": "auto"}
    contents, said = [], []
    for count in (0, 2):
        monkeypatch.setattr("trainer.run.readers_for", lambda _device, workers, count=count: count)
        monkeypatch.setattr("trainer.run.Readers", lambda *arguments: there(Readers(*arguments)))
        logger, lines = logger_and_lines()
        output_dir = tmp_path / f"run {count}"
        request = request_for(root, num_epochs=3, image_size=64, **options)
        train(request, output_dir=output_dir, device="cpu", logger=logger, should_stop=never)
        with (output_dir / LAST).open("rb") as file:
            contents.append(read_checkpoint(file))
        said.append([line for line in lines.messages if "finished" not in line and "Step" not in line])
    assert same(*contents)
    assert said[0] == said[1]
    assert "Decoded images kept in memory: 32 of 32 (0 MiB)" in said[1]
    assert not processes()


def test_one_that_is_killed_fails_the_training_with_what_to_do(tmp_path: Path, readers: Readers) -> None:
    split = split_of(write_images(tmp_path, {"cat": 40, "dog": 40}))
    read = batches(split, group(split.indices, 8), Central(16), image_size=16, should_stop=never, readers=readers)
    next(read)
    begun = processes()
    begun[0].kill()
    with pytest.raises(TrainingFailed, match="lower cache_mb") as failure:
        list(read)
    assert failure.value.reason == "out_of_memory"
    assert_ended(begun)
    assert_same(loaded(split, readers), loaded(split, None))  # this process goes on by itself


def test_who_breaks_off_leaves_no_process(tmp_path: Path, readers: Readers) -> None:
    split = split_of(write_images(tmp_path, {"cat": 40, "dog": 40}))
    read = batches(split, group(split.indices, 8), Central(16), image_size=16, should_stop=never, readers=readers)
    next(read)
    begun = processes()
    assert len(begun) == 2
    read.close()  # type: ignore[attr-defined]
    assert_ended(begun)


def test_a_stop_does_not_wait_for_an_image(tmp_path: Path, readers: Readers) -> None:
    split = split_of(write_images(tmp_path, {"cat": 4, "dog": 4}))
    loaded(split, readers)
    begun = processes()
    for process in begun:
        process.suspend()  # an image that takes for ever
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    with pytest.raises(TrainingStopped):
        list(batches(split, [[0, 1]], Central(16), image_size=16, should_stop=asked.is_set, readers=readers))
    assert_ended(begun)


def test_who_stops_all_processes_stops_the_training_alone(tmp_path: Path, readers: Readers) -> None:
    """The supervisor of a process tells each of its descendants to end."""
    split = split_of(write_images(tmp_path, {"cat": 40, "dog": 40}))
    asked = threading.Event()
    read = batches(
        split, group(split.indices, 8), Central(16), image_size=16, should_stop=asked.is_set, readers=readers
    )
    next(read)
    for process in psutil.Process().children(recursive=True):
        process.terminate()
    for _ in range(4):
        next(read)
    assert len(processes()) == 2
    asked.set()
    for process in processes():
        process.kill()
    with pytest.raises(TrainingStopped):
        list(read)


@contextmanager
def killed_as_they_begin(readers: Readers) -> Iterator[None]:
    before = psutil.Process().children()
    readers.start()
    (server,) = (each for each in psutil.Process().children() if each not in before)
    server.kill()
    while server.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    yield


def test_a_stop_while_they_begin_is_a_stop() -> None:
    readers = Readers(2, budget=0, largest=16)
    with killed_as_they_begin(readers), pytest.raises(TrainingStopped):
        readers.are_there(lambda: True)
    assert not readers.is_started


@contextmanager
def few_descriptors(_: Readers) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 3, before[1]))  # enough for an image, and for one pair
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("trouble", [killed_as_they_begin, few_descriptors])
def test_where_they_cannot_begin_the_training_reads_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Readers], AbstractContextManager[None]]
) -> None:
    monkeypatch.setattr("trainer.data.WORTH_S", 0)
    logger, said = logger_and_lines()
    split = split_of(write_images(tmp_path, {"cat": 40, "dog": 40}), logger)
    readers = Readers(2, budget=10**7, largest=16)
    with trouble(readers), closing(readers):
        for epoch in (1, 2):
            assert_same(loaded(split, readers, epoch=epoch), loaded(split, None, epoch=epoch))
        assert not readers.is_started
    (warning,) = said.at("WARNING")
    assert "reads on alone" in warning
    assert readers.trouble in warning
    assert not processes()


@pytest.mark.parametrize("groups", [[], [[], []], [[], [0], []]])
def test_a_share_may_be_empty(tmp_path: Path, readers: Readers, groups: list[list[int]]) -> None:
    split = split_of(write_images(tmp_path, {"cat": 4, "dog": 4}))
    read = batches(split, groups, Central(16), image_size=16, should_stop=never, readers=readers)
    assert [len(targets) for _, targets in read] == [len(indices) for indices in groups]


class Odd(Exception):
    """Cannot be made anew of what it says of itself."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Raising:
    """A frame with a mistake."""

    what: str

    def __call__(self, _image_CHW: Tensor, _index: int) -> Tensor:  # noqa: N803
        if self.what == "odd":
            raise Odd(1, "odd")
        error = ValueError("holds a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error


@pytest.mark.parametrize(("what", "text"), [("odd", "Odd"), ("lock", "holds a lock")])
def test_a_mistake_in_one_of_them_is_raised_here_whatever_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, text: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    split = split_of(write_images(tmp_path, {"cat": 4, "dog": 4}))
    readers = there(Readers(2, budget=0, largest=16))
    try:
        with pytest.raises(RuntimeError, match=text):
            next(batches(split, [[0, 1]], Raising(what), image_size=16, should_stop=never, readers=readers))
    finally:
        readers.close()


def test_thousands_of_broken_images_hold_nobody_up(tmp_path: Path) -> None:
    """What is said of them does not fit into a connection, nor do the jobs that follow."""
    (tmp_path / "cat").mkdir()
    for number in range(2500):
        (tmp_path / "cat" / f"{number:0120}.png").write_bytes(b"broken")
    readers = there(Readers(1, budget=0, largest=16))
    split = split_of(tmp_path)
    try:
        for _, errors in readers.read(split, [split.indices] * 4, Central(16), size=16, at_least=32, should_stop=never):
            assert len(errors) == 2500
    finally:
        readers.close()


PROGRAM = """
import logging, sys
from pathlib import Path
from tests.trainer.helpers import never, split_of
from trainer.data import batches
from trainer.framing import Central
from tests.trainer.test_trainer_readers import there
from trainer.readers import Readers

if __name__ == "__main__":
    split = split_of(Path(sys.argv[1]))
    readers = there(Readers(2, budget=10**6, largest=16))
    read = batches(split, [[0, 1]] * 50, Central(16), image_size=16, should_stop=never, readers=readers)
    next(read)
    print("reading", flush=True)
    sys.stdin.read()
"""


def test_they_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", {"cat": 4, "dog": 4})
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(program), str(data)], env=environment, text=True, **pipes) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "reading\n"
        begun = psutil.Process(trainer.pid).children(recursive=True)
        assert len(begun) == 3  # and the program that has forked them
        trainer.send_signal(signal.SIGKILL)
    assert_ended(begun)


def test_on_the_cpu_the_training_reads_by_itself() -> None:
    assert readers_for(torch.device("cpu"), workers=1) == 0
    assert 1 <= readers_for(torch.device("cuda:0"), workers=1) <= MOST_READERS
    assert readers_for(torch.device("cuda:0"), workers=10**6) == 1
