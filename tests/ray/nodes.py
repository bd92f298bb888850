"""A Ray cluster on this machine, each node as processes of its own: `python -m tests.ray.nodes PORT`.

A head and two more nodes, with one CPU each, so that two workers are on two nodes, and still find room when one of
these is gone. Prints the address of its dashboard once all are there.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from ray.cluster_utils import Cluster

SMALL = 80 * 2**20
"""Bytes of each object store: nothing is put there."""


def main() -> None:
    port = int(sys.argv[1])
    cluster: Any = Cluster()
    small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": SMALL}
    cluster.add_node(**small, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port)
    for _ in range(2):
        cluster.add_node(**small)
    cluster.wait_for_nodes(timeout=180)
    print(f"http://127.0.0.1:{port}", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
