"""A virtual environment for the trainers, apart from the project's own."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
CONSTRAINTS = HERE.parents[1] / "constraints.txt"
VERSIONS = "import importlib.metadata, json, sys; print(json.dumps([*map(importlib.metadata.version, sys.argv[1:])]))"


def prepare(folder: Path) -> Path:
    """The interpreter of an environment in `folder` that has the trainers; made if it is not there.

    What this interpreter has installed is seen there too, so torch is not downloaded again.
    Raises `subprocess.CalledProcessError` where pip fails; it has said why.
    """
    python, done = folder / "bin/python", folder / "installed.txt"
    if done.exists() and done.read_text() == REQUIREMENTS.read_text():
        return python
    began = time.monotonic()
    print(f"Installing the trainers into {folder}: some hundred megabytes, a few minutes")
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(own) / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
    subprocess.run([*pip, "-c", str(CONSTRAINTS), "-r", str(REQUIREMENTS)], check=True)
    done.write_text(REQUIREMENTS.read_text())
    print(f"Installed in {time.monotonic() - began:.0f} s")
    return python


def versions(python: Path, packages: list[str]) -> dict[str, str]:
    """As that interpreter has them installed."""
    found = subprocess.check_output([python, "-c", VERSIONS, *packages])
    return dict(zip(packages, json.loads(found), strict=True))
