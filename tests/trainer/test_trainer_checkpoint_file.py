"""A checkpoint file is what was written, or it is found out; a write that fails costs nothing that was there."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.helpers import same
from tests.trainer.mounts import ROOT, run_mounted
from trainer.checkpoint_file import BEST, LAST, NO_CHECKSUM, damage_in, find_damage, prepare_folder
from trainer.checkpoint_file import write_checkpoint_file as write_file
from trainer.errors import STATUS_OF_REASON, TrainingFailed

CONTENT: dict[str, Any] = {
    "state_dict": {"weight": torch.arange(12.0).view(3, 4), "steps": torch.tensor(7)},
    "classes": ["cat", "狐狸", "\udcff"],
    "epoch": 3,
    "best": float("-inf"),
}


def saves(content: object) -> Callable[[BinaryIO], None]:
    return lambda file: torch.save(content, file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / LAST
    write_file(path, saves(CONTENT))
    return path.read_bytes()


def test_torch_and_zipfile_read_what_was_written(tmp_path: Path) -> None:
    write_file(tmp_path / LAST, saves(CONTENT))
    assert find_damage(tmp_path / LAST) is None
    assert same(torch.load(tmp_path / LAST, weights_only=True), CONTENT)
    assert same(torch.load(tmp_path / LAST, weights_only=True, mmap=True), CONTENT)
    assert zipfile.ZipFile(tmp_path / LAST).testzip() is None
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_damage_is_found_without_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from trainer.checkpoint_file import find_damage
(Path({str(tmp_path)!r}) / "last.pt").write_bytes(b"nothing")
assert find_damage(Path({str(tmp_path)!r}) / "last.pt")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def refuses(content: bytes) -> bool:
    return damage_in(io.BytesIO(content)) is not None


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_every_flipped_bit_is_found(whole: bytes, data: st.DataObject) -> None:
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert refuses(bytes(flipped))


def test_every_truncation_is_found(whole: bytes) -> None:
    assert not refuses(whole)
    assert all(refuses(whole[:length]) for length in range(len(whole)))
    assert refuses(whole + b"\0")


def test_what_hides_the_checksum_changes_nothing_that_is_loaded(whole: bytes) -> None:
    """Files without a checksum are loaded, as they are somebody else's; damage must not make a checkpoint one of them.

    Only the comment and the record before it can be damaged so, hence all bits and all lengths there.
    """
    tail = range(len(whole) - 200, len(whole))
    damaged = [whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for at in tail for bit in range(8)]
    damaged += [whole[:length] for length in range(len(whole))]
    hidden = [content for content in damaged if damage_in(io.BytesIO(content)) == NO_CHECKSUM]
    assert len(hidden) > len(whole)
    loaded = 0
    for content in hidden:
        try:
            found = torch.load(io.BytesIO(content), weights_only=True)
        except Exception:  # noqa: BLE001 - torch refuses it, with nearly any exception
            continue
        assert same(found, CONTENT)
        loaded += 1
    assert loaded > 0


class _Broken(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (OSError(errno.EIO, "Input/output error"), "not_saved"),
        (RuntimeError("unexpected pos"), "not_saved"),
    ],
)
@pytest.mark.parametrize("place", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes, error: Exception, reason: str, place: str
) -> None:
    (tmp_path / LAST).write_bytes(whole)

    def fail(*_arguments: object, **_named: object) -> None:
        raise error

    def save(file: BinaryIO) -> None:
        torch.save({"epoch": 4}, file)
        if place == "write":
            fail()

    if place != "write":
        monkeypatch.setattr(os, place, fail)
    with pytest.raises(TrainingFailed) as failure:
        write_file(tmp_path / LAST, save)
    assert failure.value.reason == reason
    assert reason in STATUS_OF_REASON
    assert str(tmp_path / LAST) in str(failure.value)
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert (tmp_path / LAST).read_bytes() == whole


def test_what_reads_back_otherwise_is_not_put_in_place(tmp_path: Path, whole: bytes) -> None:
    """A device that loses what it was given: the file is overwritten behind the writer's back."""
    (tmp_path / LAST).write_bytes(whole)

    def save(file: BinaryIO) -> None:
        torch.save(CONTENT, file)
        file.flush()
        with (tmp_path / ".last.pt.partial").open("r+b") as again:
            again.seek(len(whole) // 2)
            again.write(bytes(8))
            again.seek(0)
            again.write(bytes(8))

    with pytest.raises(TrainingFailed, match="reads back otherwise") as failure:
        write_file(tmp_path / LAST, save)
    assert failure.value.reason == "not_saved"
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert (tmp_path / LAST).read_bytes() == whole


def test_an_exception_of_any_kind_leaves_no_part(tmp_path: Path) -> None:
    def save(file: BinaryIO) -> None:
        file.write(b"half")
        raise _Broken

    with pytest.raises(_Broken):
        write_file(tmp_path / LAST, save)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_a_killed_trainer_left_is_no_obstacle(tmp_path: Path) -> None:
    for name in (LAST, BEST):
        (tmp_path / f".{name}.partial").write_bytes(b"half")
    write_file(tmp_path / LAST, saves(CONTENT))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".best.pt.partial", LAST]
    prepare_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_a_link_in_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".last.pt.partial").symlink_to(tmp_path / "precious")
    write_file(tmp_path / LAST, saves(CONTENT))
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / LAST).is_symlink()


def test_a_folder_that_vanished_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="No such file or directory") as failure:
        write_file(tmp_path / "gone" / LAST, saves(CONTENT))
    assert failure.value.reason == "not_saved"


def test_a_file_system_without_a_sync_of_folders_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def files_only(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write_file(tmp_path / LAST, saves(CONTENT))
    assert find_damage(tmp_path / LAST) is None


_WRITE = """
import sys
from pathlib import Path
import torch
from trainer.checkpoint_file import find_damage, prepare_folder, write_checkpoint_file
from trainer.errors import TrainingFailed
path = Path(sys.argv[1], "last.pt")
try:
    prepare_folder(path.parent)
    for kilobytes in (100, 700):
        write_checkpoint_file(path, lambda file: torch.save({"weight": torch.zeros(kilobytes * 256)}, file))
except TrainingFailed as failure:
    print(failure.reason, failure)
print(sorted(entry.name for entry in path.parent.iterdir()))
if path.exists():
    print(find_damage(path), len(torch.load(path, weights_only=True)["weight"]))
"""


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    ended = run_mounted(f"mount -t tmpfs -o size=640k none '{tmp_path}'", ["-c", _WRITE, str(tmp_path)])
    reason, files, last = ended.stdout.splitlines()
    assert reason.startswith("disk_full ")
    assert "Free some space and resume" in reason
    assert files == "['last.pt']"
    assert last == f"None {100 * 256}"


def test_a_folder_that_is_read_only_is_said_before_the_training(tmp_path: Path) -> None:
    (tmp_path / LAST).write_bytes(b"old")
    ended = run_mounted(
        f"mount --bind '{tmp_path}' '{tmp_path}' && mount -o remount,ro,bind '{tmp_path}'",
        ["-c", _WRITE.replace("print(find_damage", "0 and print(find_damage"), str(tmp_path)],
    )
    reason, files = ended.stdout.splitlines()
    assert reason.startswith("not_saved ")
    assert "Make its folder writable" in reason
    assert files == "['last.pt']"
