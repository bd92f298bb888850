"""Whether checkpoints load, asked of a process that has torch: the driver of the crash test has not.

    python -m benchmarks.crash.checkpoints

reads a path a line, and answers each with a line of JSON: `problem` (null: it loads) and `epoch`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.crash.ledger import Ledger, Promise

REPOSITORY = Path(__file__).resolve().parents[2]
LAST, BEST = "last.pt", "best.pt"


class Found(NamedTuple):
    """`problem` is `None` for a checkpoint that loads; `epoch` is the one after which it was written."""

    problem: str | None
    epoch: int = 0


def look_at(path: Path) -> Found:
    """Load a checkpoint, in this process."""
    import torch

    from trainer.checkpoint import load_network

    try:
        load_network(path)
        return Found(None, torch.load(path, map_location="cpu", weights_only=True)["epoch"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the file does not load
        return Found(f"{type(error).__name__}: {error}")


class Loader:
    """A process that looks at checkpoints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> Loader:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "benchmarks.crash.checkpoints"]
        return cls(await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stdin=pipe, stdout=pipe))

    async def load(self, path: Path) -> Found:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n".encode())
        return Found(*json.loads(await self._process.stdout.readline()))

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


class Checkpoints:
    """Looks at every checkpoint of every run, each version of a file once.

    Args:
        load: loads a file, and says what it found.
    """

    def __init__(self, load: Callable[[Path], Awaitable[Found]]) -> None:
        self._load = load
        self._sound: dict[Path, tuple[int, int]] = {}

    async def check(self, ledger: Ledger) -> None:
        """None may be damaged, or older than what viewers have been told is saved."""
        for task in [task for task in ledger.tasks.values() if task.is_built_in and not task.files_removed]:
            saved = task.epochs_finished
            for path in (task.output_dir / LAST, task.output_dir / BEST):
                problem = await self._problem(path, saved, ledger)
                if problem is not None and not task.files_removed:
                    ledger.break_(Promise.CHECKPOINTS, f"{path}: {problem}")

    async def _problem(self, path: Path, saved: int, ledger: Ledger) -> str | None:
        try:
            version = _version(path)
        except FileNotFoundError:
            return f"epoch {saved} was saved, and there is no file" if saved else None
        if self._sound.get(path) == version:
            return None
        found = await self._load(path)
        ledger.looked_at[Promise.CHECKPOINTS] += 1
        if found.problem is not None:
            return found.problem
        if path.name == LAST and found.epoch < saved:
            return f"it is of epoch {found.epoch}, after epoch {saved} was saved"
        self._sound[path] = version
        return None


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(look_at(Path(line.removesuffix("\n")))), flush=True)


if __name__ == "__main__":
    main()
