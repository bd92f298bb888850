"""ImageNet weights, from torch's cache or from where torchvision publishes them, without ever hanging.

torch's own downloader has no time limit, and a machine without a network may take minutes to find out
that a host name leads nowhere. Here an answer must begin within seconds, a name lookup that stalls
included, and a stop takes effect at once.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit
from uuid import uuid4

import torch
from torchvision import models

from trainer.errors import TrainingFailed, TrainingStopped
from trainer.weights import StateDict, read_weights

ANSWER_SECONDS = 4.0
"""From asking to the first byte of an answer."""
STALL_SECONDS = 10.0
"""Between two pieces of a download."""
IMPATIENT_SECONDS = 120.0
"""A whole download that nobody insisted on."""
_POLL_SECONDS = 0.05
_PIECE = 1 << 20


class WeightsUnavailable(Exception):
    """There are no pretrained weights to be had. The message is the reason, for use in a sentence."""


def pretrained_weights(
    name: str, *, patient: bool, logger: logging.Logger, should_stop: Callable[[], bool]
) -> tuple[StateDict, str]:
    """torchvision's default weights for `name`, and the name of their file.

    They are kept in torch's cache (`TORCH_HOME`), where other programs find them too. `patient` lets a
    live download take as long as it takes.

    Raises `WeightsUnavailable`, `TrainingStopped`.
    """
    url = weights_url(name)
    if url is None:
        raise WeightsUnavailable("none are published")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if not cached.is_file():
        _download(
            url, cached, time_limit=None if patient else IMPATIENT_SECONDS, logger=logger, should_stop=should_stop
        )
    try:
        return read_weights(cached), cached.name
    except TrainingFailed as error:
        raise WeightsUnavailable(f"{cached} is damaged: delete it") from error


def weights_url(name: str) -> str | None:
    """Where torchvision publishes the weights that it holds to be the best of `name`."""
    published = models.get_model_weights(name)
    return str(published.DEFAULT.url) if len(published) else None


def _download(
    url: str, target: Path, *, time_limit: float | None, logger: logging.Logger, should_stop: Callable[[], bool]
) -> None:
    """Fetch `url` to `target`, which appears complete and checked, or not at all."""
    host = urlsplit(url).hostname
    partial = target.with_name(f"{target.name}.{uuid4().hex}.partial")
    try:
        with _answer(url, should_stop) as response:
            size = int(response.headers.get("Content-Length") or 0)
            logger.info(f"Downloading {target.name} from {host}" + (f", {size / 1e6:.1f} MB" if size else ""))
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            started = time.monotonic()
            with partial.open("xb") as file:
                while piece := response.read1(_PIECE):
                    if should_stop():
                        raise TrainingStopped
                    if time_limit is not None and time.monotonic() - started > time_limit:
                        advice = "set pretrained to true to wait for it"
                        raise WeightsUnavailable(f"the download took longer than {time_limit:.0f} s: {advice}")
                    digest.update(piece)
                    file.write(piece)
        # torchvision puts the first digits of the SHA-256 into the name: resnet18-f37072fd.pth
        expected = re.search(r"-([0-9a-f]{8,})\.", target.name)
        if expected and not digest.hexdigest().startswith(expected[1]):
            raise WeightsUnavailable(f"the download from {host} is incomplete or not the published file")
        partial.replace(target)
    except (OSError, HTTPException, ValueError) as error:
        raise WeightsUnavailable(f"no download from {host}: {getattr(error, 'reason', error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def _answer(url: str, should_stop: Callable[[], bool]) -> HTTPResponse:
    """Open `url`, waiting at most `ANSWER_SECONDS`.

    In a thread of its own because a name lookup has no time limit and cannot be interrupted. A daemon
    thread, so that one which still waits for a lookup does not hold up the end of the process; it runs
    nothing of torch.
    """
    answers: SimpleQueue[HTTPResponse | Exception] = SimpleQueue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            response = urllib.request.urlopen(url, timeout=STALL_SECONDS)  # noqa: S310 - torchvision's own URL
        except (OSError, HTTPException, ValueError) as error:
            answers.put(error)
            return
        answers.put(response)
        if given_up.is_set():
            response.close()

    threading.Thread(target=ask, name="pretrained-weights", daemon=True).start()
    deadline = time.monotonic() + ANSWER_SECONDS
    while not (stopped := should_stop()) and time.monotonic() < deadline:
        with suppress(Empty):
            answer = answers.get(timeout=_POLL_SECONDS)
            if isinstance(answer, Exception):
                raise answer
            return answer
    given_up.set()
    with suppress(Empty):
        late = answers.get_nowait()
        if isinstance(late, HTTPResponse):
            late.close()
    if stopped:
        raise TrainingStopped
    raise TimeoutError(f"no answer within {ANSWER_SECONDS:.0f} s")
