"""Real file systems that are full or read-only, in a mount namespace of one command's own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


def run_mounted(mount: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments` after the shell command `mount`; nobody else sees what it mounts."""
    if subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel gives a user no mount namespace")
    return subprocess.run(
        [*_UNSHARE, "sh", "-c", f"{mount} && exec {shlex.join([sys.executable, *arguments])}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
