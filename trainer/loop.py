"""The training, from the request to the last checkpoint, top to bottom.

Shapes: B images of a batch, N of the validation set, C classes (after the batch; before the height it is
the three colour channels), H = W = image_size pixels.
"""

# ruff: noqa: N806 - shape suffixes are upper case
from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.schemas import TrainingRequest
from trainer import lines
from trainer.automatic import batch_size_of, learning_rate_of
from trainer.checkpoint import save_checkpoint
from trainer.checkpoint_file import BEST, EVALUATION, LAST, checksum_in, prepare_folder, write_plain_file
from trainer.class_report import report
from trainer.data import batches, epoch_order, group
from trainer.early_stopping import score_of
from trainer.errors import TrainingFailed, TrainingStopped
from trainer.evaluation import Evaluation, evaluate
from trainer.features import head_of
from trainer.framing import Augmented, Central
from trainer.frozen_features import with_features
from trainer.layers import set_training
from trainer.memory import memory_returned
from trainer.objective import right_answers
from trainer.progressive import training_image_size
from trainer.range_test import with_learning_rate
from trainer.ranks import Ranks, joined
from trainer.resume import damage_of_best, progress, read_last
from trainer.roots import ANYWHERE, Roots, open_file
from trainer.run import Run, prepare
from trainer.updates import Updates
from trainer.variation import varied

STEP_LINE_SECONDS = 3.0
"""Between two lines within an epoch."""
BATCHES_UNREAD = 2
"""Whose losses a GPU may still be at work on: who asks for a number waits for it, and the GPU for whoever waits."""


@dataclass(frozen=True)
class TrainingResult:
    """`best_acc` is the best validation accuracy in percent, `epochs` how many were trained."""

    best_acc: float
    epochs: int


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

    Progress is what `logger` gets, in the words of `trainer.lines`. `output_dir` receives `best.pt` and
    `evaluation.json` after every epoch that is better than all before, then `last.pt` after every epoch, once the
    logger's handlers have flushed what was said of it. `should_stop` is asked at every image and batch. The same
    request on the same CPU and number of threads gives the same weights, bit for bit, as long as nothing else in the
    process draws from torch's global generator meanwhile: dropout knows no other. That generator is left as
    it was found. `resume` goes on after the epoch of `last.pt`, as if nothing had come between, and begins
    at epoch 1 where there is none. What is opened or written must lie in `roots`. Nothing of the training
    stays in memory, whichever way it ends.

    Where several processes train together (`trainer.ranks`), each calls this, with a device of its own. The first one
    alone saves; only its lines are of all of them. A stop that one of them is asked for is one of all.

    Raises `TrainingStopped`, `TrainingFailed` after an ERROR line with the reason, and `PeerLost`.
    """
    with memory_returned():
        try:
            with joined(torch.device(device)) as ranks, _seeded(request.seed, torch.device(device)):
                if ranks.is_first:
                    prepare_folder(output_dir, roots.save)
                return _train(request, output_dir, ranks, torch.device(device), logger, should_stop, resume, roots)
        except torch.OutOfMemoryError as error:
            message = f"{device} has too little memory: lower batch_size (now {request.batch_size}) or image_size."
            logger.error(message)
            raise TrainingFailed("out_of_memory", message) from error
        except TrainingFailed as failure:
            logger.error(str(failure))
            raise


def _train(
    request: TrainingRequest,
    output_dir: Path,
    ranks: Ranks,
    device: torch.device,
    logger: logging.Logger,
    should_stop: Callable[[], bool],
    resume: bool,
    roots: Roots,
) -> TrainingResult:
    saved = ranks.from_first(read_last(output_dir, request, roots.save) if resume and ranks.is_first else None)
    if resume:
        logger.info(lines.resumed(saved.epoch, request.num_epochs) if saved else lines.nothing_to_resume())
    if saved and ranks.is_first and (damage := damage_of_best(output_dir)):
        logger.warning(lines.best_damaged(damage))
    if saved and (saved.epoch == request.num_epochs or saved.stopped_early):
        return _complete(request, saved.epoch, saved.best_accuracy, logger)
    run = prepare(request, saved, output_dir, ranks, device, logger, should_stop, roots)
    done, best_accuracy = (saved.epoch, saved.best_accuracy) if saved else (0, -math.inf)
    del saved  # as large as all that the training needs
    with run:
        return _train_epochs(with_features(with_learning_rate(run)), done, best_accuracy)


def _train_epochs(run: Run, done: int, best_accuracy: float) -> TrainingResult:
    """From the first epoch that is not `done` to the last."""
    request, ranks, logger = run.request, run.ranks, run.logger
    for epoch in range(done + 1, request.num_epochs + 1):
        logger.info(lines.epoch_started(epoch, request.num_epochs))
        if (size := training_image_size(request, epoch)) < request.image_size:
            logger.info(lines.smaller_images(size, request.image_size))
        started = time.perf_counter()

        train_loss, train_accuracy = _train_epoch(run, epoch)
        logger.info(lines.epoch_trained(train_loss, train_accuracy))

        evaluation = _validate(run, epoch)
        for line in lines.validated(evaluation):
            logger.info(line)
        rate = run.optimizer.param_groups[0]["lr"]  # of the epoch's last step
        logger.info(lines.learning_rate(rate))

        score = score_of(evaluation, request.monitor)
        if run.plateau:
            run.plateau.epoch_done(score)
        if run.stopping:
            run.stopping.epoch_done(score)
        improved = evaluation.accuracy > best_accuracy
        best_accuracy = max(best_accuracy, evaluation.accuracy)
        metrics = {
            "train_loss": train_loss,
            "train_acc": train_accuracy,
            **evaluation.as_metrics(),
            "best_acc": best_accuracy,
            "learning_rate": rate,
        }
        kept, size = run.kept_images
        if epoch == 1 < request.num_epochs and ranks.count == 1 and kept:
            logger.info(lines.images_kept(kept, len(run.training.paths) + len(run.validation.paths), size))
        if ranks.is_first:
            _save(run, epoch, metrics, evaluation if improved else None)
        logger.info(lines.epoch_finished(epoch, request.num_epochs, time.perf_counter() - started))
        if run.stopping and run.stopping.is_over:
            break

    run.saving.wait()
    return _complete(request, epoch, best_accuracy, logger)


def _complete(request: TrainingRequest, epoch: int, best_accuracy: float, logger: logging.Logger) -> TrainingResult:
    if epoch < request.num_epochs:
        logger.info(lines.stopped_early(request.monitor, request.early_stopping_patience))
    logger.info(lines.training_complete(best_accuracy))
    return TrainingResult(best_acc=best_accuracy, epochs=epoch)


def _train_epoch(run: Run, epoch: int) -> tuple[float, float]:
    """One pass over the training images. Returns the mean loss and the accuracy in percent, as trained."""
    request, split = run.request, run.training
    order = epoch_order(len(split.paths), seed=request.seed, epoch=epoch, shuffle=request.shuffle)
    groups = group([index for index in order if index not in split.left_out], batch_size_of(request))
    own = [run.ranks.share_of(indices) for indices in groups]
    images = sum(map(len, groups))
    size = training_image_size(request, epoch)
    crop = Augmented(size, hflip=request.hflip, seed=request.seed, epoch=epoch) if request.augment else Central(size)
    frame = varied(crop, request, epoch=epoch)
    updates = Updates(run, epoch, [len(indices) for indices in groups], [len(indices) for indices in own])
    own_loss, own_correct, own_seen = 0.0, 0, 0
    loss_sum = correct = seen = 0.0  # of all ranks
    run.ranks.draw_apart(request.seed, epoch)
    set_training(run.network)
    started = last_line = time.perf_counter()

    waiting: deque[tuple[Tensor, Tensor, int]] = deque()  # loss, number of right answers, images of a batch

    def settle(most: int, *, trained: bool = False) -> bool:
        """Count what is known, in all ranks; whether any of them has `trained` on its share of the batch."""
        nonlocal own_loss, own_correct, own_seen, loss_sum, correct, seen
        while len(waiting) > most:
            loss, right, count = waiting.popleft()
            own_loss += loss.item() * count
            own_correct += int(right)
            own_seen += count
        totals = (own_loss, own_correct, own_seen, run.should_stop(), trained)
        loss_sum, correct, seen, stops, how_many_trained = run.ranks.sum(*totals)
        if stops:
            raise TrainingStopped
        _refuse_divergence(run, loss_sum, epoch)
        return how_many_trained > 0

    kept = run.features.get(split.name)
    network = head_of(run.network) if kept else run.network
    loader = (
        kept.batches(own)
        if kept
        else batches(
            split,
            own,
            frame,
            image_size=size,
            should_stop=run.stops_alone,
            device=run.device,
            whole_size=request.image_size,
            readers=run.readers,
        )
    )

    for step, (images_BCHW, targets_B) in enumerate(loader, start=1):
        # what broken images have left of a batch may be too little to be normalised: its turn is in the next epoch
        if enough := len(targets_B) >= min(2, batch_size_of(request)):
            images_BCHW, targets = run.ready(images_BCHW), targets_B.to(run.device, non_blocking=True)
            if run.mixing:
                images_BCHW, targets = run.mixing(images_BCHW, targets, epoch=epoch, step=step)
            logits_BC = run.logits(network, images_BCHW)
            loss = run.objective(logits_BC, targets)
            updates.gather(loss, step)
            waiting.append((loss.detach(), right_answers(logits_BC, targets), len(targets_B)))
        now = time.perf_counter()
        line_is_due = now - last_line >= STEP_LINE_SECONDS
        gathered = settle(BATCHES_UNREAD if run.device.type == "cuda" and not line_is_due else 0, trained=enough)
        updates.batch_done(step, gathered=gathered)

        if line_is_due and seen:
            last_line = now
            line = lines.step_done(
                epoch,
                request.num_epochs,
                step,
                len(groups),
                loss=loss_sum / seen,
                images_per_second=seen / (now - started),
                seconds_left=(now - started) * (images - seen) / seen,
            )
            run.logger.info(line)
    settle(0)
    run.ranks.leave_out_alike(split)
    if not seen:  # of every batch too little was left: batches of what can be read
        return _train_epoch(run, epoch)
    return loss_sum / seen, 100 * correct / seen


@torch.inference_mode()
def _validate(run: Run, epoch: int) -> Evaluation:
    """Evaluate on every validation image, seen the same way each time, by one of the ranks."""
    request, split = run.request, run.validation
    groups = group(split.indices, math.ceil(batch_size_of(request) / run.ranks.count))[
        run.ranks.rank :: run.ranks.count
    ]
    logits: list[Tensor] = [torch.empty(0, request.num_classes)]
    targets: list[Tensor] = [torch.empty(0, dtype=torch.int64)]
    run.ranks.average_statistics(run.network, *([run.evaluated] if run.average else []))
    network = run.evaluated.eval()
    kept = run.features.get(split.name)
    network = head_of(network) if kept else network
    loader = (
        kept.batches(groups)
        if kept
        else batches(
            split,
            groups,
            Central(request.image_size),
            image_size=request.image_size,
            should_stop=run.stops_alone,
            device=run.device,
            readers=run.readers,
        )
    )
    for images_BCHW, targets_B in loader:
        if run.should_stop():
            break
        if len(targets_B):
            logits.append(run.logits(network, run.ready(images_BCHW)).cpu())
            targets.append(targets_B)
    if any(run.ranks.sum(run.should_stop())):
        raise TrainingStopped
    run.ranks.leave_out_alike(split)
    of_all = run.ranks.for_first((torch.cat(logits), torch.cat(targets)))
    evaluation = run.ranks.from_first(
        evaluate(torch.cat([each for each, _ in of_all]), torch.cat([each for _, each in of_all])) if of_all else None
    )
    assert evaluation is not None
    _refuse_divergence(run, evaluation.loss, epoch)
    return evaluation


def _save(run: Run, epoch: int, metrics: dict[str, float], best: Evaluation | None) -> None:
    """`best.pt` first: should it end between the two, the epoch is trained again, and is the best again.

    `best` is the evaluation of an epoch that is better than all before. Where it is written beside the training
    (`trainer.saving`), `last.pt` may be finished after this has returned, and is when it is called again.
    """

    def save(name: str, more: dict[str, Any] | None = None) -> None:
        beside = {"run": run.saving.run} if name == LAST else {}
        save_checkpoint(
            run.output_dir / name,
            run.evaluated,
            classes=run.training.classes,
            request=run.request,
            epoch=epoch,
            metrics=metrics,
            more=more,
            save_roots=run.save_roots,
            **beside,
        )

    run.saving.wait()
    if best is not None:
        save(BEST)
        with open_file(run.output_dir / BEST, run.save_roots) as file:
            content = report(best, epoch, run.training.classes, checkpoint=checksum_in(file))
        write_plain_file(run.output_dir / EVALUATION, content, run.save_roots)
        run.logger.info(lines.best_saved(metrics["best_acc"]))
    for handler in run.logger.handlers:  # a training that goes on does not repeat what last.pt holds
        with suppress(OSError, ValueError):  # as logging.shutdown: nobody listens any more
            handler.flush()
    splits = (run.training, run.validation)
    more = progress(run.optimizer, run.device, best_accuracy=metrics["best_acc"], splits=splits, parts=run.parts)
    save(LAST, more | ({"chosen": run.chosen} if run.chosen else {}))


def _refuse_divergence(run: Run, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise TrainingFailed("diverged", lines.diverged(loss, epoch, learning_rate_of(run.request)))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of the CPU and of `device`, and put them back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
