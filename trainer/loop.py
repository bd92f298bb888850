"""The training, from the request to the last checkpoint, top to bottom.

Shapes: B images of a batch, N of the validation set, C classes (after the batch; before the height it is
the three colour channels), H = W = image_size pixels.
"""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from models.schemas import TrainingRequest
from trainer import lines
from trainer.checkpoint import save_checkpoint
from trainer.checkpoint_file import BEST, LAST, remove_partial_files
from trainer.data import Split, augmented, batches, central, epoch_order, group, load_split, normalise
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.evaluation import Evaluation, evaluate
from trainer.network import bare_network, build_network
from trainer.optimizer import build_optimizer, learning_rate_at, set_learning_rate
from trainer.precision import uses_bf16
from trainer.preflight import check
from trainer.resume import Saved, progress, read_last, restore
from trainer.roots import ANYWHERE, Roots

STEP_LINE_SECONDS = 3.0
"""Between two lines within an epoch."""


@dataclass(frozen=True)
class TrainingResult:
    """`best_acc` is the best validation accuracy in percent, `epochs` how many were trained."""

    best_acc: float
    epochs: int


@dataclass(frozen=True)
class _Run:
    """What stays the same throughout a training."""

    request: TrainingRequest
    network: nn.Module
    optimizer: Optimizer
    device: torch.device
    bf16: bool
    logger: logging.Logger
    should_stop: Callable[[], bool]

    def logits(self, images_BCHW: Tensor) -> Tensor:
        """logits_BC of uint8 images that are still on the CPU."""
        images_BCHW = normalise(images_BCHW.to(self.device))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits_BC: Tensor = self.network(images_BCHW)
        return logits_BC.float()


def train(
    request: TrainingRequest,
    *,
    output_dir: Path,
    device: str,
    logger: logging.Logger,
    should_stop: Callable[[], bool],
    resume: bool = False,
    roots: Roots = ANYWHERE,
) -> TrainingResult:
    """Train what `request` asks for, on `device` (`cpu` or `cuda:N`; `request.device` is not read).

    Progress is what `logger` gets, in the words of `trainer.lines`. `output_dir` receives `last.pt` after
    every epoch and `best.pt` after every epoch that is better than all before. `should_stop` is asked at
    every image and batch. The same request on the same CPU gives the same weights, bit for bit, as long
    as nothing else in the process draws from torch's global generator meanwhile: dropout knows no other.
    That generator is left as it was found.

    Raises `TrainingStopped`, and `TrainingFailed` after an ERROR line with the reason.
    """
    try:
        remove_partial_files(output_dir)
        saved = read_last(output_dir, request) if resume else None
        if resume:
            logger.info(lines.resumed(saved.epoch, request.num_epochs) if saved else lines.nothing_to_resume())
        if saved and saved.epoch == request.num_epochs:
            logger.info(lines.training_complete(saved.best_accuracy))
            return TrainingResult(saved.best_accuracy, saved.epoch)
        asked = request.model_copy(update={"weight_path": ""}) if saved else request  # the network has its weights
        problems = check(asked)  # the folders may have changed while the request was waiting
        if problems:
            raise TrainingFailed(problems[0].code, " ".join(problem.message for problem in problems))
        with _seeded(request.seed, torch.device(device)):
            return _train(request, output_dir, torch.device(device), logger, should_stop, saved, roots)
    except torch.OutOfMemoryError as error:
        message = f"{device} has too little memory: lower batch_size (now {request.batch_size}) or image_size."
        logger.error(message)
        raise TrainingFailed("out_of_memory", message) from error
    except TrainingFailed as failure:
        logger.error(str(failure))
        raise
    finally:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()  # the process may live on, and others want the memory


def _train(
    request: TrainingRequest,
    output_dir: Path,
    device: torch.device,
    logger: logging.Logger,
    should_stop: Callable[[], bool],
    saved: Saved | None,
    roots: Roots,
) -> TrainingResult:
    training, validation = load_split(Path(request.train_path)), load_split(Path(request.val_path))
    if saved:
        network = bare_network(request.model, request.num_classes, request.image_size)
    else:
        network = build_network(request, logger=logger, should_stop=should_stop)
    network = network.to(device).to(memory_format=torch.channels_last)
    run = _Run(
        request,
        network,
        build_optimizer(request, network),
        device,
        uses_bf16(request.amp, device, network),
        logger,
        should_stop,
    )
    logger.info(
        lines.training_starts(
            request.model,
            str(device),
            training=len(training.paths),
            validation=len(validation.paths),
            classes=len(training.classes),
            bf16=run.bf16,
        )
    )
    output_dir.mkdir(parents=True, exist_ok=True)

    done, best_accuracy = 0, -math.inf
    if saved:
        restore(saved, network, run.optimizer, device, training.classes)
        done, best_accuracy = saved.epoch, saved.best_accuracy
        del saved
    for epoch in range(done + 1, request.num_epochs + 1):
        logger.info(lines.epoch_started(epoch, request.num_epochs))
        started = time.perf_counter()

        train_loss, train_accuracy = _train_epoch(run, training, epoch)
        logger.info(lines.epoch_trained(train_loss, train_accuracy))

        evaluation = _validate(run, validation, epoch)
        for line in lines.validated(evaluation):
            logger.info(line)
        rate = run.optimizer.param_groups[0]["lr"]  # of the epoch's last step
        logger.info(lines.learning_rate(rate))

        improved = evaluation.accuracy > best_accuracy
        best_accuracy = max(best_accuracy, evaluation.accuracy)
        metrics = {
            "train_loss": train_loss,
            "train_acc": train_accuracy,
            **evaluation.as_metrics(),
            "best_acc": best_accuracy,
            "learning_rate": rate,
        }
        save = partial(
            save_checkpoint,
            network=network,
            classes=training.classes,
            request=request,
            epoch=epoch,
            metrics=metrics,
            save_roots=roots.save,
        )
        if improved:
            save(output_dir / BEST)
            logger.info(lines.best_saved(best_accuracy))
        _flush(logger)
        save(output_dir / LAST, more=progress(run.optimizer, device, best_accuracy=best_accuracy))
        logger.info(lines.epoch_finished(epoch, request.num_epochs, time.perf_counter() - started))

    logger.info(lines.training_complete(best_accuracy))
    return TrainingResult(best_acc=best_accuracy, epochs=request.num_epochs)


def _train_epoch(run: _Run, split: Split, epoch: int) -> tuple[float, float]:
    """One pass over the training images. Returns the mean loss and the accuracy in percent, as trained."""
    request = run.request
    order = epoch_order(len(split.paths), seed=request.seed, epoch=epoch, shuffle=request.shuffle)
    groups = group(order, request.batch_size)
    frame = (
        augmented(request.image_size, hflip=request.hflip, seed=request.seed, epoch=epoch)
        if request.augment
        else central(request.image_size)
    )
    loss_sum, correct, seen = 0.0, 0, 0
    run.network.train()
    started = last_line = time.perf_counter()

    loader = batches(split, groups, frame, image_size=request.image_size, should_stop=run.should_stop)
    for step, (images_BCHW, targets_B) in enumerate(loader, start=1):
        if run.should_stop():
            raise TrainingStopped
        rate = learning_rate_at(
            (epoch - 1) * len(groups) + step - 1,
            steps=request.num_epochs * len(groups),
            steps_per_epoch=len(groups),
            request=request,
        )
        set_learning_rate(run.optimizer, rate)

        targets_B = targets_B.to(run.device)
        logits_BC = run.logits(images_BCHW)
        loss = functional.cross_entropy(logits_BC, targets_B)
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()

        _refuse_divergence(run, loss.item(), epoch)
        loss_sum += loss.item() * len(targets_B)
        correct += int((logits_BC.argmax(dim=1) == targets_B).sum())
        seen += len(targets_B)

        now = time.perf_counter()
        if now - last_line >= STEP_LINE_SECONDS:
            last_line = now
            line = lines.step_done(
                epoch,
                request.num_epochs,
                step,
                len(groups),
                loss=loss_sum / seen,
                images_per_second=seen / (now - started),
                seconds_left=(now - started) * (len(split.paths) - seen) / seen,
            )
            run.logger.info(line)
    return loss_sum / seen, 100 * correct / seen


@torch.inference_mode()
def _validate(run: _Run, split: Split, epoch: int) -> Evaluation:
    """Evaluate on every validation image, seen the same way each time."""
    groups = group(list(range(len(split.paths))), run.request.batch_size)
    logits: list[Tensor] = []
    run.network.eval()
    for images_BCHW, _ in batches(
        split, groups, central(run.request.image_size), image_size=run.request.image_size, should_stop=run.should_stop
    ):
        if run.should_stop():
            raise TrainingStopped
        logits.append(run.logits(images_BCHW).cpu())
    evaluation = evaluate(torch.cat(logits), torch.tensor(split.targets))
    _refuse_divergence(run, evaluation.loss, epoch)
    return evaluation


def _flush(logger: logging.Logger) -> None:
    """What was logged of an epoch must be safe before `last.pt` says that the epoch is done: nothing repeats it."""
    for handler in logger.handlers:
        handler.flush()


def _refuse_divergence(run: _Run, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise TrainingFailed("diverged", lines.diverged(loss, epoch, run.request.learning_rate))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of the CPU and of `device`, and put them back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
