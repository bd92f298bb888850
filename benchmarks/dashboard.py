"""How quick the page is: the list of a thousand tasks, and the mouse over fifty runs of two thousand points.

    python benchmarks/dashboard.py

Measured in Debian's Chromium by the page's own clock: from navigation to the painted list (a second is promised), and
from mouse event to the frame after it (100 ms for 95 of 100).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Page

from benchmarks.history import RUN_POINTS, RUNS, fill
from services.base_service import BaseService
from services.storage.database import Database
from tests.chromium import launch
from tests.service_process import APP, ServiceProcess

TASKS = 1000
HOVERS = 50
OBSERVE = """
() => {
  window.latencies = [];
  document.addEventListener("pointermove", (event) => {
    const painted = () => window.latencies.push(performance.now() - event.timeStamp);
    requestAnimationFrame(() => requestAnimationFrame(painted));
  }, true);
}
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        state_dir = Path(scratch) / "state"
        state_dir.mkdir()
        base = BaseService(Database(f"sqlite:///{state_dir / 'training.db'}"))
        print(f"writing {TASKS} tasks, {RUNS} of them with {RUN_POINTS:,} points", flush=True)
        for number in range(TASKS):
            fill(base, f"run-{number}", RUN_POINTS if number < RUNS else 3, spike=-1)
        base.close()
        with (
            ServiceProcess(APP, folder=Path(scratch), STATE_DIR=str(state_dir)).start() as service,
            launch() as browser,
        ):
            page = browser.new_page(viewport={"width": 1360, "height": 900})
            listed = [_list(page, service.url) for _ in range(5)]
            print(f"list of {TASKS} tasks, to paint: median {statistics.median(listed):.0f} ms of {listed}")
            drawn = _open_comparison(page, service.url)
            print(f"{RUNS} runs of {RUN_POINTS:,} points: drawn after {drawn:.0f} ms")
            waits = sorted(_hover(page))
            p95 = waits[int(0.95 * len(waits))]
            print(f"mouse to paint, {len(waits)} hovers: median {statistics.median(waits):.0f} ms, p95 {p95:.0f} ms")
    return 0


def _list(page: Page, url: str) -> float:
    page.goto("about:blank")
    page.goto(f"{url}/dashboard/")
    page.wait_for_function(f"() => document.querySelectorAll('tr[data-task]').length === {TASKS}")
    painted = "() => new Promise((done) => requestAnimationFrame(() => done(performance.now())))"
    return round(float(page.evaluate(painted)))


def _open_comparison(page: Page, url: str) -> float:
    ids = ",".join(f"run-{number}" for number in range(RUNS))
    page.goto("about:blank")
    page.goto(f"{url}/dashboard/#/compare?ids={ids}")
    drawn = "document.querySelector(`[data-chart='train_loss'] .plot`)?.data?.length"
    page.wait_for_function(f"() => {drawn} === {RUNS}", timeout=60_000)
    return float(page.evaluate("() => performance.now()"))


def _hover(page: Page) -> list[float]:
    chart = page.locator("[data-chart='train_loss'] .plot")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    page.evaluate(OBSERVE)
    for number in range(HOVERS):
        x = box["x"] + 60 + (box["width"] - 80) * ((number * 37) % HOVERS) / HOVERS
        page.mouse.move(x, box["y"] + 30 + (number * 13) % 150)
        page.wait_for_function(f"() => window.latencies.length > {number}")
    found: list[float] = page.evaluate("() => window.latencies")
    return found


if __name__ == "__main__":
    sys.exit(main())
