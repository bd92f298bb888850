"""Answers about what a task has left behind: its request, its evaluation, its files."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class RequestResponse(BaseModel):
    """Answer of `GET /api/v2/training/{task_id}/request`."""

    task_id: str
    kind: Literal["training", "command", "import"]
    request: dict[str, Any] = Field(description="as it was asked for; values of a command's environment are left out")


class ClassReport(BaseModel):
    """One class against all others; fractions."""

    model_config = ConfigDict(populate_by_name=True)

    class_: str = Field(alias="class")
    support: int = Field(description="validation images of this class")
    precision: float
    recall: float
    f1: float
    ap: float | None = Field(description="average precision; null for a class without images")


class EvaluationResponse(BaseModel):
    """Answer of `GET /api/v2/training/{task_id}/evaluation`: of the best epoch so far."""

    epoch: int
    metrics: dict[str, float]
    classes: list[str]
    confusion_matrix: list[list[int]] = Field(
        description="images of each true class (row), by what they were taken for"
    )
    per_class: list[ClassReport]


class Artifact(BaseModel):
    name: str
    kind: Literal["checkpoint", "evaluation", "log", "file"]
    size: int | None = Field(default=None, description="bytes; left out where it is not known beforehand")
    modified_at: datetime | None = None


class ArtifactList(BaseModel):
    """Answer of `GET /api/v2/training/{task_id}/artifacts`."""

    task_id: str
    artifacts: list[Artifact]
