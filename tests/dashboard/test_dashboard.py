"""What somebody sees and does on the page."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import httpx
import pytest
import torch
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from app_refactored import create_app
from client.demo.digits import digit_folders
from services.executors.base import Run
from settings import Settings
from tests.api.dictation import Dictation
from tests.dashboard.conftest import AWAY, NO_TOKEN, REFUSED, SCREENSHOTS, Open
from tests.documents import blocks_of
from tests.running_server import RunningServer
from tests.scripted_executor import Script, ScriptedExecutor
from trainer.class_report import report
from trainer.evaluation import evaluate

TRAINING = "/api/v2/training"
EVIL = "<img src=x onerror=alert(1)>"


def printing(*lines: str) -> Script:
    def script(_run: Run, logger: logging.Logger, _stop: Callable[[], bool]) -> None:
        for line in lines:
            logger.info(line)

    return script


def wait_for_end(http: httpx.Client, task_id: str) -> None:
    with http.stream("GET", f"{TRAINING}/{task_id}/logs", timeout=120) as answer:
        for _ in answer.iter_lines():
            pass


def start(http: httpx.Client, body: dict[str, Any], **changes: Any) -> str:
    answer = http.post(f"{TRAINING}/start", json=body | changes)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["task_id"])


def epoch(number: int, total: int = 20) -> list[str]:
    return [
        f"Epoch [{number}/{total}] started",
        f"Train Loss: {2 / number:.4f}, Train Accuracy: {100 - 50 / number:.2f}%",
        f"Validation Loss: {2.2 / number:.4f}, Validation Accuracy: {100 - 60 / number:.2f}%",
    ]


def wait_for_points(page: Page, chart: str, count: int) -> None:
    page.wait_for_function(
        "([chart, count]) => document.querySelector(`[data-chart='${chart}'] .plot`)?.data?.[0]?.x.length === count",
        arg=[chart, count],
    )


def pixel_of(page: Page, chart: str, index: int) -> tuple[float, float]:
    """Where on the page the point of the first series is."""
    x, y = page.evaluate(
        """([chart, index]) => {
          const plot = document.querySelector(`[data-chart='${chart}'] .plot`);
          const {xaxis, yaxis} = plot._fullLayout;
          const box = plot.getBoundingClientRect();
          const {x, y} = plot.data[0];
          return [box.left + xaxis._offset + xaxis.d2p(x[index]), box.top + yaxis._offset + yaxis.d2p(y[index])];
        }""",
        [chart, index],
    )
    return float(x), float(y)


def test_a_training_is_started_from_the_form_and_its_curves_grow(
    open_page: Open, dictation: Dictation, body: dict[str, Any], server: RunningServer, expected: list[str]
) -> None:
    expected.append(REFUSED)
    page = open_page("#/start")
    for name in ("num_classes", "train_path", "val_path"):
        page.fill(f"#field-{name}", str(body[name]))
    page.fill("#field-model", "resnet1")
    with page.expect_response("**/training/check"):  # of what was typed just before
        page.fill("#field-device", "cpu")
        page.click("text=Start training")
    page.evaluate("fetch('/api/v1/health').then((answer) => answer.json())")  # the answer before is dealt with
    expect(page.locator("#field-save_path-error")).not_to_be_empty()
    page.fill("#field-save_path", str(body["save_path"]))
    page.fill("#field-more", '{"task_id": "from-form"}')
    page.click("text=Start training")
    expect(page.locator("#field-model-error")).to_contain_text("resnet1")
    page.fill("#field-model", "resnet18")
    page.click("text=Start training")
    expect(page.locator("h1")).to_contain_text("from-form")
    for number in range(1, 4):
        dictation.say(*epoch(number))
        wait_for_points(page, "loss", number)
    expect(page.locator(".tiles")).to_contain_text("3 / 20")
    dictation.end()
    expect(page.locator("h1 .badge")).to_have_text("completed")


def test_a_point_opens_its_line_and_a_line_marks_its_point(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any]
) -> None:
    task_id = start(http, body)
    for number in range(1, 6):
        dictation.say(*epoch(number))
    page = open_page(f"#/task/{task_id}")
    wait_for_points(page, "loss", 5)
    page.locator("[data-chart='loss']").scroll_into_view_if_needed()
    page.mouse.move(*pixel_of(page, "loss", 2))
    expect(page.locator("[data-chart='loss'] .tip")).to_contain_text("train_loss")
    expect(page.locator("[data-chart='acc'] .cross .hair")).to_have_count(1)
    page.mouse.click(*pixel_of(page, "loss", 2))
    expect(page.locator(".log .selected")).to_contain_text("Train Loss: 0.6667")
    page.locator(".log li", has_text="Validation Loss: 0.5500").locator("button").click()
    expect(page.locator("[data-chart='loss'] .mark")).to_have_count(1)


def test_points_are_reached_by_keyboard_and_lead_to_their_lines(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any]
) -> None:
    task_id = start(http, body)
    for number in range(1, 6):
        dictation.say(*epoch(number))
    page = open_page(f"#/task/{task_id}")
    wait_for_points(page, "loss", 5)
    chart = page.locator("[data-chart='loss'] .chart")
    chart.focus()
    page.keyboard.press("Home")
    expect(chart.get_by_role("status")).to_have_text("train_loss: 2, epoch 1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(chart.get_by_role("status")).to_have_text("val_loss: 1.1, epoch 2")
    page.keyboard.press("Enter")
    expect(page.locator(".log .selected")).to_contain_text("Validation Loss: 1.1000")
    assert page.evaluate("document.activeElement.closest('li').classList.contains('selected')")


def test_a_long_log_is_paged_and_searched_where_it_is_stored(
    open_page: Open, executor: ScriptedExecutor, http: httpx.Client, body: dict[str, Any]
) -> None:
    executor.script = printing(*(f"line {number} of a long log" for number in range(6000)), EVIL)
    task_id = start(http, body)
    wait_for_end(http, task_id)
    page = open_page(f"#/task/{task_id}")
    lines = page.locator(".log li .message")
    expect(lines.last).to_contain_text("任务结束")
    for _ in range(13):
        first = lines.first.inner_text()
        page.get_by_text("Show earlier lines").click()
        expect(lines.first).not_to_have_text(first)
        assert lines.count() <= 2000
        if page.get_by_text("Show earlier lines").is_disabled():
            break
    expect(lines.first).to_contain_text("Task accepted")
    page.wait_for_function(  # rows are as high as they are once they are shown, so that the end moves on
        "() => { const log = document.querySelector('.log'); log.scrollTop = 1e9;"
        " return log.textContent.includes('line 2100 of'); }"
    )
    page.get_by_label("Text", exact=True).fill("LINE 1234 of")
    expect(lines).to_have_text(["line 1234 of a long log"])
    page.goto(page.url + "?line=3000")
    page.reload()
    expect(page.locator(".log .selected")).to_contain_text("line 2")
    assert "3000" in page.locator(".log .selected button").inner_text()


def test_what_is_chosen_and_typed_outlives_another_language_and_theme(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any], expected: list[str]
) -> None:
    expected.append(REFUSED)
    task_id = start(http, body)
    for number in range(1, 6):
        dictation.say(*epoch(number))
    page = open_page(f"#/task/{task_id}")
    wait_for_points(page, "loss", 5)
    ranges = "document.querySelector(`[data-chart='loss'] .plot`)._fullLayout.xaxis.range.map(Math.round).join()"
    page.locator("[data-chart='loss']").scroll_into_view_if_needed()
    (left, top), (right, bottom) = pixel_of(page, "loss", 1), pixel_of(page, "loss", 3)
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(right, bottom, steps=4)
    page.mouse.up()
    page.wait_for_function(f"() => {ranges} === '2,4'")
    page.get_by_label("Text", exact=True).fill("Validation")
    expect(page.locator(".log li")).to_have_count(5)
    page.get_by_role("button", name="Theme").click()
    assert page.evaluate(ranges) == "2,4"
    page.click("text=中文")
    wait_for_points(page, "loss", 5)
    assert page.evaluate(ranges) == "2,4"
    expect(page.locator(".log li")).to_have_count(5)
    page.click("text=English")
    page.get_by_role("link", name="Start", exact=True).click()
    page.fill("#field-train_path", "/half/typed")
    page.click("text=中文")
    expect(page.locator("#field-train_path")).to_have_value("/half/typed")


def test_the_form_is_checked_while_it_is_filled_in(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any], expected: list[str]
) -> None:
    expected.append(REFUSED)
    page = open_page("#/start")
    page.fill("#field-num_classes", "1")
    expect(page.locator("#field-num_classes-error")).not_to_be_empty()
    expect(page.locator("#field-model-error")).to_be_empty()
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#field-model-error")).not_to_be_empty()
    for name in ("num_classes", "val_path", "save_path"):
        page.fill(f"#field-{name}", str(body[name]))
    page.fill("#field-model", "resnet18")
    page.fill("#field-device", "cpu")
    page.fill("#field-train_path", "/nowhere/at/all")
    expect(page.locator("#field-train_path-error")).to_contain_text("/nowhere/at/all")
    page.fill("#field-train_path", str(body["train_path"]))
    expect(page.locator("#form-checked")).to_contain_text("runs on cpu")
    expect(page.locator("#field-train_path-error")).to_be_empty()
    assert http.get(TRAINING).json()["tasks"] == []


def test_two_tasks_are_compared(
    open_page: Open, executor: ScriptedExecutor, http: httpx.Client, body: dict[str, Any]
) -> None:
    executor.script = printing(*epoch(1), *epoch(2))
    for name, rate in (("slow", 1e-4), ("fast", 1e-2)):
        wait_for_end(http, start(http, body, name=name, learning_rate=rate))
    page = open_page()
    for name in ("slow", "fast"):
        page.get_by_label(f"Select {name} for a comparison").check()
    page.click("text=Compare 2 selected")
    wait_for_points(page, "val_loss", 2)
    expect(page.locator("#differences")).to_contain_text("learning_rate")
    expect(page.locator("#best")).to_contain_text("val_acc")
    assert page.evaluate("document.querySelector(`[data-chart='val_loss'] .plot`).data.length") == 2


def test_what_each_run_of_a_task_was_made_from_is_shown(
    open_page: Open, executor: ScriptedExecutor, http: httpx.Client, body: dict[str, Any]
) -> None:
    def fail(_run: Run, logger: logging.Logger, _stop: Callable[[], bool]) -> None:
        logger.info(epoch(1)[0])
        raise ValueError("once")

    executor.script = fail
    task_id = start(http, body, seed=7)
    wait_for_end(http, task_id)
    link = f"{TRAINING}/{task_id}/provenance"
    record = http.get(link).json()
    page = open_page(f"#/task/{task_id}")
    shown = page.locator("#provenance")
    title = shown.get_by_role("heading", name="What it was made from")
    expect(shown).not_to_contain_text("torchvision")  # asked for when it is opened
    title.click()
    for text in (
        record["code"]["commit"],
        f"seed={7}",
        record["data"]["train_path"]["names_and_sizes"],
        record["host"],
    ):
        expect(shown).to_contain_text(text)
    shown.get_by_text(f"All {len(record['packages'])} packages").click()
    expect(shown.get_by_role("row", name=f"httpx {record['packages']['httpx']}")).to_be_visible()
    expect(shown.locator("select")).to_have_count(0)
    executor.script = printing(*epoch(1))
    assert http.post(f"{TRAINING}/{task_id}/resume").status_code == 200
    expect(page.locator("h1 .badge")).to_have_text("completed")
    title.click()
    title.click()
    expect(shown.locator("select")).to_have_value("2")
    with page.expect_response("**/provenance?attempt=1"):
        shown.locator("select").select_option("1")
    expect(shown.locator("select")).to_have_value("1")


def test_the_list_is_searched_narrowed_and_live(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any]
) -> None:
    one = start(http, body, name="alpha")
    start(http, body, name="beta")
    page = open_page()
    expect(page.locator("tr[data-task]")).to_have_count(2)
    page.fill("input[type=search]", "alp")
    expect(page.locator("tr[data-task]")).to_have_count(1)
    page.fill("input[type=search]", "")
    page.locator("select").first.select_option("running")
    expect(page.locator(f"tr[data-task='{one}']")).to_be_visible()
    dictation.say(*epoch(10))
    expect(page.locator(f"tr[data-task='{one}']")).to_contain_text("50%")


def test_tasks_are_ranked_by_accuracies_and_scores_in_one_unit(
    open_page: Open, executor: ScriptedExecutor, http: httpx.Client, body: dict[str, Any], tmp_path: Path
) -> None:
    """A loss or the memory of a GPU may be a larger number than an accuracy, and says nothing of how good a task is."""
    lines = {
        "built-in": ["Validation Loss: 0.9, Validation Accuracy: 40%", "New best model saved (acc: 62.50%)"],
        "memory": ["gpu_memory: 3000.5"],
        "loss": ["Epoch 1/1 - loss: 2270.5"],
        "fraction": ["Epoch 1/1 - val_accuracy: 0.9000"],
        "percent": ["Epoch 1/1 - val_accuracy: 14.52%"],
        "score": ["Epoch 1/1 - macro_f1: 0.5000"],
    }
    executor.script = lambda run, logger, stop: printing(*lines[run.task_id])(run, logger, stop)
    (tmp_path / "old.log").touch()
    for task_id in lines:
        if task_id == "built-in":
            start(http, body, task_id=task_id)
        else:
            log = {"path": str(tmp_path / "old.log"), "task_id": task_id}
            assert http.post(f"{TRAINING}/import", json=log).status_code == 200
        wait_for_end(http, task_id)
    page = open_page()
    metric = {task_id: page.locator(f"tr[data-task='{task_id}'] td:nth-child(6)") for task_id in lines}
    expect(page.locator("table.tasks th").nth(5)).to_have_text("Metric")
    expect(metric["built-in"]).to_have_text("best_acc 62.5%")
    expect(metric["fraction"]).to_have_text("val_acc 90%")
    expect(metric["score"]).to_have_text("macro_f1 0.5")
    expect(metric["loss"]).to_contain_text("2,270.5")
    page.get_by_label("Sort").select_option(label="accuracy or score, highest first")
    order = "[...document.querySelectorAll('tr[data-task]')].map((row) => row.dataset.task)"
    page.wait_for_function(f"{order}[0] === 'fraction'")
    ranked = page.evaluate(order)
    assert ranked[:4] == ["fraction", "built-in", "score", "percent"]
    assert set(ranked[4:]) == {"loss", "memory"}
    page.goto(page.url.split("#")[0] + "#/task/fraction")
    expect(page.locator(".tiles")).to_contain_text("val_acc90%")


def test_language_and_theme_are_kept(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any]
) -> None:
    start(http, body)
    page = open_page()
    expect(page.locator("h1")).to_have_text("Tasks")
    page.click("text=中文")
    expect(page.locator("h1")).to_have_text("任务")
    page.click("text=主题")
    page.reload()
    expect(page.locator("h1")).to_have_text("任务")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert open_page(locale="zh-CN").locator("h1").inner_text() == "任务"


def test_a_reload_and_a_second_browser_show_the_same(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any]
) -> None:
    task_id = start(http, body)
    dictation.say(*epoch(1), *epoch(2))
    page = open_page(f"#/task/{task_id}")
    wait_for_points(page, "acc", 2)
    page.reload()
    other = open_page(f"#/task/{task_id}")
    dictation.say(*epoch(3))
    for each in (page, other):
        wait_for_points(each, "acc", 3)
        expect(each.locator(".log li").last).to_contain_text(epoch(3)[-1])
    assert page.locator(".log li .message").all_inner_texts() == other.locator(".log li .message").all_inner_texts()


def test_a_restart_of_the_service_is_survived(
    open_page: Open,
    dictation: Dictation,
    executor: ScriptedExecutor,
    server: RunningServer,
    serve: Callable[..., RunningServer],
    body: dict[str, Any],
    expected: list[str],
) -> None:
    expected.append(AWAY)
    with httpx.Client(base_url=server.url) as http:
        task_id = start(http, body)
    dictation.say(*epoch(1))
    page = open_page(f"#/task/{task_id}")
    wait_for_points(page, "loss", 1)
    expect(page.locator("#connection")).to_have_text("live")
    server.stop()
    expect(page.locator("#connection")).to_contain_text("connection lost")
    executor.script = printing(*epoch(1), *epoch(2), *epoch(3))
    serve(server.port)
    expect(page.locator("#connection")).to_have_text("live", timeout=30_000)
    expect(page.locator("h1 .badge")).to_have_text("completed")
    wait_for_points(page, "loss", 3)
    expect(page.locator(".log li").last).to_contain_text("任务结束")
    expect(page.locator("#details")).to_contain_text("interrupted")


def test_hostile_text_stays_text(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any], server: RunningServer
) -> None:
    task_id = start(http, body, description=EVIL)
    dictation.say(EVIL, f"{EVIL}: 0.5", *epoch(1))
    folder = Path(server.service.get_task(task_id).output_dir)
    evaluation = evaluate(torch.eye(2), torch.tensor([0, 1]))
    (folder / "evaluation.json").write_bytes(report(evaluation, 1, [EVIL, "dog"]))
    (folder / f"{EVIL.replace('/', '')}.pt").write_text("")
    page = open_page(f"#/task/{task_id}")
    expect(page.locator("#evaluation")).to_contain_text(EVIL)
    expect(page.locator(".log")).to_contain_text(EVIL)
    expect(page.locator("#details")).to_contain_text(EVIL)
    assert page.locator("main img").count() == 0


def test_who_has_a_token_gets_in(
    open_page: Open,
    serve: Callable[..., RunningServer],
    dictation: Dictation,
    body: dict[str, Any],
    tmp_path: Path,
    expected: list[str],
) -> None:
    expected.append(NO_TOKEN)
    guarded = serve(api_tokens=(SecretStr("secret"),), state_dir=tmp_path / "guarded")
    with httpx.Client(base_url=guarded.url, headers={"Authorization": "Bearer secret"}) as http:
        start(http, body, name="guarded")
    page = open_page(url=guarded.url)
    page.fill("#token", "wrong")
    page.click("text=Sign in")
    expect(page.locator("[role=alert]")).to_contain_text("token")
    page.fill("#token", "secret")
    page.click("text=Sign in")
    expect(page.locator("tr[data-task]")).to_contain_text("guarded")
    expect(page.locator("#connection")).to_have_text("live")


def test_limits_are_changed_on_the_page(open_page: Open, server: RunningServer) -> None:
    page = open_page("#/devices")
    page.get_by_label("Tasks at a time on cpu").fill("3")
    page.click("text=Set")
    page.wait_for_function("fetch('/api/v2/resources').then(a => a.json()).then(r => r.devices[0].limit === 3)")


def test_an_alert_is_seen_as_it_fires(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any]
) -> None:
    page = open_page("#/alerts")
    form = page.locator("#rule-form")
    form.get_by_label("Name").fill("too high")
    form.get_by_label("Condition").fill("val_loss > 2")
    form.get_by_text("Add").click()
    expect(page.locator("#rules")).to_contain_text("val_loss > 2")
    task_id = start(http, body)
    dictation.say(*epoch(1))
    expect(page.locator("#fired")).to_contain_text("too high")
    expect(page.locator("#notes")).to_contain_text("val_loss is 2.2")
    assert http.get(f"{TRAINING}/{task_id}").json()["alerts"] == 1


def test_a_page_of_ones_own_shows_the_curves_of_a_task(
    open_page: Open,
    dictation: Dictation,
    http: httpx.Client,
    body: dict[str, Any],
    server: RunningServer,
    expected: list[str],
) -> None:
    """The page of the guide, on the service's own origin."""
    expected.append("favicon")
    guide = Path(__file__).parents[2] / "doc" / "TRAINING_METRICS_GUIDE.en.md"
    (example,) = (block.code for block in blocks_of(guide, "html") if "<training-charts" in block.code)
    task_id = start(http, body)
    dictation.say(*epoch(1), *epoch(2))
    own = example.replace("TASK", task_id).replace("http://localhost:8000", server.url)
    page = open_page("icon.svg")
    page.route("**/own.html", lambda route: route.fulfill(body=own, content_type="text/html"))
    page.goto(f"{server.url}/own.html")
    wait_for_points(page, "loss", 2)
    dictation.say(*epoch(3))
    wait_for_points(page, "loss", 3)


VIEWS = ("#/", "#/alerts", "#/task/{task_id}", "#/compare?ids={task_id},{other}", "#/start", "#/devices")


@pytest.mark.parametrize("scheme", ["light", "dark", "dark by the switch"])
def test_nothing_serious_is_wrong_for_a_screen_reader(
    open_page: Open, dictation: Dictation, http: httpx.Client, body: dict[str, Any], scheme: str
) -> None:
    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    dictation.say(*epoch(1), *epoch(2))
    task_id, other = start(http, body), start(http, body)
    for view in VIEWS:
        preferred = "dark" if scheme == "dark" else "light"
        page = open_page(view.format(task_id=task_id, other=other), color_scheme=preferred)
        expect(page.locator("h1").first).to_be_visible()
        if scheme != preferred:
            page.get_by_role("button", name="Theme").click()
        if "task/" in view:
            wait_for_points(page, "loss", 2)
            expect(page.locator("#details")).to_be_visible()
            page.locator("#provenance > details > summary").click()
            expect(page.locator("#provenance")).to_contain_text("torchvision")
        page.evaluate(axe)
        found = page.evaluate("axe.run()")
        serious = [
            (each["id"], [node["html"] for node in each["nodes"]][:3])
            for each in found["violations"]
            if each["impact"] in {"serious", "critical"}
        ]
        assert serious == [], view
        page.close()


EPOCHS = int(os.environ.get("SCREENSHOT_EPOCHS", "1"))
"""Of the real trainings: one is enough to see all of the page."""


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RunningServer]:
    """A service that trains for real."""
    server = RunningServer(create_app(Settings(state_dir=tmp_path / "real")))
    yield server
    server.stop()


def test_a_real_training_is_seen_in_every_view(open_page: Open, real: RunningServer, tmp_path: Path) -> None:
    """Real digits, the built-in trainer. The README shows pictures that this test has taken."""
    train, val = digit_folders(tmp_path / "data")
    request = {
        "model": "shufflenet_v2_x0_5",
        "num_classes": 10,
        "train_path": str(train),
        "val_path": str(val),
        "save_path": str(tmp_path / "runs"),
        "num_epochs": EPOCHS,
        "image_size": 32,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "hflip": False,
        "pretrained": False,
        "device": "cpu",
    }
    with httpx.Client(base_url=real.url, timeout=120) as http:
        for name, rate in (("first", 1e-3), ("second", 5e-3)):
            wait_for_end(http, start(http, request, name=name, task_id=name, learning_rate=rate))
    for name, where, chart, scheme in (
        ("tasks", "#/", "", "light"),
        ("task", "#/task/second", "mAP", "light"),
        ("compare", "#/compare?ids=first,second", "val_loss", "dark"),
        ("start", "#/start?from=second", "", "light"),
        ("alerts", "#/alerts", "", "light"),
        ("devices", "#/devices", "", "dark"),
    ):
        page = open_page(where, url=real.url, color_scheme=scheme)
        if chart:
            wait_for_points(page, chart, EPOCHS)
        expect(page.locator("h1").first).to_be_visible()
        picture = page.screenshot(animations="disabled")
        if os.environ.get("TAKE_SCREENSHOTS"):
            (SCREENSHOTS / f"{name}.png").write_bytes(picture)
        page.close()
