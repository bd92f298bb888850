"""The documents name everything that there is, nothing that there is not, and the same in both languages."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from api.streams import ALIVE
from app_refactored import create_app
from models.presets import PRESETS
from models.schemas import (
    CommandRequest,
    ImportRequest,
    MetricDefinition,
    Stage,
    TaskRequest,
    TaskResponse,
    TaskStatus,
    TrainingMetrics,
    TrainingRequest,
)
from services.parsing import FORMATS, LineParser
from services.state_machine import ALERT, INTERRUPTED, MACHINE_LOST, PLAIN, RESUMED, TIMEOUT, USER_STOP
from settings import Settings
from tests.documents import (
    PAIRS,
    ROOT,
    blocks_of,
    coded,
    headings_of,
    prose_of,
    table_of,
    tables_of,
)
from trainer.catalogue import list_networks
from trainer.folders import IMAGE_EXTENSIONS

READMES, GUIDES = PAIRS["README"], PAIRS["guide"]
PROMISED = (
    *("功能概述和特点", "所有API接口的详细说明", "支持的训练指标列表", "训练阶段说明"),
    *("Python客户端示例代码", "JavaScript/Web客户端示例代码", "指标提取机制说明", "故障排除指南"),
)
"""The sections of the guide, in the words of the published change log."""
DOCUMENTED_CURLS = (
    'curl -X POST http://localhost:8000/api/v2/training/start \\\n  -H "Content-Type: application/json" \\\n  -d \'{',
    "curl http://localhost:8000/api/v2/training/{task_id}\n",
    "curl http://localhost:8000/api/v2/training/{task_id}/logs\n",
)
DOCUMENTED_START = """\
  -d '{
    "model": "resnet18",
    "num_classes": 37,
    "train_path": "/data/train",
    "val_path": "/data/val",
    "save_path": "/checkpoints",
    "num_epochs": 10,
    "device": "cuda:0"
  }'
"""
"""The requests of the published change log, from which deployed clients were written."""

pair_names = pytest.mark.parametrize("name", PAIRS)
both_guides = pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
both_readmes = pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
markdown_files = pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("*.md"), *ROOT.glob("doc/**/*.md")]), ids=lambda path: path.name
)


@pair_names
def test_languages_correspond(name: str) -> None:
    english, chinese = PAIRS[name]
    assert [level for level, _ in headings_of(chinese)] == [level for level, _ in headings_of(english)]
    assert codes_in_tables(chinese) == codes_in_tables(english)


def codes_in_tables(path: Path) -> list[list[list[str]]]:
    """Rows with what is the same in every language: the code in their cells, except example lines and defaults."""
    return [[[coded(cell) or "" for cell in row] for row in table] for table in tables_of(path)]


def test_guide_has_the_promised_sections() -> None:
    titles = [re.sub(r"^\d+\. ", "", title) for level, title in headings_of(GUIDES[1]) if level == 2]
    assert titles == list(PROMISED)


@both_guides
def test_every_route_is_documented(guide: Path, settings: Settings) -> None:
    routes = {
        f"{method.upper()} {path}"
        for path, operations in create_app(settings).openapi()["paths"].items()
        for method in operations
    }
    assert table_of(guide, "GET /").keys() == routes
    assert {title for level, title in headings_of(guide) if level == 3} >= routes


@both_readmes
def test_every_setting_is_documented_with_its_default(readme: Path) -> None:
    table = table_of(readme, "HOST")
    assert [name.lower() for name in table] == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        shown = coded(table[name.upper()][0])
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        assert shown == (None if field.default in (None, ()) else default), name


@both_guides
@pytest.mark.parametrize(
    ("model", "one_field", "inherited"),
    [
        (TrainingRequest, "train_path", BaseModel),
        (CommandRequest, "working_dir", TaskRequest),
        (ImportRequest, "path", TaskRequest),
        (MetricDefinition, "regex", BaseModel),
    ],
)
def test_every_request_field_is_documented_with_its_default(
    guide: Path, model: type[BaseModel], one_field: str, inherited: type[BaseModel]
) -> None:
    """What requests have in common stands in the table of the first."""
    table = table_of(guide, one_field)
    fields = {name: field for name, field in model.model_fields.items() if name not in inherited.model_fields}
    assert table.keys() == fields.keys()
    for name, field in fields.items():
        shown = coded(table[name][0])
        if field.is_required() or field.default is None:
            assert shown is None, name
        else:
            assert shown is not None, name
            assert json_or_text(shown) == field.default, name


@both_guides
def test_fields_that_requests_have_in_common_are_named(guide: Path) -> None:
    common = TaskRequest.model_fields.keys()
    assert common < table_of(guide, "train_path").keys()
    sentences = [line for line in re.split(r"\n\n", prose_of(guide)) if line.startswith("`name`")]
    assert len(sentences) == 2
    for sentence in sentences:
        assert common <= set(re.findall(r"`(\w+)`", sentence))


@both_guides
def test_every_preset_is_documented_with_its_values(guide: Path) -> None:
    head, *rows = next(table for table in tables_of(guide) if coded(table[0][1]) in PRESETS)
    assert [coded(cell) for cell in head[1:]] == list(PRESETS)
    for column, values in enumerate(PRESETS.values(), start=1):
        shown = {coded(row[0]): json.loads(coded(row[column]) or "") for row in rows if row[column]}
        assert shown == values


@both_guides
def test_every_log_format_is_documented(guide: Path) -> None:
    paragraph = next(part for part in prose_of(guide).split("\n\n") if part.startswith("`log_format`"))
    assert re.findall(r"`(\w+)`", paragraph) == ["log_format", *FORMATS]


def json_or_text(shown: str) -> Any:
    try:
        return json.loads(shown)
    except ValueError:
        return shown


@both_guides
def test_every_metric_is_documented_with_a_line_that_has_it(guide: Path) -> None:
    table = table_of(guide, "train_loss")
    assert table.keys() == TrainingMetrics.model_fields.keys()
    shown_lines = next(block.code for block in blocks_of(guide, "text") if block.code.startswith("Epoch [")).split("\n")
    for name, (_unit, cell) in table.items():
        line = coded(cell)
        assert line in shown_lines
        assert name in in_a_training().parse(line or "").metrics, name


@both_guides
def test_every_stage_is_documented_with_a_line_that_begins_it(guide: Path) -> None:
    table = table_of(guide, "epoch_start")
    assert list(table) == [stage.value for stage in Stage]
    for stage, (_meaning, cell) in table.items():
        assert in_a_training().parse(coded(cell) or "").stage == stage


def in_a_training() -> LineParser:
    """In front of the first epoch, a learning rate alone is a setting."""
    parser = LineParser()
    parser.parse("Epoch [1/10] started")
    return parser


@both_guides
def test_sign_of_life_of_a_stream_is_the_one_that_is_sent(guide: Path) -> None:
    sent = ALIVE.decode().strip()
    (stream,) = (block.code for block in blocks_of(guide, "text") if block.code.startswith("retry:"))
    assert [line for line in stream.splitlines() if line.startswith(":")] == [sent]
    assert f"`{sent}`" in guide.read_text("utf-8")


@both_guides
def test_every_status_is_documented(guide: Path) -> None:
    assert list(table_of(guide, "queued")) == [status.value for status in TaskStatus]


@both_guides
def test_every_field_of_a_task_is_documented(guide: Path) -> None:
    named = {code for row in table_of(guide, "progress") for code in re.findall(r"\w+", row)}
    assert named | {"task_id", "task_type"} == TaskResponse.model_fields.keys()


@both_guides
def test_every_error_code_is_documented(guide: Path) -> None:
    by_field = table_of(guide, "unknown_network").keys()
    status_table = next(table for table in tables_of(guide) if coded(table[1][1]) == "invalid_json")
    by_status = {code for row in status_table[1:] if (code := coded(row[1]))}
    at_the_start = {"store_in_use", "store_unusable"}
    assert by_field | by_status | at_the_start == codes_that_can_be_answered()
    assert by_field == field_codes()
    assert all(f"`{code}`" in prose_of(guide) for code in at_the_start)
    assert {int(row[0]) for row in status_table[1:]} - {500, 405, 408, 431} <= set(documented_statuses())


def documented_statuses() -> Iterator[int]:
    for operations in create_app(Settings()).openapi()["paths"].values():
        for operation in operations.values():
            yield from (int(status) for status in operation["responses"])


@both_guides
def test_every_reason_is_documented(guide: Path) -> None:
    raised = {
        call.args[0].value for call in calls_in("trainer", "TrainingFailed") if isinstance(call.args[0], ast.Constant)
    }
    raised |= {
        call.args[0].value for call in calls_in("services", "TrainingFailed") if isinstance(call.args[0], ast.Constant)
    }
    numbered = {"exit_code_N", "killed_by_signal_N"}
    of_the_service = PLAIN | {ALERT, USER_STOP, TIMEOUT, INTERRUPTED, RESUMED, MACHINE_LOST, "error"}
    assert table_of(guide, "user_stop").keys() == raised | numbered | of_the_service


@both_readmes
def test_every_image_kind_is_documented(readme: Path) -> None:
    assert ", ".join(f"`{extension}`" for extension in IMAGE_EXTENSIONS) in prose_of(readme).replace("、", ", ")


@both_readmes
def test_number_of_networks_is_right(readme: Path) -> None:
    assert re.findall(r"torchvision(?:'s| 的) (\d+)", prose_of(readme)) == [str(len(list_networks()))]


@both_readmes
def test_readme_has_the_published_requests(readme: Path) -> None:
    shown = "".join(block.code for block in blocks_of(readme, "bash"))
    for command in DOCUMENTED_CURLS:
        assert command.replace("{task_id}", "digits") in shown


@both_guides
def test_guide_has_the_published_requests(guide: Path) -> None:
    shown = "".join(block.code for block in blocks_of(guide, "bash"))
    for command in (*DOCUMENTED_CURLS, DOCUMENTED_START):
        assert command in shown


@markdown_files
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(path)):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in [anchor_of(title) for _, title in headings_of(linked)], target


def anchor_of(title: str) -> str:
    """As GitHub makes it: lower case, without punctuation, spaces as hyphens."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@markdown_files
def test_documents_have_no_emoji(path: Path) -> None:
    assert not re.search("[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f]", path.read_text("utf-8"))


def test_decisions_are_short() -> None:
    decisions = sorted((ROOT / "doc/decisions").glob("*.md"))
    assert decisions
    for path in decisions:
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name)
        assert len(path.read_text("utf-8").splitlines()) <= 40, path.name
        assert [title for _, title in headings_of(path)][1:] == ["Context", "Decision", "Consequences"]


def codes_that_can_be_answered() -> set[str]:
    """Every `code` in the source of the service, by the ways in which it is written there."""
    codes = field_codes()
    for node in nodes_in("api", "services"):
        match node:
            case ast.ClassDef(body=body):
                codes |= {value for part in body if (value := assigned_code(part))}
            case ast.keyword(arg="code", value=ast.Constant(value=str(value))):
                codes.add(value)
            case ast.Call(func=ast.Name("error_response"), args=[_, _, ast.Constant(value=str(value)), *_]):
                codes.add(value)
            case ast.Tuple(elts=[ast.Constant(value=int()), _, ast.Constant(value=str(value))]):
                codes.add(value)
            case ast.Assign(
                targets=[ast.Tuple(elts=[_, ast.Name("code")])],
                value=ast.Tuple(elts=[_, ast.Constant(value=str(value))]),
            ):
                codes.add(value)
    for call in [*calls_in("services", "TaskConflict"), *calls_in("services", "ServiceError")]:
        assert any(keyword.arg == "code" for keyword in call.keywords), f"line {call.lineno}: the base's code"
    return codes - {"conflict", "bad_request"} | {"not_found", "method_not_allowed"}


def assigned_code(statement: ast.stmt) -> str | None:
    match statement:
        case ast.Assign(targets=[ast.Name("code")], value=ast.Constant(value=str(value))):
            return value
    return None


def field_codes() -> set[str]:
    """Codes of single fields that are checked by us, not by pydantic."""
    calls = [*calls_in("trainer", "_problem"), *calls_in("services", "FieldProblem")]
    values = [
        call.args[1] if len(call.args) > 1 else next(word.value for word in call.keywords if word.arg == "code")
        for call in calls
    ]
    return {value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)}


def calls_in(folder: str, name: str) -> list[ast.Call]:
    return [
        node
        for node in nodes_in(folder)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def nodes_in(*folders: str) -> Iterator[ast.AST]:
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text("utf-8")))


def test_errors_of_no_route_have_the_documented_codes(http: httpx.Client) -> None:
    assert http.get("/nowhere").json()["code"] == "not_found"
    assert http.put("/api/v2/models").json()["code"] == "method_not_allowed"
