"""Whether checkpoints load, asked of a process that has torch: the driver of the crash test has not.

    python -m benchmarks.crash.checkpoints

reads a path a line, and answers each with a line of JSON: `problem` (null: it loads) and `epoch`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.crash.ledger import Ledger, Promise

REPOSITORY = Path(__file__).resolve().parents[2]
LAST, BEST = "last.pt", "best.pt"


class Loader:
    """One such process, and what it has found sound already."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._sound: dict[Path, tuple[int, int]] = {}

    @classmethod
    async def start(cls) -> Loader:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "benchmarks.crash.checkpoints"]
        return cls(await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stdin=pipe, stdout=pipe))

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def load(self, path: Path) -> dict[str, Any]:
        """`problem` and `epoch` of a file."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n".encode())
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer

    async def check(self, ledger: Ledger) -> None:
        """Every checkpoint of every run; and none may be older than what viewers have been told is saved."""
        for task in [task for task in ledger.tasks.values() if task.is_built_in]:
            saved = task.epochs_finished
            for path in (task.output_dir / LAST, task.output_dir / BEST):
                try:
                    version = _version(path)
                    if self._sound.get(path) == version:
                        continue
                    found = await self.load(path)
                    if found["problem"] is None:
                        self._sound[path] = version
                except FileNotFoundError:
                    found = {"problem": f"epoch {saved} was saved, and there is no file" if saved else None}
                if not task.output_dir.is_dir():  # its client has removed it by now
                    break
                if found["problem"] is None and path.name == LAST and found.get("epoch", saved) < saved:
                    found["problem"] = f"it is of epoch {found['epoch']}, after epoch {saved} was saved"
                if found["problem"] is not None:
                    ledger.break_(Promise.CHECKPOINTS, f"{path}: {found['problem']}")


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def main() -> None:
    import torch

    from trainer.checkpoint import load_network

    for line in sys.stdin:
        path = line.removesuffix("\n")
        answer: dict[str, Any] = {"problem": None}
        try:
            load_network(path)
            answer["epoch"] = torch.load(path, map_location="cpu", weights_only=True)["epoch"]
        except Exception as error:  # noqa: BLE001 - whatever it is, the file does not load
            answer["problem"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
