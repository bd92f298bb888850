"""A cluster, by the client of Ray's job API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from services.executors.ray import Refused, Unreachable
from services.executors.ray_job import Failed, Lost, end_of
from services.executors.supervised import Exit

TIMEOUT_S = 30.0
"""For an answer: without one a cluster behind a silent network would be waited for without end."""
_NO_SUCH_JOB = re.compile(r"Job \S+ does not exist")
"""What Ray itself answers (`ray.dashboard.modules.job.job_head`)."""
PACKAGES = [str(Path(__file__).parents[2] / name) for name in ("trainer", "models")]
"""Sent with a job, so that the nodes run the trainer of this service."""


class _Client(JobSubmissionClient):
    def _do_request(self, method: str, endpoint: str, **more: Any) -> requests.Response:
        response: requests.Response = super()._do_request(method, endpoint, **{"timeout": TIMEOUT_S, **more})
        return response

    def _raise_error(self, r: requests.Response) -> None:
        if r.status_code == 404 and _NO_SUCH_JOB.fullmatch(r.text.strip()):
            raise KeyError(r.url)
        # Ray says 500 too while the agent of a node is away; any other 404 is of something between it and here
        if r.status_code == 404 or r.status_code >= 500:
            raise Unreachable(f"HTTP status {r.status_code}")
        lines = [line.strip() for line in r.text.splitlines() if line.strip()]
        raise Refused(f"HTTP status {r.status_code}: {lines[-1][:500] if lines else ''}")


class RayCluster:
    """Raises `Unreachable` and `Refused`, as `services.executors.ray.Cluster` says.

    Args:
        address: of the dashboard, `http://host:8265`.
        token: where the cluster asks for one (Ray 2.52 and later, `RAY_AUTH_MODE=token`).
    """

    def __init__(self, address: str, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else None
        self._client = _asked(lambda: _Client(address, headers=headers))

    def submit(self, submission_id: str, entrypoint: str, env: dict[str, str]) -> None:
        _asked(
            lambda: self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env={"py_modules": PACKAGES, "env_vars": env},
            )
        )

    def state(self, submission_id: str) -> Exit | Failed | Lost | None:
        job = _asked(lambda: self._client.get_job_info(submission_id))
        return end_of(job.status.value, error_type=job.error_type, exit_code=job.driver_exit_code, message=job.message)

    def stop(self, submission_id: str) -> None:
        _asked(lambda: self._client.stop_job(submission_id))


def _asked(question: Any) -> Any:
    try:
        return question()
    except (ConnectionError, requests.ConnectionError, requests.Timeout) as error:
        raise Unreachable(type(error).__name__) from error
    except AuthenticationError as error:
        raise Refused(f"{_briefly(error)}. Set RAY_AUTH_TOKEN to the token of the cluster.") from error
    except (RuntimeError, requests.RequestException) as error:
        raise Refused(_briefly(error)) from error


def _briefly(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
