"""The examples of README and guide are run as they are printed, against a real service.

Replaced are only the places that a reader fills in too: the service's address, task ids, folders of images.
The trainer prints what the guide shows as the lines of an epoch. Chinese and English documents have the
same blocks, so one set is run.
"""

from __future__ import annotations

import ast
import functools
import http.server
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page
from pydantic import SecretStr

import app_refactored
from client.demo.digits import digit_folders
from models.schemas import DetailedLogEntry, ImportRequest, TaskResponse, TrainingRequest
from services.devices import Gpu
from services.executors.base import Run
from services.parsing import LineParser
from tests.documents import PAIRS, ROOT, Block, blocks_of
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor
from trainer.errors import TrainingStopped

README, GUIDE = PAIRS["README"][0], PAIRS["guide"][0]
ADDRESSES = ("http://localhost:8000", "http://192.0.2.10:8000")
LAST_MESSAGE = "任务结束"
TOKEN = "a-token"
HELD = 1
"""As `seed` of a request: train until told to stop."""

PYTHON_SHIM = """\
#!/bin/sh
case "$1 $2" in
"app_refactored.py "*)  # its settings are right, and the store's driver is there
    exec "$REAL_PYTHON" -c 'from settings import Settings; from sqlalchemy import make_url
make_url(Settings().store_url).get_dialect()' ;;
"test_training_metrics.py "*)
    shift; exec "$REAL_PYTHON" -c 'import sys; from test_training_metrics import parse; parse(sys.argv[1:])' "$@" ;;
"-m trainer")
    exec "$REAL_PYTHON" -c 'import sys; from pathlib import Path; from trainer.__main__ import read_request
from trainer.preflight import check; sys.exit(len(check(read_request(Path(sys.argv[1])))))' "$3" ;;
"-m http.server") exit 0 ;;
esac
exec "$REAL_PYTHON" "$@"
"""
"""`python` for the shell examples: what would serve, or train, for long is checked and not run."""
MAKE_SHIM = f'#!/bin/sh\nexec "$REAL_MAKE" -n -C "{ROOT}" "$@"\n'

SCHEMATHESIS_SHIM = "#!/bin/sh\n"
"""It runs for minutes, in a test of its own."""
TRAINCTL_SHIM = '#!/bin/sh\nexec "$REAL_PYTHON" -m client.commands "$@"\n'
SHIMS = {"python": PYTHON_SHIM, "make": MAKE_SHIM, "schemathesis": SCHEMATHESIS_SHIM, "trainctl": TRAINCTL_SHIM}


def sections(path: Path) -> list[list[Block]]:
    """Every block with those that directly follow it and show what it answers."""
    found: list[list[Block]] = []
    for block in blocks_of(path):
        if block.language in {"json", "text"} and found:
            found[-1].append(block)
        else:
            found.append([block])
    return found


def epoch_lines() -> list[str]:
    """What the guide shows as the built-in trainer's lines of one epoch."""
    return next(block.code for block in blocks_of(GUIDE, "text") if block.code.startswith("Epoch [")).splitlines()


@dataclass
class Workplace:
    """A folder like the reader's, and a service that its examples can talk to."""

    folder: Path
    server: RunningServer
    guarded: Callable[[], RunningServer]
    """A service that asks for a token."""
    printed: threading.Semaphore
    """Released when a training that is held has printed its epoch."""
    may_print: threading.Event
    """Clear: a training that has begun says nothing yet."""

    def fill_in(self, block: Block) -> str:
        """The block's code with the reader's own address, folders and task."""
        server = self.guarded() if "Bearer" in block.code else self.server
        code = functools.reduce(lambda text, address: text.replace(address, server.url), ADDRESSES, block.code)
        code = re.sub(r"(?<![\w.])/(data|checkpoints|code|logs(?=/train))\b", rf"{self.folder}/\1", code).replace(
            "YOUR_TOKEN", TOKEN
        )
        if "status=running" in code:
            self.start(server, held=True)
            self.start(server, held=True)
        if "PATCH" in code:
            return code.replace("{task_id}", self.queue())
        if "/stop" in code:
            return re.sub(r"(?<=/training/)[^/]+", self.start(server, held=True), code)
        if "{task_id}" in code:
            code = code.replace("{task_id}", self.start(server, held="/logs" not in code and "DELETE" not in code))
        return code

    def start(self, server: RunningServer, *, held: bool) -> str:
        """A task that has printed its epoch and goes on, or that has ended."""
        task_id = server.service.start_training(self.request(held=held)).task_id
        if held:
            assert self.printed.acquire(timeout=30)
            server.service.get_logs(task_id)  # they are stored, and in the status
        else:
            self.wait(server, task_id)
        return task_id

    def queue(self) -> str:
        """A task that waits for the CPU, on which another one runs."""
        service = self.server.service
        service.set_limits({"cpu": 1})
        service.start_training(self.request(held=True, device="cpu"))
        assert self.printed.acquire(timeout=30)
        return service.start_training(self.request(held=False, device="cpu")).task_id

    def request(self, *, held: bool, device: str = "cuda") -> TrainingRequest:
        return TrainingRequest(
            model="resnet18",
            num_classes=37,
            train_path=str(self.folder / "data/train"),
            val_path=str(self.folder / "data/val"),
            save_path=str(self.folder / "checkpoints"),
            num_epochs=10,
            seed=HELD if held else 0,
            device=device,
        )

    def wait(self, server: RunningServer, task_id: str) -> None:
        """Until a task has ended."""
        log = f"{server.url}/api/v2/training/{task_id}/logs"
        httpx.get(log, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30).raise_for_status()

    @contextmanager
    def starting_slowly(self) -> Iterator[None]:
        """Trainings that begin in this context print, and end, when it is over."""
        before = set(self.server.service.tasks)
        self.may_print.clear()
        try:
            yield
        finally:
            self.may_print.set()
        for task_id in set(self.server.service.tasks) - before:
            self.wait(self.server, task_id)

    def run(self, *command: str) -> str:
        """What a command prints; it must succeed."""
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "REAL_PYTHON": sys.executable,
            "REAL_MAKE": shutil.which("make") or "",
            "TOKEN": TOKEN,
            "TRAINING_SERVICE_URL": self.server.url,
            "no_proxy": "*",
        }
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, f"{done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the examples name: 37 classes under `data`, the demo's digits under `demo/data`."""
    folder = tmp_path_factory.mktemp("workplace")
    for split in ("train", "val"):
        for number in range(37):
            one = folder / "data" / split / f"class{number:02d}" / "1.png"
            one.parent.mkdir(parents=True)
            Image.new("L", (8, 8)).save(one)
    digit_folders(folder / "demo" / "data")
    (folder / "code").mkdir()
    (folder / "logs").mkdir()
    (folder / "logs" / "train.log").write_text("Epoch [3/10] started\nTrain Loss: 0.5234, Train Accuracy: 0.8245\n")
    for name, script in SHIMS.items():
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def web(images: Path) -> Iterator[str]:
    """Origin of a web server for the examples' pages."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

    (images / "pages").mkdir()
    (images / "pages" / "blank.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    handler = functools.partial(Quiet, directory=str(images / "pages"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="pages")
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def workplace(
    images: Path,
    web: str,
    executor: ScriptedExecutor,
    serve: Callable[..., RunningServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Workplace:
    printed, may_print = threading.Semaphore(0), threading.Event()

    def print_epoch(run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
        assert may_print.wait(30)
        request = run.request
        lines = Path(request.path).read_text().splitlines() if isinstance(request, ImportRequest) else epoch_lines()
        for line in lines:
            logger.info(line)
        if isinstance(run.request, TrainingRequest) and run.request.seed == HELD:
            printed.release()
            never = threading.Event()
            while not should_stop():
                never.wait(0.005)
            raise TrainingStopped
        logger.info("Training complete.")

    executor.script = print_epoch
    may_print.set()
    monkeypatch.chdir(images)  # relative paths of a request begin where the service runs
    monkeypatch.setattr(app_refactored, "list_gpus", lambda: [Gpu("cuda:0", 0)])
    options = {
        "max_training_concurrent_cpu": 99,
        "max_training_concurrent_gpu": 99,
        "allowed_origins": (web,),
        "allow_commands": True,
    }
    guarded = functools.partial(serve, **options, api_tokens=(SecretStr(TOKEN),), state_dir=tmp_path / "guarded")
    return Workplace(images, serve(**options), functools.cache(guarded), printed, may_print)


@pytest.fixture
def page(browser: Browser, web: str) -> Iterator[Page]:
    opened = browser.new_page()
    opened.goto(f"{web}/blank.html")
    yield opened
    opened.close()


@pytest.mark.parametrize("name", PAIRS)
def test_both_languages_have_the_same_examples(name: str) -> None:
    english, chinese = ([(block.language, block.code) for block in blocks_of(path)] for path in PAIRS[name])
    assert chinese == english


@pytest.mark.parametrize("path", [README, GUIDE], ids=lambda path: path.name)
def test_every_example_is_of_a_kind_that_is_run(path: Path) -> None:
    known = {"bash", "python", "javascript", "html", "json", "text", "nginx"}
    assert {block.language for block in blocks_of(path)} <= known


@pytest.mark.parametrize("path", [README, GUIDE], ids=lambda path: path.name)
def test_shell_examples_run_and_answer_as_shown(path: Path, workplace: Workplace, subtests: pytest.Subtests) -> None:
    for block, *shown in sections(path):
        if block.language == "bash":
            with subtests.test(str(block)):
                script = workplace.fill_in(block)
                with workplace.starting_slowly() if "/start" in script else nullcontext():
                    answer = workplace.run("bash", "-euo", "pipefail", "-c", script)
                for example in shown:
                    assert_answers_like(example, answer.replace(str(workplace.folder), ""))


def assert_answers_like(example: Block, answer: str) -> None:
    """Same keys, all the way down; an error word for word; a stream's frames are of kinds that the answer has."""
    if example.language == "json":
        real, shown = json.loads(answer), json.loads(example.code)
        assert shape(real) == shape(shown)
        assert "detail" not in shown or real == shown
    elif example.code.startswith("retry:"):
        assert answer.startswith("retry: 3000\r\n\r\nid: 1\r\n")
        kinds = {kind_of(entry) for _, entry in frames_of(answer)}
        assert {kind_of(entry) for _, entry in frames_of(example.code)} <= kinds


def shape(value: Any) -> Any:
    match value:
        case dict():
            return {key: shape(part) for key, part in value.items()}
        case [first, *_]:
            return [shape(first)]
        case _:
            return None


def kind_of(entry: dict[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(entry), frozenset(entry.get("metrics", ()))


def frames_of(stream: str) -> list[tuple[int, dict[str, Any]]]:
    """(id, data) of every event."""
    found = re.findall(r"^id: (\d+)\r?\ndata: (.*?)\r?$", stream, re.MULTILINE)
    return [(int(number), json.loads(data)) for number, data in found]


@pytest.mark.parametrize("path", [README, GUIDE], ids=lambda path: path.name)
def test_shown_log_lines_have_the_metrics_that_the_service_reads(path: Path) -> None:
    (stream,) = (frames_of(block.code) for block in blocks_of(path, "text") if block.code.startswith("retry:"))
    for _, data in stream:
        assert data.keys() <= DetailedLogEntry.model_fields.keys()
        entry = DetailedLogEntry.model_validate(data)
        parser = LineParser()
        if entry.metrics:
            parser.parse(f"Epoch [{entry.metrics['epoch']}/{entry.metrics['total_epochs']}] started")
        parsed = parser.parse(entry.message)
        assert (entry.metrics or {}, entry.step) == (parsed.metrics, parsed.step)
        assert parsed.stage is None or entry.stage == parsed.stage


def test_shown_trainer_lines_give_the_status_that_is_shown(workplace: Workplace) -> None:
    task_id = workplace.start(workplace.server, held=True)
    status = httpx.get(f"{workplace.server.url}/api/v2/training/{task_id}").json()
    shown = [json.loads(block.code) for block in blocks_of(GUIDE, "json")]
    example = next(answer for answer in shown if answer.get("progress") == 30)
    different = {"task_id", "created_at", "updated_at"}
    assert {k: v for k, v in status.items() if k not in different} == {
        k: v for k, v in example.items() if k not in different
    }
    TaskResponse.model_validate(example)


@pytest.mark.parametrize("path", [README, GUIDE], ids=lambda path: path.name)
def test_python_examples_run(path: Path, workplace: Workplace, subtests: pytest.Subtests) -> None:
    for block, *shown in sections(path):
        if block.language == "python" and not any(part in block.code for part in ("trainer.checkpoint", "webhook-")):
            with subtests.test(str(block)):
                printed = workplace.run(sys.executable, "-c", workplace.fill_in(block))
                assert printed
                if "for entry in client.follow" in block.code or "in follow(" in block.code:
                    assert LAST_MESSAGE in printed
                for example in shown:
                    assert printed == example.code


def test_a_trained_network_is_used_as_shown(
    image_folders: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.loop import train

    (example,) = (block.code for block in blocks_of(README, "python") if "trainer.checkpoint" in block.code)
    request = TrainingRequest(
        model="resnet18",
        num_classes=3,
        train_path=str(image_folders / "train"),
        val_path=str(image_folders / "val"),
        save_path="demo/runs",
        num_epochs=1,
        image_size=32,
        pretrained=False,
    )
    monkeypatch.chdir(images)
    train(
        request,
        output_dir=Path("demo/runs/digits"),
        device="cpu",
        logger=logging.Logger("example"),
        should_stop=lambda: False,
    )
    try:
        exec(compile(example, str(README), "exec"), {})
    finally:
        shutil.rmtree("demo/runs/digits")
    assert set(ast.literal_eval(capsys.readouterr().out)) == {"cat", "dog", "fox"}


@pytest.mark.parametrize("path", [README, GUIDE], ids=lambda path: path.name)
def test_javascript_examples_run(path: Path, workplace: Workplace, page: Page, subtests: pytest.Subtests) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    for block in blocks_of(path, "javascript"):
        with subtests.test(str(block)):
            code = workplace.fill_in(block)
            if path == README:
                code = code.replace("/training/digits/", f"/training/{workplace.start(workplace.server, held=False)}/")

            def is_last(message: ConsoleMessage, code: str = code) -> bool:
                return LAST_MESSAGE in message.text or "/logs" not in code

            with page.expect_console_message(is_last):
                page.add_script_tag(content=code, type="module")
            assert errors == []


@pytest.fixture
def watch_page(workplace: Workplace, web: str) -> str:
    """URL of the guide's complete page, without the task."""
    (example,) = (block for block in blocks_of(GUIDE, "html") if "<training-charts" not in block.code)
    assert "3000" in example.code
    impatient = workplace.fill_in(example).replace("3000", "30")
    (workplace.folder / "pages" / "watch.html").write_text(impatient)
    return f"{web}/watch.html?task="


def test_the_complete_page_shows_a_training_to_its_end(workplace: Workplace, watch_page: str, page: Page) -> None:
    task_id = workplace.start(workplace.server, held=True)
    page.goto(watch_page + task_id)
    page.wait_for_function("document.getElementById('log').textContent.includes('Top-k')")
    assert page.inner_text("#state") == "epoch 3/10, epoch_end"
    workplace.server.service.stop_training(task_id)
    page.wait_for_function("document.getElementById('state').textContent === 'cancelled'")
    assert "macro_f1\t0.7654" in page.inner_text("#metrics")
    assert page.inner_text("#log").splitlines()[:2] == [
        "1 Task accepted: resnet18, 10 epochs on cuda",
        "2 Training starts on cuda:0",
    ]


def test_the_complete_page_goes_on_after_an_answer_that_closes_an_event_source(
    workplace: Workplace, watch_page: str, page: Page
) -> None:
    task_id = workplace.start(workplace.server, held=False)
    refusals = iter([500, 502])
    page.route(
        "**/logs?*",
        lambda route: route.fulfill(status=status) if (status := next(refusals, None)) else route.continue_(),
    )
    page.goto(watch_page + task_id)
    page.wait_for_function("document.getElementById('state').textContent === 'completed'")
    assert page.inner_text("#log").splitlines()[-1] == f"19 {LAST_MESSAGE}"


def test_the_complete_page_says_why_it_cannot_go_on(workplace: Workplace, watch_page: str, page: Page) -> None:
    page.goto(watch_page + "nobody")
    page.wait_for_function("document.getElementById('state').textContent.startsWith('task_not_found: ')")
    pages = workplace.folder / "pages"
    guarded = (pages / "watch.html").read_text().replace(workplace.server.url, workplace.guarded().url)
    (pages / "guarded.html").write_text(guarded)
    page.goto(watch_page.replace("watch.html", "guarded.html") + "nobody")
    page.wait_for_function("document.getElementById('state').textContent.startsWith('token_required: ')")
