"""Each tracker as its manual says to use it: how to open a run, log the values of a step, and close it.

What a tracker needs is imported where it is opened: none of them has to be there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = "race"
Values = Mapping[str, float]


class Run(NamedTuple):
    log: Callable[[int, Values], Any]
    close: Callable[[], Any]


def open_service(folder: Path) -> Run:
    """This service's own path, from the record of a log line on; the store as it is by default."""
    return _service(folder)


def open_careful_service(folder: Path) -> Run:
    """The same where the disk confirms every commit (SQLITE_SYNCHRONOUS=FULL), as SQLite does by default."""
    return _service(folder, sqlite_synchronous="FULL")


def _service(folder: Path, **settings: Any) -> Run:
    import logging
    import sys

    from app_refactored import GIL_SWITCH_S, build_service
    from benchmarks.capture import new_task
    from services.executors.thread import ThreadExecutor
    from services.log_handler import TrainingLogHandler
    from settings import Settings

    sys.setswitchinterval(GIL_SWITCH_S)  # as in the service's process
    service = build_service(Settings(state_dir=folder, **settings), ThreadExecutor())
    logger = logging.Logger("trainer")
    logger.addHandler(TrainingLogHandler(new_task(service), service))

    def log(step: int, values: Values) -> None:
        loss, accuracy, rate = values.values()
        logger.info(
            "Epoch [1/1], Step [%d/100000], Train Loss: %.4f, Train Accuracy: %.2f%%, Learning Rate: %.4f",
            step,
            loss,
            accuracy,
            rate,
        )

    return Run(log, service.close)


def open_tensorboard(folder: Path) -> Run:
    """With `flush` after each step: without, values may stay in the process for two minutes."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder))

    def log(step: int, values: Values) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Run(log, writer.close)


def open_mlflow(folder: Path) -> Run:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow  # type: ignore[import-not-found]

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment(PROJECT)
    mlflow.start_run()
    return Run(lambda step, values: mlflow.log_metrics(values, step=step), mlflow.end_run)


def open_wandb(folder: Path) -> Run:
    """With `commit`: without, a step's values wait for the next step."""
    os.environ["WANDB_SILENT"] = "true"
    import wandb  # type: ignore[import-not-found]

    run = wandb.init(project=PROJECT, dir=str(folder), mode="offline")
    return Run(lambda step, values: run.log(dict(values), step=step, commit=True), run.finish)


def open_trackio(folder: Path) -> Run:
    os.environ["TRACKIO_DIR"] = str(folder)
    import trackio  # type: ignore[import-not-found]

    run = trackio.init(project=PROJECT, embed=False)
    return Run(lambda step, values: run.log(dict(values), step=step), trackio.finish)
