"""Who takes part: names, what must be installed, and both sides of each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tracking import readers, writers

LOOK = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"
VERSIONS = "import importlib.metadata, sys; print(*map(importlib.metadata.version, sys.argv[1:]))"


@dataclass(frozen=True)
class Tool:
    """One tracker.

    Attributes:
        packages: what it needs, by its name for pip, which is also that of its module.
        survives: what a value that another process can read has survived by then.
    """

    name: str
    packages: tuple[str, ...]
    open: Callable[[Path], writers.Run]
    count: Callable[[Path], readers.Count]
    survives: str = "kill -9"

    def interpreter(self, candidates: Sequence[str]) -> str | None:
        """The first of these that has what it needs."""
        for python in candidates:
            if subprocess.run([python, "-c", LOOK, *self.packages], check=False).returncode == 0:
                return python
        return None

    def version(self, python: str) -> str:
        return subprocess.check_output([python, "-c", VERSIONS, self.packages[0]], text=True).strip()


SERVICE, CAREFUL = "service", "service-full"
TOOLS = {
    SERVICE: Tool("this service", ("sqlalchemy",), writers.open_service, readers.count_points),
    CAREFUL: Tool(
        "this service, FULL", ("sqlalchemy",), writers.open_careful_service, readers.count_points, "power loss"
    ),
    "tensorboard": Tool(
        "TensorBoard, flushed", ("tensorboard", "torch"), writers.open_tensorboard, readers.count_tensorboard
    ),
    "mlflow": Tool("MLflow, SQLite", ("mlflow",), writers.open_mlflow, readers.count_mlflow, "power loss"),
    "wandb": Tool("W&B, offline", ("wandb",), writers.open_wandb, readers.count_wandb),
    "trackio": Tool("Trackio", ("trackio",), writers.open_trackio, readers.count_trackio),
}
"""Each by its name on the command line."""


def candidates(tool: str, peers: Path | None) -> list[str]:
    """Interpreters to try for a tool, the project's own first; the service has no other."""
    return [sys.executable, *([] if peers is None or tool in (SERVICE, CAREFUL) else [str(peers)])]
