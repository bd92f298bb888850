"""Train from a shell: `python -m trainer spec.json`, with the same lines as in the service."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TextIO

from pydantic import ValidationError

from models.schemas import TrainingRequest
from trainer.errors import (
    BAD_REQUEST,
    COMPLETED,
    FAILED,
    PEER_LOST,
    STATUS_OF_REASON,
    PeerLost,
    TrainingFailed,
    TrainingStopped,
)
from trainer.preflight import check
from trainer.roots import Roots

_HELP = f"""\
spec.json holds the body of POST /api/v2/training/start, for example
  {{"model": "resnet18", "num_classes": 10, "train_path": "data/train", "val_path": "data/val",
   "save_path": "runs", "name": "first", "num_epochs": 10}}

best.pt and last.pt go to save_path/<name>, which must not exist yet (without a name: the task_id, else
the network and the time). With --resume it is the folder of the training that goes on. With num_workers or several
devices it starts so many processes of itself, as torchrun would; under torchrun it is one of them. Exit status: 0
completed, 1 failed, 2 the request cannot be trained, 130 or 143 stopped by SIGINT or SIGTERM. Failures
with a status of their own:
  {", ".join(f"{status} {reason}" for reason, status in STATUS_OF_REASON.items())}
"""


PEER_PATIENCE_S = 5
"""How long a process whose peer is gone waits to be ended, before it ends by itself."""


class BadRequest(Exception):
    """The specification cannot be trained. The message is for the person who wrote it."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train an image classifier.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", type=Path, metavar="spec.json", help="what to train")
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="save here, instead of in a new folder below save_path"
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:N or cuda:N,M, instead of the device in spec.json"
    )
    parser.add_argument("--resume", action="store_true", help="go on after the last epoch that the folder holds")
    for kind, what in (("data", "images and weights"), ("save", "checkpoints")):
        parser.add_argument(
            f"--{kind}-root",
            type=Path,
            action="append",
            default=[],
            metavar="DIR",
            help=f"folder that all {what} lie in; may be given more than once",
        )
    parser.add_argument("--plain", action="store_true", help="no time in a line, and no level INFO")
    options = parser.parse_args(arguments)
    given_dir: Path | None = options.output_dir
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    stopped_by: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        stopped_by.append(signum)
        if ranks == 1:
            signal.signal(signum, signal.SIG_DFL)  # a second one does not wait

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)

    logger = logging.Logger("trainer")
    handler = _KeptLines(sys.stdout)
    handler.setFormatter(
        _PlainFormatter() if options.plain else logging.Formatter("%(asctime)s - %(levelname)s - %(message)s")
    )
    logger.addHandler(handler)
    if rank:
        handler.setLevel(
            logging.ERROR
        )  # the first one speaks for all; of the others only why one failed is of interest

    try:
        request = read_request(options.spec)
        if given_dir is None and not options.resume:  # whoever has made the folder has checked the request
            _refuse_problems(request)
            for name in sorted(request.model_extra or ()):
                logger.warning(f"Unknown field {name!r} was ignored.")
        wanted = options.device or request.device
        if (workers := request.workers) > 1 and ranks == 1:
            output_dir = given_dir or (_earlier_output_dir(request) if options.resume else _claim_output_dir(request))
            from trainer.workers import run_workers

            return run_workers(workers, [*(arguments or sys.argv[1:]), f"--output-dir={output_dir}"])
        device = resolve_device(wanted, logger, place=int(os.environ.get("LOCAL_RANK", "0")))
        output_dir = given_dir or (_earlier_output_dir(request) if options.resume else _claim_output_dir(request))
        from trainer.loop import train  # torch takes seconds to import: after the refusals

        train(
            request,
            output_dir=output_dir,
            device=device,
            logger=logger,
            should_stop=lambda: bool(stopped_by),
            resume=options.resume,
            roots=Roots(data=tuple(options.data_root), save=tuple(options.save_root)),
        )
    except BadRequest as error:
        print(error, file=sys.stderr)
        return BAD_REQUEST
    except (TrainingStopped, PeerLost) as ending:
        if isinstance(ending, PeerLost) and not stopped_by:
            deadline = time.monotonic() + PEER_PATIENCE_S
            while not stopped_by and time.monotonic() < deadline:  # what ended the other one is to be seen first
                time.sleep(0.1)
            return PEER_LOST
        signum = signal.Signals(stopped_by[0]) if stopped_by else signal.SIGTERM
        logger.warning(f"Stopped by {signum.name}")
        return 128 + signum
    except TrainingFailed as failure:
        return STATUS_OF_REASON.get(failure.reason, FAILED)  # its message is the last line that was logged
    return COMPLETED


class _KeptLines(logging.StreamHandler[TextIO]):
    """A line that goes to a file is on the disk before the checkpoint is that says so; its machine may be lost then."""

    def flush(self) -> None:
        super().flush()
        with suppress(OSError, ValueError):  # what is no file cannot be kept
            os.fsync(self.stream.fileno())


class _PlainFormatter(logging.Formatter):
    """The bare message, for a program that reads it; every line of another level than INFO says so."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno == logging.INFO:
            return text
        return "\n".join(f"{record.levelname}: {line}" for line in text.split("\n"))


def read_request(spec: Path) -> TrainingRequest:
    """Raises `BadRequest` with one line per problem."""
    try:
        return TrainingRequest.model_validate(json.loads(spec.read_bytes()))
    except OSError as error:
        raise BadRequest(f"{str(spec)!r} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise BadRequest("\n".join(problems)) from error
    except ValueError as error:
        raise BadRequest(f"{str(spec)!r} is not JSON: {error}.") from error


def resolve_device(wanted: str, logger: logging.Logger, *, place: int = 0) -> str:
    """`cpu` or `cuda:N`. Without a GPU, `cuda` becomes `cpu` with a WARNING; a GPU that is not there is refused.

    `place` is that of this process among those that share the devices: each has one of its own.
    """
    if wanted == "cpu":
        return wanted
    import torch

    numbers = wanted.removeprefix("cuda:").split(",")
    if len(numbers) > 1:
        wanted = f"cuda:{numbers[place]}"

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cuda":
        if count > place:
            return f"cuda:{place}"
        if count:
            raise BadRequest(f"device: this machine has {count} GPUs, fewer than workers.")
        logger.warning("No GPU found: training on the CPU")
        return "cpu"
    if int(wanted.removeprefix("cuda:")) >= count:
        raise BadRequest(f"device: there is no {wanted}, this machine has {count} GPUs.")
    return wanted


def _refuse_problems(request: TrainingRequest) -> None:
    problems = check(request)
    if problems:
        raise BadRequest("\n".join(f"{problem.field}: {problem.message}" for problem in problems))


def _claim_output_dir(request: TrainingRequest) -> Path:
    folder = request.name or request.task_id or f"{request.model}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    output_dir = Path(request.save_path) / folder
    try:
        output_dir.mkdir(parents=True)
    except FileExistsError as error:
        raise BadRequest(f"{str(output_dir)!r} exists and is not overwritten: choose another name.") from error
    except OSError as error:
        raise BadRequest(f"{str(output_dir)!r} cannot be created: {error.strerror}.") from error
    return output_dir


def _earlier_output_dir(request: TrainingRequest) -> Path:
    folder = request.name or request.task_id
    if folder is None:
        raise BadRequest("--resume needs the folder of the training: give --output-dir, or its name in spec.json.")
    return Path(request.save_path) / folder


if __name__ == "__main__":
    sys.exit(main())
