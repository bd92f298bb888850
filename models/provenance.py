"""The answer about what a run was made from."""

from __future__ import annotations

from typing import Any

from pydantic import AwareDatetime, BaseModel, Field

from models.history import Difference


class CodeState(BaseModel):
    """A working copy when the run began. What git was not asked, or would not tell, is left out."""

    root: str | None = Field(default=None, description="its top folder")
    commit: str | None = Field(default=None, description="left out before the first commit")
    branch: str | None = Field(default=None, description="left out where none is checked out")
    remote: str | None = Field(default=None, description="of origin, without what would log in there")
    diff: str | None = Field(
        default=None, description="of its tracked files to the commit, as git prints it; empty: none"
    )
    diff_is_cut: bool | None = Field(default=None, description="set where there was more than 1 MiB")
    untracked: list[str] = Field(default=[], description="names of files that are neither tracked nor ignored")
    untracked_is_cut: bool | None = Field(default=None, description="set where there were more than 200")


class PythonInfo(BaseModel):
    version: str
    implementation: str
    executable: str


class DeviceInfo(BaseModel):
    device: str = Field(description="cpu or cuda:N")
    model: str | None = Field(default=None, description="what the GPU's driver calls it")
    memory_total: int | None = Field(default=None, description="bytes of the GPU's memory")


class DataFingerprint(BaseModel):
    """Of a folder of images, or of one file. Equal fingerprints mean equal data, as far as they cover it."""

    files: int | None = Field(default=None, description="images below the folder that the trainer finds")
    bytes: int = Field(description="of all of them together")
    names_and_sizes: str | None = Field(default=None, description="digest of path and size of each image")
    names_sizes_and_times: str | None = Field(default=None, description="the same, with the time of its last change")
    is_complete: bool | None = Field(default=None, description="false: the time was up, and it covers a part")
    modified: float | None = Field(default=None, description="of a file: last change, seconds since 1970")
    sha256: str | None = Field(default=None, description="of a file's content; left out where the time was up")


class ProvenanceResponse(BaseModel):
    """Answer of `GET /api/v2/training/{task_id}/provenance`. What is not known is left out."""

    task_id: str
    attempt: int | None = Field(default=None, description="the run that this is about; left out before the first")
    recorded_at: AwareDatetime | None = None
    request: dict[str, Any] = Field(description="the body as it was sent, without secrets")
    service: str | None = Field(default=None, description="version of the service")
    code: CodeState | None = Field(
        default=None, description="of the command's folder; for the built-in trainer of the service's own checkout"
    )
    python: PythonInfo | None = Field(default=None, description="that runs the trainer")
    packages: dict[str, str] | None = Field(default=None, description="version of each that is installed there")
    host: str | None = None
    platform: str | None = None
    machine: str | None = None
    cpu: str | None = None
    cpus: int | None = Field(default=None, description="that the service may use")
    devices: list[DeviceInfo] | None = None
    seeds: dict[str, int | str] | None = None
    data: dict[str, DataFingerprint] | None = Field(default=None, description="of each field that names data")
    problems: list[str] | None = Field(default=None, description="what could not be recorded, and why")
    against: str | None = Field(default=None, description="the other task, where one was named")
    differences: list[Difference] | None = Field(
        default=None, description="fields that differ, by their path; of a diff only its length and digest"
    )
