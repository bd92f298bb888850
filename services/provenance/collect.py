"""Puts together what one run is made from. Each part that cannot be had is a sentence among the problems."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

from models.schemas import AnyRequest, CommandRequest, ImportRequest, TrainingRequest
from services.devices import Gpu
from services.executors.base import WITHHELD, Place
from services.provenance import data, git, machine, packages
from trainer.roots import Roots

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).parents[2]
_SEED = re.compile(r"-{0,2}([\w.-]{0,40}seed)(?:=(.{1,40}))?", re.IGNORECASE)


def collect(
    request: AnyRequest,
    device: str,
    gpus: Sequence[Gpu],
    roots: Roots,
    *,
    place: Place,
    is_cancelled: Callable[[], bool],
) -> dict[str, Any]:
    """The record of a run that is about to begin.

    Args:
        place: of a thread, code and packages are those that are loaded; the machines of a cluster are not asked.
    """
    problems: list[str] = []
    record: dict[str, Any] = {"service": _version(), "devices": machine.devices(device, gpus)}
    if place == "cluster":
        problems.append("machine, packages: it runs on a cluster, whose machines were not asked")
    elif not isinstance(request, ImportRequest):  # which ran elsewhere
        record |= machine.system() | (_told(problems, "packages", lambda: _packages(request, place)) or {})
    if isinstance(request, CommandRequest):
        record["code"] = _told(problems, "code", lambda: git.working_copy(request.working_dir))
        record["seeds"] = _seeds(request.command) | _seeds(
            [f"{name}={value}" for name, value in request.env.items() if value.isdecimal()]
        )
    elif isinstance(request, TrainingRequest):
        record["code"] = _told(problems, "code", _loaded_code if place == "thread" else _code)
        record["seeds"] = {"seed": request.seed}
    if not isinstance(request, CommandRequest):
        record["data"] = _told(problems, "data", lambda: data.fingerprints(request, roots, is_cancelled=is_cancelled))
    if isinstance(request, ImportRequest):
        del record["devices"]
    record["problems"] = problems
    return {name: value for name, value in record.items() if value not in (None, {}, [], "")}


def _told(problems: list[str], what: str, ask: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    try:
        return ask()
    except (git.NoState, packages.Unknown) as problem:
        problems.append(f"{what}: {problem}")
    except Exception as problem:  # one part is not worth the others
        logger.warning("What a run is made from is not known whole: %s", what, exc_info=problem)
        problems.append(f"{what}: {problem!r}")
    return None


def _packages(request: AnyRequest, place: Place) -> dict[str, Any] | None:
    if not isinstance(request, CommandRequest):
        return _loaded_packages() if place == "thread" else packages.own()
    env = {name: value for name, value in os.environ.items() if name not in WITHHELD} | request.env
    return packages.of_command(request.command, request.working_dir, env)


def _code() -> dict[str, Any] | None:
    """Of the service's own checkout, where it runs from one: an installed copy may lie in anybody's repository."""
    return git.working_copy(str(REPOSITORY)) if (REPOSITORY / ".git").exists() else None


@cache
def _loaded_code() -> dict[str, Any] | None:
    """At the first training of this process: what it has loaded does not change with the files."""
    return _code()


@cache
def _loaded_packages() -> dict[str, Any]:
    return packages.own()


def _version() -> str | None:
    try:
        return metadata.version("image-training-service")
    except metadata.PackageNotFoundError:
        return None


def _seeds(words: Sequence[str]) -> dict[str, str]:
    """What a command line says of seeds: `--seed 1`, `--data_seed=1`, `train.seed=1`."""
    found: dict[str, str] = {}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if match := _SEED.fullmatch(word):
            value = match[2] or following
            if value:
                found[match[1]] = value[:40]
    return found
