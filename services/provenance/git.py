"""The state of a working copy: its commit, and what differs from it.

A repository may be anybody's, and its configuration can name programs: monitors, hooks, filters, differs, transports.
None of them runs. `GIT_CONFIG_KEY_n` outranks every file (git-config, ENVIRONMENT), so each is switched off by that;
filters by name, since git has no other way. An owner that git does not trust is git's own refusal (safe.directory).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from services.executors.base import WITHHELD
from services.provenance.bounded import Output, TooSlow, run
from services.provenance.secrets import text_without_secrets

MAX_DIFF = 1_048_576
MAX_UNTRACKED = 200
LIMIT_S = 5.0
"""For all that git is asked of one working copy."""
_SAFE: Final[Mapping[str, str]] = {
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.untrackedCache": "false",
    "diff.autoRefreshIndex": "false",
    "core.pager": "cat",
    "core.sshCommand": "false",
    "protocol.allow": "never",
    "submodule.recurse": "false",
    "safe.bareRepository": "explicit",
    "maintenance.auto": "false",
    "gc.auto": "0",
}
_DIFF: Final = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative"),
    *("--ignore-submodules=dirty", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/", "HEAD", "--"),
)


class NoState(Exception):
    """What a working copy is cannot be told; the message says why."""


def working_copy(folder: str, *, limit_s: float = LIMIT_S) -> dict[str, Any] | None:
    """Commit, branch, origin, difference and untracked files of the repository that `folder` is in; `None` in none.

    Raises:
        NoState: there is one, or may be, but git is missing, refuses or takes too long.
    """
    git = shutil.which("git")
    if git is None:
        raise NoState("git is not installed")
    try:
        return _Repository(git, folder, time.monotonic() + limit_s).state()
    except TooSlow as error:
        raise NoState(f"git did not answer within {limit_s:g} s") from error
    except OSError as error:
        raise NoState(f"git could not be asked: {error.strerror}") from error


class _Repository:
    def __init__(self, git: str, folder: str, deadline: float) -> None:
        self._git = git
        self._folder = str(Path(folder).absolute())
        self._deadline = deadline
        self._config = dict(_SAFE)

    def state(self) -> dict[str, Any] | None:
        where = self._ask("rev-parse", "--is-inside-work-tree")
        if where.status != 0:
            if "not a git repository" in where.error:
                return None
            raise NoState(f"git refuses: {text_without_secrets(where.error.splitlines()[0] if where.error else '?')}")
        if where.data.strip() != b"true":
            return None  # a bare repository, or the .git folder itself: no files, no state
        self._disable_filters()
        state: dict[str, Any] = {"root": self._line("rev-parse", "--show-toplevel")}
        state["branch"] = self._line("symbolic-ref", "--short", "-q", "HEAD")
        remote = self._line("config", "--get", "remote.origin.url")
        state["remote"] = remote and text_without_secrets(remote)
        state["commit"] = self._line("rev-parse", "--verify", "-q", "HEAD^{commit}")
        if state["commit"] is not None:
            diff = self._ask(*_DIFF, max_bytes=MAX_DIFF)
            if diff.status != 0 and not diff.is_cut:
                raise NoState(f"git diff fails: {text_without_secrets(diff.error[:200])}")
            state["diff"] = text_without_secrets(_text(diff.data))
            state["diff_is_cut"] = diff.is_cut or None
        names = self._ask("ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", ":/")
        untracked = [_text(name) for name in names.data.split(b"\0")[:-1]]
        state["untracked"] = untracked[:MAX_UNTRACKED]
        state["untracked_is_cut"] = names.is_cut or len(untracked) > MAX_UNTRACKED or None
        return {name: value for name, value in state.items() if value is not None}

    def _disable_filters(self) -> None:
        """What .gitattributes runs a file through is a program of the configuration; without one it is as it is."""
        drivers = self._ask("config", "--null", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process)$")
        for key in drivers.data.split(b"\0"):
            name = os.fsdecode(key.rpartition(b".")[0])
            if name:
                self._config |= {f"{name}.clean": "", f"{name}.process": "", f"{name}.required": "false"}

    def _line(self, *arguments: str) -> str | None:
        answer = self._ask(*arguments)
        return _text(answer.data).rstrip("\n") or None if answer.status == 0 else None

    def _ask(self, *arguments: str, max_bytes: int = 65_536) -> Output:
        env = {
            name: value for name, value in os.environ.items() if not name.startswith("GIT_") and name not in WITHHELD
        }
        env |= {
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_ALLOW_PROTOCOL": "none",
            "GIT_PAGER": "cat",
            "LC_ALL": "C",
            "GIT_CONFIG_COUNT": str(len(self._config)),
        }
        for number, (key, value) in enumerate(self._config.items()):
            env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return run([self._git, *arguments], cwd=self._folder, env=env, deadline=self._deadline, max_bytes=max_bytes)


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
