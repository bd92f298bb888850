"""What an answer over HTTP says of a job: Ray's own words, and those of whatever stands before it."""

from __future__ import annotations

import asyncio
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from services.executors import ray_client
from services.executors.ray import Unreachable
from services.executors.ray_client import RayCluster

JOB = "task-1-0123456789ab"


def answer(status: int, body: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code, response._content, response.url = status, body, "http://ray:8265/api/jobs"
    return response


def cluster(monkeypatch: pytest.MonkeyPatch, said: requests.Response) -> RayCluster:
    """It tells its version, and answers whatever else it is asked with what is `said`."""

    def request(_method: str, url: str, **_: object) -> requests.Response:
        return answer(200, b'{"ray_version": "2.60.0"}') if url.endswith("/api/version") else said

    monkeypatch.setattr(requests, "request", request)
    monkeypatch.setattr(ray_client, "PACKAGES", [])
    return RayCluster("http://ray:8265", None)


def answer_of_ray(monkeypatch: pytest.MonkeyPatch) -> requests.Response:
    """From the handler of its job server, which finds no such job."""

    with warnings.catch_warnings(action="ignore"):  # of what it uses of pydantic
        from ray.dashboard.modules.job import job_head

    async def none_found(*_: object) -> None:
        return None

    monkeypatch.setattr(job_head, "find_job_by_ids", none_found)
    head = SimpleNamespace(gcs_client=None, _job_info_client=None)
    handler: Any = job_head.JobHead.get_job_info
    said = asyncio.run(handler(head, SimpleNamespace(match_info={"job_or_submission_id": JOB})))
    return answer(said.status, said.body)


def test_a_job_that_ray_does_not_know_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        cluster(monkeypatch, answer_of_ray(monkeypatch)).state(JOB)


@pytest.mark.parametrize(
    "body", [b"", b"404 page not found\n", b"<html>Job x does not exist</html>", b"Package gcs://x does not exist"]
)
def test_any_other_404_says_nothing_of_a_job(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    asked = cluster(monkeypatch, answer(404, body))
    with pytest.raises(Unreachable):
        asked.state(JOB)
    with pytest.raises(Unreachable):
        asked.stop(JOB)
    with pytest.raises(Unreachable):
        asked.submit(JOB, "true", {})
