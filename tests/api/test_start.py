"""Starting a training: what is wrong with a request is said at once, field by field, and never with a 500."""

from __future__ import annotations

import http.client
import json
import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.schemas import TrainingRequest
from services.devices import Gpu
from services.executors.base import Run
from tests.api.conftest import Start, Watch
from tests.running_server import RunningServer
from tests.scripted_executor import ScriptedExecutor

START = "/api/v2/training/start"
JSON = {"Content-Type": "application/json"}
Body = dict[str, Any]
Change = Callable[[Body, Path], None]


def print_nothing(run: Run, logger: logging.Logger, should_stop: Callable[[], bool]) -> None:
    """Most trainings here need only be accepted."""


@pytest.fixture(autouse=True)
def _short_trainings(server_executor: ScriptedExecutor) -> None:
    server_executor.script = print_nothing


def copy_of_images(body: Body, tmp_path: Path) -> Path:
    """Point both paths of `body` to folders that a test may change."""
    copy = tmp_path / "images"
    shutil.copytree(Path(body["train_path"]).parent, copy)
    body |= {"train_path": str(copy / "train"), "val_path": str(copy / "val")}
    return copy


# --- What a good request gets ------------------------------------------------------------------------------------


def test_answer_names_the_task_and_its_device(http: httpx.Client, body: Body) -> None:
    answer = http.post(START, json=body)

    assert answer.status_code == 200
    task = answer.json()
    assert task["task_type"] == "training"
    assert task["device"] == "cpu"
    assert task["total_epochs"] == body["num_epochs"]
    assert http.get(f"/api/v2/training/{task['task_id']}").json()["created_at"] == task["created_at"]


def test_the_documents_example_body_is_accepted(
    body: Body, serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app_refactored.list_gpus", lambda: [Gpu("cuda:0", memory_used=0)])
    example_body = {
        "model": "resnet18",
        "num_classes": 3,
        "train_path": body["train_path"],
        "val_path": body["val_path"],
        "save_path": body["save_path"],
        "num_epochs": 10,
        "device": "cuda:0",
    }
    answer = httpx.post(serve().url + START, json=example_body)

    assert answer.status_code == 200, answer.text
    assert answer.json()["device"] == "cuda:0"


def test_only_five_fields_are_required(http: httpx.Client, body: Body) -> None:
    required = ("model", "num_classes", "train_path", "val_path", "save_path")

    assert http.post(START, json={name: body[name] for name in required}).status_code == 200
    for name in required:
        answer = http.post(START, json={other: body[other] for other in required if other != name})
        assert answer.status_code == 422
        assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == [(name, "missing")]


def test_defaults_are_the_contracts() -> None:
    defaults = TrainingRequest(model="resnet18", num_classes=2, train_path="t", val_path="v", save_path="s")

    expected = {"batch_size": 8, "num_epochs": 100, "learning_rate": 1e-4, "image_size": 224, "device": "cuda"}
    expected |= {"weight_path": "", "shuffle": True, "priority": 5, "name": None, "task_id": None, "description": None}
    assert expected.items() <= defaults.model_dump().items()


def test_without_a_gpu_the_default_device_is_the_cpu_and_the_log_warns(
    http: httpx.Client, body: Body, start: Start, watch: Watch
) -> None:
    del body["device"]
    task_id = start()

    assert http.get(f"/api/v2/training/{task_id}").json()["device"] == "cpu"
    warnings = [event.entry["message"] for event in watch(task_id).events() if event.entry["level"] == "WARNING"]
    assert len(warnings) == 1
    assert "CPU" in warnings[0]


def test_cuda_takes_the_least_busy_gpu(
    body: Body, serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [Gpu("cuda:0", memory_used=9), Gpu("cuda:1", memory_used=2), Gpu("cuda:2", memory_used=5)]
    monkeypatch.setattr("app_refactored.list_gpus", lambda: gpus)

    assert httpx.post(serve().url + START, json=body | {"device": "cuda"}).json()["device"] == "cuda:1"


def test_own_task_id_and_name_are_kept(http: httpx.Client, body: Body) -> None:
    wanted = {"task_id": "Run_2025-a", "name": "我的 run", "description": "第一次", "priority": 3}
    answer = http.post(START, json=body | wanted)

    assert wanted.items() <= answer.json().items()
    assert Path(body["save_path"], "我的 run").is_dir()


def test_a_run_without_a_name_gets_a_folder_of_its_own(http: httpx.Client, body: Body) -> None:
    first, second = (http.post(START, json=body).json()["task_id"] for _ in range(2))

    assert {folder.name for folder in Path(body["save_path"]).iterdir()} == {first, second}


def test_unknown_fields_are_ignored_with_a_warning_for_each(
    http: httpx.Client, body: Body, server_executor: ScriptedExecutor
) -> None:
    unknown = {"gpu_memory": 12, "旧字段": {"a": [1]}, "model_dump": None, "__class__": "x", "self": 1}
    answer = http.post(START, json=body | unknown)

    assert answer.status_code == 200
    warnings = answer.json()["warnings"]
    assert len(warnings) == len(unknown)
    for name in unknown:
        assert any(repr(name) in warning for warning in warnings)
    assert http.get(f"/api/v2/training/{answer.json()['task_id']}").json()["warnings"] == warnings


# --- What is wrong with a field ----------------------------------------------------------------------------------


def put(**changes: Any) -> Change:
    return lambda body, _: body.update(changes)


def missing_folder(field: str) -> Change:
    return lambda body, tmp_path: body.update({field: str(tmp_path / "nowhere")})


def empty_folder(body: Body, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    body["train_path"] = str(tmp_path / "empty")


def file_for_a_folder(body: Body, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    body["val_path"] = str(tmp_path / "file")


def class_without_images(body: Body, tmp_path: Path) -> None:
    for image in (copy_of_images(body, tmp_path) / "train" / "dog").iterdir():
        image.rename(image.with_suffix(".txt"))


def other_classes(body: Body, tmp_path: Path) -> None:
    images = copy_of_images(body, tmp_path)
    (images / "val" / "fox").rename(images / "val" / "wolf")


def broken_images(body: Body, tmp_path: Path) -> None:
    for image in (copy_of_images(body, tmp_path) / "val").rglob("*.png"):
        image.write_bytes(b"no image")


def save_path_under_a_file(body: Body, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    body["save_path"] = str(tmp_path / "file" / "runs")


def save_path_is_a_file(body: Body, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    body["save_path"] = str(tmp_path / "file")


def weights_are_text(body: Body, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_text("no weights")
    body["weight_path"] = str(tmp_path / "weights.pt")


def save_path_is_a_loop(body: Body, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    body["save_path"] = str(tmp_path / "one" / "runs")


def save_path_leads_nowhere(body: Body, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    body["save_path"] = str(tmp_path / "link" / "deeper")


FAULTS: dict[str, tuple[Change, str, str]] = {
    "unknown network": (put(model="resnet_18"), "model", "unknown_network"),
    "network unlike any": (put(model="完全不同"), "model", "unknown_network"),
    "network is empty": (put(model=""), "model", "string_too_short"),
    "image too small for the network": (
        put(model="inception_v3", image_size=32),
        "image_size",
        "image_size_unsupported",
    ),
    "image_size no multiple of the patches": (
        put(model="vit_b_16", image_size=225),
        "image_size",
        "image_size_unsupported",
    ),
    "train_path is missing": (missing_folder("train_path"), "train_path", "path_not_found"),
    "val_path is missing": (missing_folder("val_path"), "val_path", "path_not_found"),
    "weight_path is missing": (missing_folder("weight_path"), "weight_path", "path_not_found"),
    "weight_path has no weights": (weights_are_text, "weight_path", "bad_weights"),
    "train_path is empty": (empty_folder, "train_path", "no_classes"),
    "val_path is a file": (file_for_a_folder, "val_path", "not_a_folder"),
    "a class is empty": (class_without_images, "train_path", "empty_class"),
    "num_classes is another": (put(num_classes=7), "num_classes", "num_classes_mismatch"),
    "splits differ": (other_classes, "val_path", "classes_differ"),
    "no image can be read": (broken_images, "val_path", "no_readable_image"),
    "path is longer than a name can be": (put(train_path="/" + "x" * 300), "train_path", "path_not_readable"),
    "NUL in train_path": (put(train_path="/data\0/train"), "train_path", "string_pattern_mismatch"),
    "NUL in val_path": (put(val_path="\0"), "val_path", "string_pattern_mismatch"),
    "NUL in save_path": (put(save_path="runs\0"), "save_path", "string_pattern_mismatch"),
    "NUL in weight_path": (put(weight_path="w\0"), "weight_path", "string_pattern_mismatch"),
    "NUL in description": (put(description="a\0b"), "description", "string_pattern_mismatch"),
    "empty path": (put(save_path=""), "save_path", "string_too_short"),
    "save_path under a file": (save_path_under_a_file, "save_path", "save_path_unwritable"),
    "save_path is a file": (save_path_is_a_file, "save_path", "save_path_unwritable"),
    "save_path in /proc": (put(save_path="/proc/runs"), "save_path", "save_path_unwritable"),
    "save_path in /sys": (put(save_path="/sys/runs"), "save_path", "save_path_unwritable"),
    "save_path is a loop of links": (save_path_is_a_loop, "save_path", "save_path_unwritable"),
    "save_path below a link to nowhere": (save_path_leads_nowhere, "save_path", "save_path_unwritable"),
    "save_path with a long name below a new folder": (
        put(save_path="/tmp/no-such-folder/" + "x" * 300),
        "save_path",
        "save_path_unwritable",
    ),
    "save_path too long": (put(save_path="/" + "x" * 300), "save_path", "save_path_unwritable"),
    "no such GPU": (put(device="cuda:999"), "device", "device_not_found"),
    "no such GPUs": (put(device="cuda:98,99"), "device", "device_not_found"),
    "nine GPUs": (put(device="cuda:0,1,2,3,4,5,6,7,8"), "device", "string_pattern_mismatch"),
    "two workers in one thread": (put(num_workers=2, executor="thread"), "executor", "executor_unsuitable"),
    "less than two images for each worker": (put(num_workers=5), "batch_size", "batch_size_unsupported"),
    "GPUs for each worker without Ray": (put(gpus_per_worker=1), "gpus_per_worker", "executor_unsuitable"),
    "CPUs for each worker without Ray": (put(cpus_per_worker=2), "cpus_per_worker", "executor_unsuitable"),
    "no cluster": (put(executor="ray"), "executor", "ray_not_configured"),
    "no device": (put(device="tpu"), "device", "string_pattern_mismatch"),
    "task_id with a slash": (put(task_id="a/b"), "task_id", "string_pattern_mismatch"),
    "task_id with a dot": (put(task_id=".."), "task_id", "string_pattern_mismatch"),
    "task_id with a line end": (put(task_id="a\n"), "task_id", "string_pattern_mismatch"),
    "task_id too long": (put(task_id="a" * 65), "task_id", "string_pattern_mismatch"),
    "task_id in Chinese": (put(task_id="任务"), "task_id", "string_pattern_mismatch"),
    "task_id is a route": (put(task_id="start"), "task_id", "task_id_reserved"),
    "task_id will be a route": (put(task_id="events"), "task_id", "task_id_reserved"),
    "name leads up": (put(name=".."), "name", "value_error"),
    "name leads nowhere": (put(name="."), "name", "value_error"),
    "name with a slash": (put(name="a/b"), "name", "string_pattern_mismatch"),
    "name with NUL": (put(name="a\0"), "name", "string_pattern_mismatch"),
    "name is empty": (put(name=""), "name", "string_pattern_mismatch"),
    "name longer than a file name can be": (put(name="名" * 128), "name", "value_error"),
    "one class": (put(num_classes=1), "num_classes", "greater_than_equal"),
    "no epochs": (put(num_epochs=0), "num_epochs", "greater_than_equal"),
    "epochs of 1,000 digits": (put(num_epochs=10**1000), "num_epochs", "less_than_equal"),
    "negative batch": (put(batch_size=-1), "batch_size", "greater_than_equal"),
    "text for a number": (put(batch_size="many"), "batch_size", "int_parsing"),
    "learning rate of zero": (put(learning_rate=0), "learning_rate", "greater_than"),
    "priority 11": (put(priority=11), "priority", "less_than_equal"),
    "list for a text": (put(model=["resnet18"]), "model", "string_type"),
    "true for a number": (put(num_epochs=True), "num_epochs", "int_type"),
    "true for a rate": (put(learning_rate=True), "learning_rate", "float_type"),
    "false for a number that may be auto": (put(batch_size=False), "batch_size", "int_type"),
    "false for a number that may be left out": (put(max_runtime_s=False), "max_runtime_s", "float_type"),
    "null for a number": (put(num_classes=None), "num_classes", "int_type"),
}


@pytest.mark.parametrize(("change", "field", "code"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_answered_with_its_field_and_code(
    http: httpx.Client, body: Body, tmp_path: Path, change: Change, field: str, code: str
) -> None:
    change(body, tmp_path)
    answer = http.post(START, json=body)

    assert answer.status_code == 422, answer.text
    error = answer.json()
    assert error.keys() == {"detail", "code", "errors"}
    assert {(each["field"], each["code"]) for each in error["errors"]} == {(field, code)}
    assert error["errors"][0].keys() == {"field", "code", "message"}
    assert error["errors"][0]["message"] in error["detail"]
    assert not (tmp_path / "runs").exists(), "a refused request leaves nothing behind"
    checked = http.post("/api/v2/training/check", json=body)
    assert (checked.status_code, checked.json()) == (422, error), "check says what start says"


def test_a_number_too_large_for_a_float_is_answered_as_such(http: httpx.Client, body: Body) -> None:
    answer = http.post(START, json=body | {"learning_rate": 10**1000})

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["learning_rate"]


def test_unknown_network_is_answered_with_the_nearest_names(http: httpx.Client, body: Body) -> None:
    error = http.post(START, json=body | {"model": "ResNet-18"}).json()["errors"][0]

    assert "ResNet-18" in error["message"]
    assert "resnet18" in error["message"]


def test_mismatch_says_both_numbers(http: httpx.Client, body: Body) -> None:
    error = http.post(START, json=body | {"num_classes": 37}).json()

    assert "37" in error["detail"]
    assert "3" in error["detail"].replace("37", "")


def test_splits_that_differ_are_answered_with_the_classes_that_do(
    http: httpx.Client, body: Body, tmp_path: Path
) -> None:
    other_classes(body, tmp_path)
    detail = http.post(START, json=body).json()["detail"]

    assert "'fox'" in detail
    assert "'wolf'" in detail
    assert "'cat'" not in detail


def test_unknown_device_is_answered_with_those_there_are(
    body: Body, serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app_refactored.list_gpus", lambda: [Gpu("cuda:0", memory_used=0)])
    detail = httpx.post(serve().url + START, json=body | {"device": "cuda:1"}).json()["detail"]

    assert "cuda:1" in detail
    assert "cpu, cuda:0" in detail


def test_all_faults_are_found_in_one_pass(http: httpx.Client, body: Body, tmp_path: Path) -> None:
    faults = {"model": "nonet", "device": "cuda:999", "task_id": "start", "val_path": str(tmp_path / "nowhere")}
    answer = http.post(START, json=body | faults)

    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == faults.keys()


def test_one_good_image_among_broken_ones_is_enough(http: httpx.Client, body: Body, tmp_path: Path) -> None:
    images = copy_of_images(body, tmp_path)
    for image in (images / "val" / "cat").iterdir():
        image.write_bytes(b"no image")

    assert http.post(START, json=body).status_code == 200


# --- What another task has taken ---------------------------------------------------------------------------------


def test_a_name_in_use_is_a_conflict_and_the_first_run_is_untouched(
    http: httpx.Client, body: Body, tmp_path: Path
) -> None:
    earlier = tmp_path / "runs" / "best"
    earlier.mkdir(parents=True)
    (earlier / "model.pt").write_text("precious")
    answer = http.post(START, json=body | {"name": "best"})

    assert (answer.status_code, answer.json()["code"]) == (409, "name_in_use")
    assert str(earlier) in answer.json()["detail"]
    assert [(path.name, path.read_text()) for path in earlier.iterdir()] == [("model.pt", "precious")]


def test_a_task_id_in_use_is_a_conflict(http: httpx.Client, body: Body, tmp_path: Path) -> None:
    assert http.post(START, json=body | {"task_id": "mine"}).status_code == 200
    answer = http.post(START, json=body | {"task_id": "mine", "save_path": str(tmp_path / "elsewhere")})

    assert (answer.status_code, answer.json()["code"]) == (409, "task_id_in_use")
    assert not (tmp_path / "elsewhere").exists()


# --- Bodies that are no request ----------------------------------------------------------------------------------

BROKEN_BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 422, "invalid_request"),
    "truncated": (b'{"model": "resnet18", "num_cl', 400, "invalid_json"),
    "single quotes": (b"{'model': 'resnet18'}", 400, "invalid_json"),
    "two values": (b"{} {}", 400, "invalid_json"),
    "NaN": (b'{"learning_rate": NaN}', 400, "invalid_json"),
    "Infinity": (b'{"learning_rate": -Infinity}', 400, "invalid_json"),
    "1e400": (b'{"learning_rate": 1e400}', 400, "invalid_json"),
    "1e400 where nothing is known": (b'{"unknown": [-1e400]}', 400, "invalid_json"),
    "lone surrogate": (b'{"model": "\\ud800"}', 400, "invalid_json"),
    "lone surrogate in a key": (b'{"\\udfff": 1}', 400, "invalid_json"),
    "no UTF-8": (b'{"model": "\xff"}', 400, "invalid_json"),
    "UTF-16": ('{"model": "resnet18"}'.encode("utf-16"), 400, "invalid_json"),
    "integer of 5,000 digits": (b'{"num_classes": %s}' % (b"9" * 5_000), 400, "invalid_json"),
    "integer of 500,000 digits": (b'{"num_classes": %s}' % (b"9" * 500_000), 400, "invalid_json"),
    "nested 100,000 lists": (b"[" * 100_000, 400, "invalid_json"),
    "nested 100,000 objects": (b'{"a":' * 100_000, 400, "invalid_json"),
    "array": (b"[]", 422, "invalid_request"),
    "array of requests": (b'[{"model": "resnet18"}]', 422, "invalid_request"),
    "text": (b'"resnet18"', 422, "invalid_request"),
    "number": (b"1", 422, "invalid_request"),
    "null": (b"null", 422, "invalid_request"),
}


@pytest.mark.parametrize(("content", "status", "code"), BROKEN_BODIES.values(), ids=BROKEN_BODIES)
def test_a_body_that_is_no_request_is_refused_in_the_shape_of_all_errors(
    http: httpx.Client, content: bytes, status: int, code: str
) -> None:
    answer = http.post(START, content=content, headers=JSON)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json().keys() == ({"detail", "code", "errors"} if status == 422 else {"detail", "code"})
    assert isinstance(answer.json()["detail"], str)
    assert len(answer.content) < 2_000, "an answer does not repeat what it refuses"


@pytest.mark.parametrize("depth", [50, 400, 800, 900, 950, 980, 1_000, 2_000])
def test_nesting_is_ignored_or_refused_at_any_depth(http: httpx.Client, body: Body, depth: int) -> None:
    content = json.dumps(body)[:-1].encode() + b', "unknown": ' + b"[" * depth + b"]" * depth + b"}"
    answer = http.post(START, content=content, headers=JSON)

    assert (answer.status_code, answer.json().get("code")) in {(200, None), (400, "invalid_json")}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type_is_refused(http: httpx.Client, body: Body, content_type: str) -> None:
    answer = http.post(START, content=json.dumps(body), headers={"Content-Type": content_type})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == ["body"]
    assert "Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/api/v2/training/import", "/api/v2/resources", "/api/v2/parsing/try"])
def test_a_body_without_a_content_type_is_told_how_to_send_it(http: httpx.Client, path: str) -> None:
    answer = http.post(path, content=b"{}")

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "Content-Type: application/json" in answer.json()["detail"]
    assert "Content-Type" not in http.post(path, content=b"[]", headers=JSON).json()["detail"]


def test_json_with_a_charset_is_json(http: httpx.Client, body: Body) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}

    assert http.post(START, content=json.dumps(body), headers=headers).status_code == 200


def padded_to(size: int, body: Body) -> bytes:
    return json.dumps(body).encode().ljust(size)


def test_a_body_of_the_largest_size_is_read(http: httpx.Client, body: Body) -> None:
    assert http.post(START, content=padded_to(1_048_576, body), headers=JSON).status_code == 200


def test_a_body_that_declares_too_large_a_size_is_refused_before_it_is_sent(server: RunningServer) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % (START.encode(), 1_048_577)
        )
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413
        assert json.loads(answer.read())["code"] == "body_too_large"


def test_a_body_in_chunks_is_refused_once_it_is_too_large(http: httpx.Client, body: Body) -> None:
    def chunks() -> Iterator[bytes]:
        content = padded_to(1_048_577, body)
        for begin in range(0, len(content), 65_536):
            yield content[begin : begin + 65_536]

    answer = http.post(START, content=chunks(), headers=JSON)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.json().keys() == {"detail", "code"}


# --- Whatever else comes -----------------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**309, -(10**400), 2**63, 2**31])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(sorted(TrainingRequest.model_fields))
UNKNOWN_FIELDS = st.text() | st.sampled_from(["self", "cls", "model_config", "model_extra", "__dict__", "copy"])
GOOD_VALUES: dict[str, Any] = {"task_id": None, "name": None, "weight_path": "", "device": "cpu"}


def assert_refused_or_accepted(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert answer.json()["task_id"]
    else:
        assert {"detail", "code"} <= answer.json().keys() <= {"detail", "code", "errors"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(FIELDS, JSON_VALUES, max_size=4),
    unknown=st.dictionaries(UNKNOWN_FIELDS, JSON_VALUES, max_size=2),
)
@example(changes={"learning_rate": 10**400}, unknown={})
@example(changes={"pretrained": 10**400, "warmup_epochs": -(10**400)}, unknown={})
def test_no_field_value_is_answered_with_a_500(http: httpx.Client, body: Body, changes: Body, unknown: Body) -> None:
    assert_refused_or_accepted(http.post(START, json=unknown | body | GOOD_VALUES | changes))


@settings(max_examples=100, deadline=None)
@given(content=st.binary() | JSON_VALUES.map(lambda value: json.dumps(value).encode()) | st.text().map(str.encode))
def test_no_body_is_answered_with_a_500(http: httpx.Client, content: bytes) -> None:
    answer = http.post(START, content=content, headers=JSON)

    assert answer.status_code in {400, 422}
    assert_refused_or_accepted(answer)


def test_check_says_what_start_would_and_starts_nothing(http: httpx.Client, body: dict[str, Any]) -> None:
    before = http.get("/api/v2/training").json()["tasks"]
    good = http.post("/api/v2/training/check", json=body | {"lerning_rate": 1, "device": "cuda"})
    bad = body | {"model": "resnet", "num_classes": 7}
    checked, started = (http.post(f"/api/v2/training/{what}", json=bad) for what in ("check", "start"))

    assert good.status_code == 200
    assert good.json() == {
        "device": "cpu",
        "warnings": [
            "Unknown field 'lerning_rate' was ignored. Did you mean 'learning_rate'?",
            "No CUDA GPU on this machine: training on the CPU.",
        ],
    }
    assert checked.status_code == started.status_code == 422
    assert checked.json()["errors"] == started.json()["errors"]
    assert http.get("/api/v2/training").json()["tasks"] == before
    assert not Path(body["save_path"]).exists()
