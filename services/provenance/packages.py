"""Which Python, and which packages in it, a run has."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from services.provenance.bounded import TooSlow, run

LIMIT_S = 10.0
MAX_PACKAGES = 5_000
_MAX_ANSWER = 1_048_576
_PYTHON = re.compile(r"(?:python|pypy)\d{0,2}(?:\.\d{1,3}){0,2}")
_SCRIPT = """\
import json, platform, sys
from importlib.metadata import distributions
found = {}
for each in distributions():
    name = each.metadata["Name"]
    if name and name not in found:
        found[name] = each.version
print(json.dumps({"python": {"version": platform.python_version(), "implementation": platform.python_implementation(),
                             "executable": sys.executable}, "packages": found}))
"""


class Unknown(Exception):
    """It cannot be told; the message says why."""


def own() -> dict[str, Any]:
    """Of the interpreter that this is."""
    found: dict[str, str] = {}
    for each in metadata.distributions():
        name = each.metadata["Name"]
        if name:  # the first one is what would be imported
            found.setdefault(name, each.version)
    python = {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
    }
    return {"python": python, "packages": _sorted(found)}


def of_command(command: Sequence[str], folder: str, env: Mapping[str, str]) -> dict[str, Any] | None:
    """Of the interpreter that a command names, or that its script's first line names; `None` where that is none.

    It is asked by running it in isolated mode (`-I`), so packages of PYTHONPATH are not among them.

    Raises:
        Unknown: it does not answer.
    """
    interpreter = _interpreter(command[0], folder, env)
    if interpreter is None:
        return None
    if _is_this(interpreter):
        return own()
    try:
        answer = run(
            [str(interpreter), "-I", "-c", _SCRIPT],
            cwd=folder,
            env=env,
            deadline=time.monotonic() + LIMIT_S,
            max_bytes=_MAX_ANSWER,
        )
        if answer.status != 0 or answer.is_cut:
            raise Unknown(f"{interpreter} does not list its packages: {answer.error.splitlines()[-1:]}")
        found = json.loads(answer.data)
        return {"python": dict(found["python"]), "packages": _sorted(found["packages"])}
    except TooSlow as error:
        raise Unknown(f"{interpreter} did not list its packages within {LIMIT_S:g} s") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unknown(f"{interpreter} does not list its packages: {error}") from error


def _sorted(packages: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(packages[name]) for name in sorted(packages, key=str.lower)[:MAX_PACKAGES]}


def _interpreter(program: str, folder: str, env: Mapping[str, str]) -> Path | None:
    """As execvpe(3) would find the program from `folder`."""
    found = _which(program, folder, env)
    if found is None or _PYTHON.fullmatch(found.name):
        return found
    try:
        with found.open("rb") as file:
            first = file.readline(256)
    except OSError:
        return None
    if not first.startswith(b"#!"):
        return None
    try:
        words = shlex.split(first[2:].decode(errors="replace"))
    except ValueError:
        return None
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
    named = words[0] if words else ""
    return _which(named, folder, env) if _PYTHON.fullmatch(Path(named).name) else None


def _which(program: str, folder: str, env: Mapping[str, str]) -> Path | None:
    places = [""] if "/" in program else env.get("PATH", os.defpath).split(os.pathsep)
    for place in places:
        found = shutil.which(os.path.join(folder, place, program))  # noqa: PTH118 - shutil asks for text
        if found is not None:
            return Path(found)
    return None


def _is_this(interpreter: Path) -> bool:
    """Whether it has the packages of this process. Links lead from many environments to one program, so names count."""
    here = Path(sys.executable)
    return interpreter.absolute().parent == here.absolute().parent and interpreter.resolve() == here.resolve()
