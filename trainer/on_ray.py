"""The driver of a Ray job: a training's processes, placed by Ray, with the variables that torchrun would set.

`python -m trainer.on_ray SPEC.json`, on storage that all nodes see. The specification has `command` (without one, the
`arguments` of `python -m trainer`), `cwd`, `env`, `output` (file for what rank 0 prints), `workers`, `cpus` and `gpus`
of each, and `grace_s` between SIGTERM and SIGKILL.

Rank 0 writes its lines to `output` itself, and nobody else does meanwhile: no line depends on this driver, or on a
connection. The exit status is that of `trainer.workers.Ends`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from trainer.ray_worker import Worker
from trainer.workers import Ended, Ends

_LOOK_S = 0.5
_TELL_AFTER_S = 5.0
"""How long the cluster may take to have room, before the log says that it is waited for."""
_PATIENCE_S = 120.0
"""How long Ray may take to find out what became of a node, once its peers have lost it."""


class Stopped(Exception):
    """SIGTERM has come: Ray stops the job."""


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stops.append(number))
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    try:
        ends = run(spec, lambda: bool(stops))
    except Stopped:
        return 128 + signal.SIGTERM
    except Exception:
        say(spec, traceback.format_exc())
        raise
    status, text = ends.conclude()
    if text:
        say(spec, text)
    if status < 0:
        if -status == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def say(spec: dict[str, Any], text: str) -> None:
    """Add to the log, of which nobody else writes anything now."""
    with Path(spec["output"]).open("a", encoding="utf-8") as output:
        output.write(f"{text}\n")
        output.flush()
        os.fsync(output.fileno())


def run(spec: dict[str, Any], should_stop: Callable[[], bool]) -> Ends:
    """Place the workers, start them, and wait until all have ended. Raises `Stopped` before they start."""
    count = spec["workers"]
    wanted = {name: spec[key] for name, key in (("CPU", "cpus"), ("GPU", "gpus")) if spec[key]}
    group = placement_group([wanted] * count, strategy="PACK")
    asked, has_told = time.monotonic(), False
    while not group.wait(_LOOK_S):
        if should_stop():
            raise Stopped
        if time.monotonic() - asked > _TELL_AFTER_S and not has_told:
            has_told = True
            needs = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items())
            say(spec, f"Waiting until the cluster has room for {count} worker{'s' * (count > 1)} with {needs} each")
    actor: Any = ray.remote(Worker)
    workers = [
        actor.options(
            max_concurrency=2,
            num_cpus=spec["cpus"],
            num_gpus=spec["gpus"],
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        ).remote()
        for rank in range(count)
    ]
    try:
        addresses = ray.get([worker.free_address.remote() for worker in workers])
        waiting = {
            worker.run.remote(spec, environment(rank, addresses), rank): rank for rank, worker in enumerate(workers)
        }
        return wait_for(waiting, lambda: [worker.stop.remote(spec["grace_s"]) for worker in workers], should_stop)
    except RayError as error:
        return Ends(lost={0: first_line(error)})


def environment(rank: int, addresses: Sequence[tuple[str, int]]) -> dict[str, str]:
    """As torchrun sets it. Each worker has devices of its own, so it is the first one of its place.

    Args:
        addresses: host and a free port of each rank. Those of one host share its memory and its cores.
    """
    hosts = [host for host, _ in addresses]
    if len(hosts) == 1:
        return {}
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(hosts)),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": str(hosts.count(hosts[rank])),
        "MASTER_ADDR": hosts[0],
        "MASTER_PORT": str(addresses[0][1]),
    }


def wait_for(waiting: dict[Any, int], stop: Callable[[], object], should_stop: Callable[[], bool]) -> Ends:
    """Wait for all; once one has failed, or is gone, the others are stopped."""
    ends = Ends()
    is_stopping, patient_until = False, float("inf")
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=_LOOK_S)
        for reference in ready:
            rank = waiting.pop(reference)
            try:
                ends.ended[rank] = Ended(*ray.get(reference))
            except RayError as error:
                ends.lost[rank] = first_line(error)
        if ends.has_lost_peers and patient_until == float("inf"):
            patient_until = time.monotonic() + _PATIENCE_S
        if not is_stopping and (should_stop() or ends.is_failure or time.monotonic() > patient_until):
            is_stopping, patient_until = True, time.monotonic() + _PATIENCE_S
            stop()
        if is_stopping and time.monotonic() > patient_until:
            ends.lost |= dict.fromkeys(waiting.values(), "it does not answer")
            break
    return ends


def first_line(error: Exception) -> str:
    return next(filter(None, (line.strip() for line in str(error).splitlines())), type(error).__name__)


if __name__ == "__main__":
    sys.exit(main())
