"""Pretrained weights are used where they are to be had, and waited for by nobody where they are not."""

from __future__ import annotations

import hashlib
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from tests.trainer.helpers import logger_and_lines, never, request_for
from trainer import pretrained
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.network import bare_network, build_network

NAME = "squeezenet1_1"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's, and no proxy."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "torch/hub/checkpoints"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def use_url(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    monkeypatch.setattr(pretrained, "weights_url", lambda name: url)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class _Shelf(BaseHTTPRequestHandler):
    """Serves `content` under every path."""

    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        with suppress(ConnectionError):  # the client may stop reading
            self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The weights of a small network on a server, under a name with the first digits of their hash."""
    torch.save(bare_network(NAME, 1000, 32).state_dict(), tmp_path / "published")
    content = (tmp_path / "published").read_bytes()
    monkeypatch.setattr(_Shelf, "content", content)
    with HTTPServer(("127.0.0.1", 0), _Shelf) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/weights-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        server.shutdown()
        thread.join()


def test_a_url_is_torchvisions() -> None:
    assert pretrained.weights_url("resnet18") == "https://download.pytorch.org/models/resnet18-f37072fd.pth"


def test_cached_weights_are_used_with_a_line(tmp_path: Path, cache: Path) -> None:
    source = bare_network(NAME, 1000, 32)
    url = pretrained.weights_url(NAME)
    assert url is not None
    cache.mkdir(parents=True)
    torch.save(source.state_dict(), cache / Path(url).name)
    logger, lines = logger_and_lines()
    network, is_trained = build_network(
        request_for(tmp_path, model=NAME, pretrained="auto"), logger=logger, should_stop=never
    )
    assert lines.messages[-1] == f"Pretrained weights for {NAME} loaded from {Path(url).name}"
    assert lines.at("INFO") == lines.messages[-1:]
    assert is_trained
    assert torch.equal(network.state_dict()["features.0.weight"], source.state_dict()["features.0.weight"])


@pytest.mark.parametrize("wanted", ["auto", True])
def test_published_weights_are_downloaded_once(
    tmp_path: Path, cache: Path, published: str, monkeypatch: pytest.MonkeyPatch, wanted: object
) -> None:
    use_url(monkeypatch, published)
    request = request_for(tmp_path, model=NAME, pretrained=wanted)
    logger, lines = logger_and_lines()
    build_network(request, logger=logger, should_stop=never)
    assert lines.messages[0].startswith("Downloading weights-")
    assert [path.name for path in cache.iterdir()] == [Path(published).name]
    build_network(request, logger=logger, should_stop=never)
    assert sum(message.startswith("Downloading") for message in lines.messages) == 1


def test_a_download_that_is_not_the_published_file_is_thrown_away(
    tmp_path: Path, cache: Path, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_url(monkeypatch, published)
    monkeypatch.setattr(_Shelf, "content", b"something else")
    logger, lines = logger_and_lines()
    build_network(request_for(tmp_path, model=NAME, pretrained="auto"), logger=logger, should_stop=never)
    assert "is incomplete or not the published file" in lines.at("WARNING")[0]
    assert list(cache.iterdir()) == []


def test_an_impatient_download_ends(tmp_path: Path, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_url(monkeypatch, published)
    monkeypatch.setattr(pretrained, "IMPATIENT_SECONDS", 0.0)
    logger, lines = logger_and_lines()
    build_network(request_for(tmp_path, model=NAME, pretrained="auto"), logger=logger, should_stop=never)
    assert "set pretrained to true to wait for it" in lines.at("WARNING")[0]


def test_a_damaged_cached_file_is_named(tmp_path: Path, cache: Path) -> None:
    url = pretrained.weights_url(NAME)
    assert url is not None
    cache.mkdir(parents=True)
    (cache / Path(url).name).write_bytes(b"half a file")
    logger, lines = logger_and_lines()
    build_network(request_for(tmp_path, model=NAME, pretrained="auto"), logger=logger, should_stop=never)
    assert "is damaged: delete it" in lines.at("WARNING")[0]


def test_a_host_that_refuses_means_training_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_url(monkeypatch, f"http://127.0.0.1:{unused_port()}/weights.pth")
    logger, lines = logger_and_lines()
    build_network(request_for(tmp_path, model=NAME, pretrained="auto"), logger=logger, should_stop=never)
    [warning] = lines.at("WARNING")
    assert warning.startswith(f"Pretrained weights for {NAME} are not available (no download from 127.0.0.1: ")
    assert warning.endswith("Connection refused); training from scratch")


def test_a_host_that_says_nothing_is_given_up(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_url(monkeypatch, f"http://127.0.0.1:{listener.getsockname()[1]}/weights.pth")
    monkeypatch.setattr(pretrained, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(pretrained, "STALL_SECONDS", 0.5)
    logger, lines = logger_and_lines()
    build_network(request_for(tmp_path, model=NAME, pretrained="auto"), logger=logger, should_stop=never)
    assert "no answer within" in lines.at("WARNING")[0]


def test_a_name_lookup_that_stalls_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_url(monkeypatch, "http://weights.invalid/weights.pth")
    over = threading.Event()

    def stall(*_arguments: object, **_named: object) -> None:
        over.wait()
        raise OSError("over")

    monkeypatch.setattr(socket, "getaddrinfo", stall)
    monkeypatch.setattr(pretrained, "ANSWER_SECONDS", 0.2)
    logger, lines = logger_and_lines()
    try:
        build_network(request_for(tmp_path, model=NAME, pretrained="auto"), logger=logger, should_stop=never)
    finally:
        over.set()
    assert "no answer within" in lines.at("WARNING")[0]


def test_a_stop_does_not_wait_for_an_answer(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_url(monkeypatch, f"http://127.0.0.1:{listener.getsockname()[1]}/weights.pth")
    monkeypatch.setattr(pretrained, "STALL_SECONDS", 0.5)
    asked = 0

    def third_time() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 3

    with pytest.raises(TrainingStopped):
        build_network(
            request_for(tmp_path, model=NAME, pretrained=True), logger=logger_and_lines()[0], should_stop=third_time
        )


def test_a_stop_ends_a_download_and_leaves_nothing(
    tmp_path: Path, cache: Path, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_url(monkeypatch, published)
    logger, lines = logger_and_lines()
    with pytest.raises(TrainingStopped):
        build_network(
            request_for(tmp_path, model=NAME, pretrained=True), logger=logger, should_stop=lambda: bool(lines.messages)
        )
    assert list(cache.iterdir()) == []


def test_an_answer_that_comes_too_late_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up, closed = threading.Event(), threading.Event()

    class Late:
        def close(self) -> None:
            closed.set()

    def answer_late(*_arguments: object, **_named: object) -> Late:
        given_up.wait()
        return Late()

    use_url(monkeypatch, "http://127.0.0.1:9/weights.pth")
    monkeypatch.setattr(urllib.request, "urlopen", answer_late)
    monkeypatch.setattr(pretrained, "ANSWER_SECONDS", 0.1)
    build_network(request_for(tmp_path, model=NAME, pretrained="auto"), logger=logger_and_lines()[0], should_stop=never)
    given_up.set()
    assert closed.wait(timeout=10)


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9/weights.pth"])
def test_weights_that_must_be_had_and_are_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    use_url(monkeypatch, url)
    with pytest.raises(TrainingFailed, match='set pretrained to "auto" or false') as failure:
        build_network(
            request_for(tmp_path, model=NAME, pretrained=True), logger=logger_and_lines()[0], should_stop=never
        )
    assert failure.value.reason == "no_weights"


def test_a_network_without_published_weights_trains_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_url(monkeypatch, None)
    logger, lines = logger_and_lines()
    build_network(request_for(tmp_path, model=NAME, pretrained="auto"), logger=logger, should_stop=never)
    expected = f"Pretrained weights for {NAME} are not available (none are published); training from scratch"
    assert lines.messages == [expected]


def test_no_weights_are_looked_for_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_name: str) -> str:
        raise AssertionError

    monkeypatch.setattr(pretrained, "weights_url", fail)
    logger, lines = logger_and_lines()
    build_network(request_for(tmp_path, model=NAME, pretrained=False), logger=logger, should_stop=never)
    assert lines.messages == []
