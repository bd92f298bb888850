"""Whether a file can be what a training is to start from, before it waits for a device. No torch here.

That the weights fit the network shows once torch has read them. Seen before is what lets every training fail: a file
that torch would not read, or one of this trainer's checkpoints of another network, which names its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from pickletools import genops
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from models.schemas import FieldProblem, TrainingRequest
from trainer.catalogue import find_network
from trainer.roots import OutsideRoots, Roots, open_file

_ARCHIVE = b"PK\x03\x04"
"""How the files of `torch.save` begin since torch 1.6."""
_OLDER = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How they began before: a pickle, in the one protocol that torch reads safely, of torch's magic number."""
_CONTENT, _SCRIPT = "/data.pkl", "/constants.pkl"
_MOST_DIRECTORY = 8_000_000
"""Bytes that say what is in an archive; those of a large network with its optimizer are ten times fewer."""
_MOST_PICKLE = 1_000_000
"""Bytes of a pickle, without its tensors, that are searched; half of it would be much for a large network."""
_REQUEST = b"X\x07\x00\x00\x00request"
"""The key, as torch writes a text for the first time."""
_BROKEN = (OSError, EOFError, RuntimeError, ValueError, KeyError, BadZipFile, zlib.error)
"""What `zipfile` and `pickletools` raise for content that is none."""


def weight_problems(request: TrainingRequest, roots: Roots) -> list[FieldProblem]:
    """What is wrong with a `weight_path` that can be opened; empty is good."""
    path = request.weight_path
    if not path:
        return []
    try:
        file = open_file(Path(path), roots.weights)
    except (OSError, ValueError, OutsideRoots):
        return []  # told by the trainer's own check
    with file:
        is_readable, network = _look_into(file)
    if not is_readable:
        message = (
            f"weight_path {path!r} is no file of weights that torch.save has written, or is damaged: save "
            "network.state_dict() with torch.save and use that."
        )
    elif network is not None and network != request.model:
        message = (
            f"weight_path {path!r} has the weights of {network}, not of {request.model}: set model to {network}, "
            "choose another file, or leave it empty to start without."
        )
    else:
        return []
    return [FieldProblem(field="weight_path", code="bad_weights", message=message)]


def _look_into(file: BinaryIO) -> tuple[bool, str | None]:
    """Whether torch may read it, and the network that a checkpoint of this trainer is of."""
    try:
        begin = file.read(len(_OLDER))
        if begin == _OLDER:
            return True, None
        if not begin.startswith(_ARCHIVE):
            return False, None
        with _Sparing(file.fileno()) as sparing, ZipFile(sparing) as archive:
            contents = [entry for entry in archive.infolist() if entry.filename.endswith(_CONTENT)]
            if not contents or any(name.endswith(_SCRIPT) for name in archive.namelist()):
                return False, None
            return True, _network_of(archive.read(contents[0])) if contents[0].file_size <= _MOST_PICKLE else None
    except _BROKEN:
        return False, None


class _Sparing(BufferedReader):
    """For `zipfile`, which reads as much at once as a file says that its directory has."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(open(descriptor, "rb", buffering=0, closefd=False))  # noqa: SIM115 - closed with this one

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MOST_DIRECTORY:
            raise BadZipFile("its directory is too large")
        return super().read(size)


def _network_of(pickled: bytes) -> str | None:
    """`model` of the `request` in a checkpoint. The pickle is read as a list of operations; none is carried out.

    It is read from there on only: reading the weights before it takes half a second where they are many.
    """
    begin = pickled.find(_REQUEST)
    if begin < 0:
        return None
    is_request = False
    for (_, key), (name, value) in pairwise(_operations(pickled[begin:])):
        if key == "request" and name == "EMPTY_DICT":
            is_request = True
        elif is_request and key == "model" and isinstance(value, str) and find_network(value):
            return value
    return None


def _operations(pickled: bytes) -> Iterator[tuple[str, Any]]:
    """Each operation with its argument; one that repeats an earlier text, with the text."""
    texts: dict[Any, Any] = {}
    last = None
    for code, argument, _ in genops(pickled):
        if code.name.endswith("PUT"):
            texts[argument] = last
            continue
        last = texts.get(argument) if code.name.endswith("GET") else argument
        yield code.name, last
