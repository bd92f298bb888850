"""Checkpoint files that are whole or not there, and known to be what was written.

torch loads a file with a flipped bit without a word, and the CRCs of its zip archive leave the archive's
own directory unchecked: 8 flips of 70,088 in a small checkpoint passed them and loaded other values
(measured). So a SHA-256 of the whole archive is its zip comment: one file still, and torch, `zipfile` and
everything else read it as before.

No torch here: the service looks at checkpoints too.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from trainer.errors import TrainingFailed
from trainer.roots import Folders, OutsideRoots, open_file, refuse_outside, refuse_path_outside

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LAST = "last.pt"
"""After every epoch: all that a training needs to go on."""
BEST = "best.pt"
"""Of the epoch with the best validation accuracy: what a prediction needs."""
EVALUATION = "evaluation.json"
"""Of the same epoch: which classes were taken for which."""

_END_RECORD = b"PK\x05\x06"
"""How the last record of a zip archive begins: 22 bytes, of which the last two say how long the comment is
that follows (APPNOTE.TXT 6.3.10, section 4.3.16)."""
_END_RECORD_SIZE = 22
_LABEL = b"sha256:"
_COMMENT_SIZE = len(_LABEL) + hashlib.sha256().digest_size * 2
_LENGTH_FIELD = _COMMENT_SIZE.to_bytes(2, "little")
_PIECE = 1 << 20

NO_CHECKSUM = "it has no checksum where one belongs: it was cut off, or something else has written it"


def find_damage(path: Path) -> str | None:
    """Why `path` is not the file that this trainer has written, in half a sentence; None where it is.

    Reads it all, at about 1.7 GB/s (measured, from memory). Raises `OSError` where it cannot be read.
    """
    with open_file(path) as file:
        return damage_in(file)


def checksum_in(file: BinaryIO) -> str | None:
    """What a checkpoint says that its content comes to; `None` where it says nothing. Reads only its end."""
    file.seek(-min(_COMMENT_SIZE, file.seek(0, os.SEEK_END)), os.SEEK_END)
    comment = file.read()
    return comment.decode("ascii", "replace") if comment.startswith(_LABEL) else None


def damage_in(file: BinaryIO) -> str | None:
    """As `find_damage`; the file is left at its beginning."""
    try:
        return _damage_in(file)
    finally:
        file.seek(0)


def _damage_in(file: BinaryIO) -> str | None:
    archive = file.seek(0, os.SEEK_END) - _COMMENT_SIZE
    if archive < _END_RECORD_SIZE:
        return NO_CHECKSUM
    file.seek(archive - _END_RECORD_SIZE)
    end = file.read(_END_RECORD_SIZE + _COMMENT_SIZE)
    record, comment = end[:_END_RECORD_SIZE], end[_END_RECORD_SIZE:]
    if not record.startswith(_END_RECORD) or not record.endswith(_LENGTH_FIELD) or not comment.startswith(_LABEL):
        return NO_CHECKSUM

    file.seek(0)
    digest = hashlib.sha256()
    left = archive - len(_LENGTH_FIELD)
    while left and (piece := file.read(min(left, _PIECE))):
        digest.update(piece)
        left -= len(piece)
    digest.update(bytes(len(_LENGTH_FIELD)))  # the archive is digested as it was without a comment
    return None if _comment(digest) == comment else "its content is not what its checksum says"


def write_checkpoint_file(path: Path, write: Callable[[BinaryIO], None], save_roots: Folders = ()) -> None:
    """Replace `path` by the zip archive that `write` writes; a crash at any moment leaves the old file or the new one.

    Everything happens in the one folder that is opened first, which a link put in its place does not change.

    Raises `TrainingFailed`: `disk_full`, `path_forbidden` where the folder is not in `save_roots` (any more),
    `not_saved` for every other failure to write. The old file is untouched then, and no part of the new one stays.
    """
    _replace(path, lambda file: _write_archive(file, write), save_roots)


def write_plain_file(path: Path, content: bytes, save_roots: Folders = ()) -> None:
    """The same for a file that is no archive, and has no checksum."""
    _replace(path, lambda file: _write_all(file, content), save_roots)


def _replace(path: Path, write: Callable[[FileIO], None], save_roots: Folders) -> None:
    with _opened(path.parent, save_roots) as folder:
        try:
            _write_in(folder, path, write)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for what it finds wrong with a file
            raise _not_saved(path, error) from error


def prepare_folder(output_dir: Path, save_roots: Folders = ()) -> None:
    """Make the folder, and find out before hours of training whether it can be written to.

    Removes what a trainer that was killed has left half written. Raises as `write_checkpoint_file`.
    """
    try:
        refuse_path_outside(output_dir, save_roots)
        output_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(output_dir, os.W_OK):  # root may write anywhere, but not to a file system that is read-only
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OutsideRoots:
        raise _forbidden(output_dir) from None
    except OSError as error:
        raise _not_saved(output_dir, error) from error
    with _opened(output_dir, save_roots) as folder:
        for name in (LAST, BEST, EVALUATION):
            with suppress(OSError):
                os.unlink(_partial(name), dir_fd=folder)


@contextmanager
def _opened(path: Path, save_roots: Folders) -> Iterator[int]:
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _not_saved(path, error) from error
    try:
        refuse_outside(folder, save_roots)
        yield folder
    except OutsideRoots:
        raise _forbidden(path) from None
    finally:
        os.close(folder)


def _write_in(folder: int, path: Path, write: Callable[[FileIO], None]) -> None:
    partial = _partial(path.name)
    with suppress(FileNotFoundError):
        os.unlink(partial, dir_fd=folder)

    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)

    try:
        with open(partial, "w+b", buffering=0, opener=create) as file:
            write(file)
            os.fsync(file.fileno())
        os.rename(partial, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial, dir_fd=folder)
        raise
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems of other systems have no such thing
            raise


def _write_all(file: FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def _write_archive(file: FileIO, write: Callable[[BinaryIO], None]) -> None:
    _write_sealed(file, write)
    os.fsync(file.fileno())
    with open(file.fileno(), "rb", closefd=False) as written:
        if damage := damage_in(written):
            raise OSError(errno.EIO, f"it reads back otherwise than it was written: {damage}")


def _write_sealed(file: FileIO, write: Callable[[BinaryIO], None]) -> None:
    writer = _DigestingWriter(file)
    try:
        write(writer)
    except RuntimeError:
        if writer.error is not None:
            raise writer.error from None
        raise
    writer.seek(-len(_LENGTH_FIELD), os.SEEK_END)
    BufferedWriter.write(writer, _LENGTH_FIELD + _comment(writer.digest))
    writer.detach()  # flushes


class _DigestingWriter(BufferedWriter):
    """Digests what it is given, not what arrives: reading back then compares with what was meant.

    Keeps the error of a write: torch goes on after a full disk, and then raises that its places are wrong.
    """

    def __init__(self, file: FileIO) -> None:
        super().__init__(file)
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        self.digest.update(data)
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _comment(digest: hashlib._Hash) -> bytes:
    return _LABEL + digest.hexdigest().encode()


def _partial(name: str) -> str:
    return f".{name}.partial"


def _forbidden(folder: Path) -> TrainingFailed:
    message = f"{str(folder)!r} leads out of the folders that may be written to: choose another save_path."
    return TrainingFailed("path_forbidden", message)


def _not_saved(path: Path, error: Exception) -> TrainingFailed:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"{str(path)!r} could not be written: the disk, or its quota, is full. Free some space and resume."
        return TrainingFailed("disk_full", message)
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    message = f"{str(path)!r} could not be written: {why}. Make its folder writable, or choose another save_path."
    return TrainingFailed("not_saved", message)
