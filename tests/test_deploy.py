"""What `deploy/` and the page on operations name is there: settings, files, routes, metrics. None of it is started."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from app_refactored import create_app
from services import base_service, lifecycle
from settings import Settings
from tests.documents import PAIRS, ROOT, table_of
from tests.running_server import RunningServer

DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "training.service").read_text("utf-8")
CONTAINERFILE = (DEPLOY / "Containerfile").read_text("utf-8")
NOT_OURS = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "TMPDIR"}
SHUTDOWN_S = lifecycle.SHUTDOWN_GRACE_S + base_service.CLOSE_TIMEOUT_S + 1
"""Trainings in threads, the store, and open connections."""


def settings_in(names: set[str]) -> set[str]:
    return {name.lower() for name in names - NOT_OURS}


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.fixture
def exported(server: RunningServer) -> set[str]:
    """Names of all metrics, without the suffixes of their samples."""
    text = httpx.get(f"{server.url}/metrics").text
    return {family.name for family in text_string_to_metric_families(text) if not family.name.endswith("_created")}


def base_name(name: str) -> str:
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


class TestUnit:
    def test_systemd_takes_it(self, tmp_path: Path) -> None:
        program = shutil.which("systemd-analyze")
        if program is None:
            pytest.skip("systemd-analyze is not installed")
        unit = tmp_path / "training.service"  # its program is not installed where this test runs
        unit.write_text(UNIT.replace("/opt/training/.venv/bin/python", sys.executable))
        done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_its_settings_are_settings(self) -> None:
        named = set(re.findall(r"(\w+)=", " ".join(re.findall(r"^Environment=(.+)$", UNIT, re.MULTILINE))))
        example = set(re.findall(r"^(\w+)=", (DEPLOY / "training.env.example").read_text("utf-8"), re.MULTILINE))
        assert named
        assert settings_in(named | example) <= Settings.model_fields.keys()

    def test_it_stops_the_service_alone_and_gives_it_time(self) -> None:
        found = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
        assert (found["KillMode"], found["OOMPolicy"]) == ("process", "continue")
        assert float(found["TimeoutStopSec"]) > 2 * SHUTDOWN_S
        assert not {"PrivateTmp", "RuntimeDirectory", "OOMScoreAdjust"} & found.keys()  # trainings would suffer


class TestContainer:
    def test_it_has_the_whole_program(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
        needed = {pattern.removesuffix("*") for pattern in project["packages"]["find"]["include"]}
        needed |= {f"{module}.py" for module in project["py-modules"]} | {"dashboard", "pyproject.toml"}
        copied = {
            word for line in re.findall(r"^COPY (?!--)(.+)$", CONTAINERFILE, re.MULTILINE) for word in line.split()[:-1]
        }
        assert needed <= copied
        assert all((ROOT / name).exists() for name in copied)

    def test_its_settings_and_its_probe_are_there(self, settings: Settings) -> None:
        named = set(re.findall(r"(\w+)=", re.findall(r"^ENV (.+)$", CONTAINERFILE, re.MULTILINE)[0]))
        assert settings_in(named) <= Settings.model_fields.keys()
        assert re.findall(r"/api/v1/[\w/]+", CONTAINERFILE) == ["/api/v1/health/live"]
        assert "/api/v1/health/live" in create_app(settings).openapi()["paths"]
        assert re.findall(r"^USER (\w+)$", CONTAINERFILE, re.MULTILINE) == ["training"]

    def test_compose_names_what_is_there(self) -> None:
        compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
        service = compose["services"]["training"]
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert settings_in(set(service["environment"])) <= Settings.model_fields.keys()
        assert seconds(service["stop_grace_period"]) > 2 * SHUTDOWN_S
        assert service["depends_on"].keys() <= compose["services"].keys()
        mounted = {volume.split(":")[0] for each in compose["services"].values() for volume in each["volumes"]}
        assert {name for name in mounted if name.isalpha()} == compose["volumes"].keys()


class TestMetrics:
    @pytest.mark.parametrize("page", PAIRS["operations"], ids=lambda path: path.name)
    def test_every_metric_is_documented(self, page: Path, exported: set[str]) -> None:
        documented = {base_name(name) for name in table_of(page, "training_tasks")}
        of_machines_with_gpus = {name for name in documented if name.startswith("training_gpu_")}
        own = {name for name in exported if name.startswith("training_")}
        assert documented == own | of_machines_with_gpus
        assert len(of_machines_with_gpus) == 3

    def test_dashboard_and_alerts_ask_for_metrics_that_there_are(self, exported: set[str]) -> None:
        dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text("utf-8"))
        rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text("utf-8"))
        asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
        names = re.findall(r"\b(?:training|process)_\w+", " ".join(asked))
        named = {base_name(name) for name in names}
        known = exported | {name for name in named if name.startswith("training_gpu_")}
        assert len(named) > 15
        assert named <= known | {base_name(name) for name in known}
