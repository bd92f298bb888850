"""What a training works with, made ready for its first epoch, or for the next one.

Shapes: B images of a batch, C classes (before the height it is the three colour channels), H = W =
image_size pixels.
"""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.schemas import TrainingRequest
from trainer import lines
from trainer.automatic import AUTO, chosen_batch_size, say
from trainer.available_memory import available_memory
from trainer.average import Average
from trainer.convolution import quicken
from trainer.data import mean_and_deviation, normalise
from trainer.decoded_images import SHARE, DecodedImages
from trainer.early_stopping import EarlyStopping, early_stopping
from trainer.errors import TrainingFailed
from trainer.features import Features
from trainer.layers import freeze
from trainer.mixing import Mixing, mixing
from trainer.network import bare_network, build_network
from trainer.objective import build_objective
from trainer.optimizer import build_optimizer
from trainer.options import chosen as chosen_options
from trainer.options import without_effect
from trainer.precision import uses_bf16
from trainer.preflight import check
from trainer.ranks import Ranks
from trainer.readers import Readers, readers_for
from trainer.resume import Part, Saved, restore
from trainer.roots import Folders, Roots
from trainer.saving import Saving
from trainer.schedule import Plateau
from trainer.split import Split, load_split


@dataclass(frozen=True)
class Run:
    """What stays the same throughout a training.

    `request` is what was asked for with what was `chosen` for each `auto`, by its field. The rate may still be to
    choose.
    `is_trained`: the network began with weights that were trained before.
    """

    request: TrainingRequest
    training: Split
    validation: Split
    network: nn.Module
    optimizer: Optimizer
    objective: nn.Module
    mixing: Mixing | None
    plateau: Plateau | None
    stopping: EarlyStopping | None
    average: Average | None
    ranks: Ranks
    is_trained: bool
    chosen: dict[str, int | float]
    device: torch.device
    statistics: Tensor
    bf16: bool
    output_dir: Path
    saving: Saving
    save_roots: Folders
    logger: logging.Logger
    should_stop: Callable[[], bool]
    readers: Readers | None = None
    """Who reads the images, where reading is worth them; else this process does."""
    features: Mapping[str, Features] = field(default_factory=dict)
    """Of a frozen backbone, by the name of the split, where they are kept."""

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved."""
        return self.average.network if self.average else self.network

    @property
    def stops_alone(self) -> Callable[[], bool]:
        """Whether to stop between two batches; not asked where others would wait for this one: they stop together."""
        return self.should_stop if self.ranks.count == 1 else lambda: False

    @property
    def parts(self) -> dict[str, Part]:
        """What else changes from epoch to epoch, by its name in `last.pt`."""
        parts: dict[str, Part | None] = {
            "plateau": self.plateau,
            "early_stopping": self.stopping,
            "average": self.average,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def kept_images(self) -> tuple[int, int]:
        """How many decoded images are kept in memory, and their bytes."""
        kept, (count, size) = self.training.decoded, self.readers.kept if self.readers else (0, 0)
        return len(kept) + count, kept.bytes + size

    def forget_images(self) -> None:
        self.training.decoded.clear()
        if self.readers:
            self.readers.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End what runs beside the training. Raises what saving has raised; where the training has not come to its end,
        that is why, and saving only says it."""
        try:
            if self.readers:
                self.readers.close()
        finally:
            try:
                self.saving.close()
            except TrainingFailed as failure:
                if kind is None:
                    raise
                self.logger.warning(str(failure))

    def ready(self, images_BCHW: Tensor) -> Tensor:
        """What the network takes, on its device, of uint8 images on the CPU; features stay as they are."""
        if images_BCHW.is_floating_point():
            return images_BCHW.to(self.device, non_blocking=True)
        return normalise(images_BCHW.to(self.device, non_blocking=True), self.statistics)

    def logits(self, network: nn.Module, images_BCHW: Tensor) -> Tensor:
        """logits_BC of images that are `ready`."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits_BC: Tensor = network(images_BCHW)
        return logits_BC.float()


def prepare(
    request: TrainingRequest,
    saved: Saved | None,
    output_dir: Path,
    ranks: Ranks,
    device: torch.device,
    logger: logging.Logger,
    should_stop: Callable[[], bool],
    roots: Roots,
) -> Run:
    """All that the first epoch needs, or the next one after `saved`."""
    chosen = saved.chosen if saved else {}
    request = request.model_copy(update=chosen)
    asked = request.model_copy(update={"weight_path": ""}) if saved else request  # what it started from may be gone
    problems = check(asked, roots)  # the folders may have changed while the request was waiting
    if problems:
        raise TrainingFailed(problems[0].code, " ".join(problem.message for problem in problems))
    budget = (
        available_memory() * SHARE / ranks.on_this_machine if request.cache_mb is None else request.cache_mb * 2**20
    )
    decoded = DecodedImages(int(budget))
    count = readers_for(device, workers=ranks.on_this_machine)
    readers = Readers(count, int(budget), request.image_size) if count else None
    training, validation = (
        load_split(
            request,
            name,
            logger=logger,
            folders=roots.data,
            left_out=saved.names_left_out[name] if saved else (),
            decoded=decoded,
        )
        for name in ("train_path", "val_path")
    )
    for split in (training, validation):
        ranks.refuse_other_images(split)
    network, is_trained = (
        (bare_network(request.model, request.num_classes, request.image_size), True)
        if saved or not ranks.is_first
        else build_network(request, logger=logger, should_stop=should_stop, folders=roots.weights)
    )
    is_trained = ranks.from_first(is_trained)
    ranks.start_alike(network)
    network = network.to(device).to(memory_format=torch.channels_last)
    quicken(network, device)
    freeze(network, request)
    if request.batch_size == AUTO:
        images = len(training.indices)
        choice = ranks.from_first(chosen_batch_size(request, network, images, device, workers=ranks.count))
        say(choice, logger)
        chosen = {choice.field: choice.value}
        request = request.model_copy(update=chosen)
    run = Run(
        request=request,
        training=training,
        validation=validation,
        network=network,
        optimizer=build_optimizer(request, network, is_trained=is_trained),
        objective=build_objective(request, training.targets, device),
        mixing=mixing(request),
        plateau=Plateau(request) if request.schedule == "plateau" else None,
        stopping=early_stopping(request),
        average=Average(network, request.ema_decay) if request.ema_decay else None,
        ranks=ranks,
        is_trained=is_trained,
        chosen=chosen,
        device=device,
        statistics=mean_and_deviation(device),
        bf16=uses_bf16(request.amp, device, network),
        output_dir=output_dir,
        saving=Saving(beside=device.type == "cuda"),
        save_roots=roots.save,
        logger=logger,
        should_stop=should_stop,
        readers=readers,
    )
    if saved:
        restore(saved, network, run.optimizer, device, (training, validation), run.parts, logger)
    logger.info(
        lines.training_starts(
            request.model,
            str(device),
            training=len(training.indices),
            validation=len(validation.indices),
            classes=len(training.classes),
            bf16=run.bf16,
            workers=ranks.count,
        )
    )
    if options := chosen_options(request):
        logger.info(lines.options(options))
    if idle := without_effect(request):
        logger.warning(lines.options_without_effect(idle))
    return run
