"""Is the service well, and what can it train?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app_refactored import VERSION
from tests.api.conftest import Dictate, Start, Watch
from tests.running_server import RunningServer


def test_health_counts_what_runs_and_what_waits(
    serve: Callable[..., RunningServer], dictate: Dictate, start: Start, watch: Watch
) -> None:
    url = serve(max_training_concurrent_cpu=2).url
    with httpx.Client(base_url=url) as http:
        idle = {"status": "ok", "version": VERSION, "running": 0, "queued": 0, "role": "owner", "storage": "ok"}
        assert http.get("/api/v1/health").json() == idle
        dictation = dictate()
        tasks = [start(http) for _ in range(5)]
        assert http.get("/api/v1/health").json() == idle | {"running": 2, "queued": 3}
        dictation.end()
        for task_id in tasks:
            list(watch(task_id, url=url).events())
        assert http.get("/api/v1/health").json() == idle


@pytest.fixture(scope="module")
def networks(http: httpx.Client) -> list[dict[str, Any]]:
    found = http.get("/api/v2/models").json()["models"]
    assert isinstance(found, list)
    return found


def test_models_are_named_in_order_with_what_a_request_must_know(networks: list[dict[str, Any]]) -> None:
    names = [network["name"] for network in networks]

    assert names == sorted(set(names))
    assert {"resnet18", "mobilenet_v3_small", "vit_b_16", "inception_v3"} <= set(names)
    for network in networks:
        assert network.keys() == {"name", "parameters", "min_image_size", "image_size_multiple", "pretrained"}


def test_resnet18_has_the_published_number_of_parameters(networks: list[dict[str, Any]]) -> None:
    """11,689,512: He et al. 2015, as torchvision builds it."""
    assert next(network for network in networks if network["name"] == "resnet18")["parameters"] == 11_689_512


@pytest.mark.parametrize("name", ["resnet18", "inception_v3", "vit_b_16", "alexnet"])
def test_the_smallest_image_of_a_network_is_accepted_and_a_smaller_one_is_not(
    http: httpx.Client, body: dict[str, Any], networks: list[dict[str, Any]], dictate: Dictate, name: str
) -> None:
    dictate().end()
    network = next(network for network in networks if network["name"] == name)
    smallest, step = max(network["min_image_size"], 8), network["image_size_multiple"]
    assert http.post("/api/v2/training/start", json=body | {"model": name, "image_size": smallest}).status_code == 200

    answer = http.post("/api/v2/training/start", json=body | {"model": name, "image_size": smallest - step})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["image_size"]
