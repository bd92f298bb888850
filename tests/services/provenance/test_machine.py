"""The devices of a run are all that it has, with what the driver says of each."""

from __future__ import annotations

from services.devices import Gpu
from services.provenance.machine import devices

GPUS = [Gpu(f"cuda:{number}", model="H100", memory_total=80, memory_used=number) for number in range(2)]


def test_each_of_several_gpus_is_named() -> None:
    assert devices("cuda:0,1", GPUS) == [
        {"device": "cuda:0", "model": "H100", "memory_total": 80},
        {"device": "cuda:1", "model": "H100", "memory_total": 80},
    ]


def test_what_no_driver_knows_has_its_name_alone() -> None:
    assert devices("cpu", GPUS) == [{"device": "cpu"}]
    assert devices("cuda:7", GPUS) == [{"device": "cuda:7"}]
