"""What the state of a Ray job says of its end."""

from __future__ import annotations

from dataclasses import dataclass

from services.executors.supervised import Exit
from trainer.errors import NODE_LOST

_NEVER_BEGAN = frozenset(
    {
        "RUNTIME_ENV_SETUP_FAILURE",
        "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
        "JOB_SUPERVISOR_ACTOR_START_FAILURE",
        "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
        "JOB_ENTRYPOINT_COMMAND_START_ERROR",
    }
)
"""Of `ray.job_submission.JobErrorType`."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The driver has ended by itself, with what Ray kept of its own words."""

    returncode: int
    said: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The trainer has not failed: what it ran on is gone. It can go on elsewhere."""

    why: str


def end_of(
    status: str, *, error_type: str | None = None, exit_code: int | None = None, message: str | None = None
) -> Exit | Failed | Lost | None:
    """From the fields of `ray.job_submission.JobDetails`; `None` while the job has not ended.

    An exit code is the driver's. A job without one was never begun, or its driver is gone with its node.
    """
    if status == "SUCCEEDED":
        return Exit()
    if status == "STOPPED":
        return Exit(returncode=143, stopped=True)
    if status != "FAILED":
        return None
    if exit_code is not None and exit_code not in (0, NODE_LOST):
        return Failed(exit_code, message or "")
    said = " ".join((message or "").split())[:500] or "nothing is known of why"
    if error_type in _NEVER_BEGAN:
        return Exit(start_error=f"Ray could not begin the job, {said}")
    return Lost("A node of the cluster was lost during this training." if exit_code else f"Ray lost the job: {said}.")
