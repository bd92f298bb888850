"""Several processes of one training on this machine, as `torchrun --standalone` starts them.

torchrun ends the others when one has ended, but what it says of that is a page of its own and always exit status 1.
So its launcher is called from here: whoever watches this process learns from its exit status, and from its last lines,
what they would have learnt from the process that failed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import FAILED, NODE_LOST, PEER_LOST, REASON_OF_STATUS

_STOPPED = frozenset({-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT})
_TAIL_BYTES = 2**16
_PACKAGES = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """How one of the processes ended. `returncode` is as of `subprocess`, `said` the end of what it printed."""

    returncode: int
    said: str = ""


def verdict(ended: Mapping[int, Ended]) -> tuple[int, str]:
    """The exit status of the whole, given the ranks that did not end with 0, and what is left to print.

    Rank 0 prints for itself. One that ended because another had, or that was told to, is no cause unless there is none
    other.
    """

    def weight(rank: int) -> tuple[bool, bool, int]:
        status = ended[rank].returncode
        return status == PEER_LOST, status in _STOPPED, rank

    rank = min(ended, key=weight)
    status, said = ended[rank].returncode, ended[rank].said
    if status == PEER_LOST:
        return FAILED, "ERROR: A process of this training is gone, and nothing is known of its end."
    if rank == 0 or status in _STOPPED:
        return status, ""
    if status in REASON_OF_STATUS:  # it has said why, as rank 0 would have
        return status, next((line for line in reversed(said.splitlines()) if line.startswith("ERROR: ")), said)
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    return status, "\n".join(filter(None, [said, f"ERROR: Worker {rank} {how}, and the training with it."]))


@dataclass
class Ends:
    """How the ranks ended: `lost` are those whose actor is gone, and with it what became of them."""

    ended: dict[int, Ended] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ended) + len(self.lost)

    @property
    def is_failure(self) -> bool:
        return bool(self.lost) or any(each.returncode not in (0, PEER_LOST) for each in self.ended.values())

    @property
    def has_lost_peers(self) -> bool:
        return any(each.returncode == PEER_LOST for each in self.ended.values())

    def conclude(self) -> tuple[int, str]:
        """The exit status, and what is left to print."""
        failed = {rank: each for rank, each in self.ended.items() if each.returncode != 0}
        if self.lost:
            rank, why = min(self.lost.items())
            return NODE_LOST, f"WARNING: Worker {rank} was lost with its node, or killed by Ray: {why}"
        return verdict(failed) if failed else (0, "")


def run_workers(count: int, arguments: list[str]) -> int:
    """Run `python -m trainer` with these arguments `count` times; returns the exit status, or dies as they did."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed").propagate = False
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory(prefix="trainer-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=dict.fromkeys(range(1, count), Std.ALL)),
        )
        try:
            elastic_launch(config, sys.executable)("-P", "-m", "trainer", *arguments)
        except SignalException as stopped:
            return 128 + int(stopped.sigval)
        except ChildFailedError as failed:
            ended = {rank: Ended(each.exitcode, _said(Path(folder), rank)) for rank, each in failed.failures.items()}
        else:
            return 0
    status, text = verdict(ended)
    if text:
        print(text, flush=True)
    if status < 0:  # the same end, for whoever waits for this process
        os.kill(os.getpid(), -status)
    return status if status >= 0 else FAILED


def _said(folder: Path, rank: int) -> str:
    files = sorted(folder.glob(f"*/attempt_*/{rank}/std*.log"))
    texts = (file.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "backslashreplace") for file in files)
    return "\n".join(text.rstrip("\n") for text in texts if text.strip())
