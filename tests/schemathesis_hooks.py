"""What `schemathesis` cannot know: which folders, networks and tasks there are. Read by its process alone.

Half of what it makes up gets the values of a request that this machine can serve, so that it reaches
what lies behind the first check; the other half stays as it is.
"""

from __future__ import annotations

import json
import os
from typing import Any
from zlib import crc32

import schemathesis

KNOWN = json.loads(os.environ["SCHEMATHESIS_KNOWN"])
"""`body`: fields that are right together; `path`: a log file; `task_ids`: tasks that there are."""


def _chooses(value: object) -> int:
    """A number that is the same in every run with the same seed."""
    return crc32(repr(value).encode("utf-8", "replace"))


@schemathesis.hook
def map_path_parameters(_context: Any, path_parameters: Any) -> Any:
    choice = _chooses(path_parameters)
    if choice % 2 and isinstance(path_parameters, dict):
        task_ids = KNOWN["task_ids"]
        return {**path_parameters, "task_id": task_ids[choice // 2 % len(task_ids)]}
    return path_parameters


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict) or _chooses(body) % 2:
        return body
    path = context.operation.path
    if path.endswith(("/start", "/check")) and "command" not in body:
        return {**body, **KNOWN["body"]}
    if path.endswith("/import"):
        return {**body, "path": KNOWN["path"], "follow": False}
    return body
