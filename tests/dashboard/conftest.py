"""The page in a real browser. A test fails where the console showed an error, or the policy was violated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.api.dictation import Dictation
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor

expect.set_options(timeout=15_000)
SCREENSHOTS = Path(__file__).parents[2] / "doc" / "dashboard"

AWAY = r"ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING"
REFUSED = "status of 422"
NO_TOKEN = "status of 401"
TELL_OF_VIOLATIONS = """document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"""

Open = Callable[..., Page]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app_refactored.list_gpus", list)


@pytest.fixture
def dictation(executor: ScriptedExecutor) -> Iterator[Dictation]:
    """What the trainings of the test print."""
    script = Dictation()
    executor.script = script
    yield script
    script.end()


@pytest.fixture
def expected() -> list[str]:
    """Patterns of what the console may show: a browser reports each refusal, whatever the page makes of it."""
    return []


@pytest.fixture
def open_page(browser: Browser, server: RunningServer, expected: list[str]) -> Iterator[Open]:
    """`open_page("#/tasks")` opens the dashboard; keyword arguments are those of the browser's context."""
    errors: list[str] = []
    contexts = []

    def note(message: ConsoleMessage) -> None:
        text = f"{message.text} ({message.location})"
        if message.type in {"error", "warning"} and not any(re.search(each, text) for each in expected):
            errors.append(text)

    def open_one(where: str = "", *, url: str = "", **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1360, "height": 900}, "locale": "en-GB", **options})
        contexts.append(context)
        context.add_init_script(TELL_OF_VIOLATIONS)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url or server.url}/dashboard/{where}")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []
