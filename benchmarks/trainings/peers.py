"""Other trainers, each as its documentation has it: bf16 where it can, its second epoch counts.

Each returns images a second. Raises ImportError where its package is not installed.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.trainings.contest import MOMENTUM, RATE, Contest, computes_bf16, plain_loop


def torchvision_fp32(contest: Contest) -> float:
    """The loop of torchvision's reference scripts as it stands: fp32, its loader."""
    network, loader = contest.network().to(memory_format=torch.contiguous_format), contest.loader()
    plain_loop(contest, network, loader, bf16=False)
    return plain_loop(contest, network, loader, bf16=False)


def torchvision_bf16(contest: Contest) -> float:
    """The same with bf16 and channels last."""
    network, loader = contest.network(), contest.loader()
    plain_loop(contest, network, loader)
    return plain_loop(contest, network, loader)


def timm(contest: Contest) -> float:
    """timm's loader with its own defaults, and the plain loop."""
    from timm.data import ImageDataset, create_loader  # type: ignore[import-not-found]

    loader = create_loader(
        ImageDataset(str(contest.root / "train")),
        (3, contest.image_size, contest.image_size),
        contest.batch_size,
        is_training=True,
        num_workers=contest.workers,
        persistent_workers=contest.workers > 0,
        use_prefetcher=contest.device.type == "cuda",
        device=contest.device,
    )
    network = contest.network()
    plain_loop(contest, network, loader)
    return plain_loop(contest, network, loader)


class Labelled(nn.Module):
    """A network as Hugging Face's Trainer wants it: it is given its labels, and gives its loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(pixel_values.contiguous(memory_format=torch.channels_last))
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def _collate(batch: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*batch, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


class EpochClock:
    """When the last epoch began and ended."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def begin(self) -> None:
        self.began = time.perf_counter()

    def end(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended = time.perf_counter()

    def rate(self, images: int) -> float:
        return images / (self.ended - self.began)


def hugging_face(contest: Contest) -> float:
    """transformers.Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments  # type: ignore[import-not-found]

    clock = EpochClock()

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            clock.end()

    arguments = TrainingArguments(
        output_dir=str(contest.root / "hugging-face"),
        per_device_train_batch_size=contest.batch_size,
        num_train_epochs=2,
        learning_rate=RATE,
        optim="sgd",
        optim_args=f"momentum={MOMENTUM}",
        bf16=computes_bf16(contest.device),
        use_cpu=contest.device.type == "cpu",
        dataloader_num_workers=contest.workers,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    Trainer(
        model=Labelled(contest.network()),
        args=arguments,
        train_dataset=contest.dataset(),
        data_collator=_collate,
        callbacks=[Watch()],
    ).train()
    return clock.rate(contest.images)


def lightning(contest: Contest) -> float:
    """lightning.Trainer with bf16-mixed."""
    import lightning as pl  # type: ignore[import-not-found]

    clock = EpochClock()

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = contest.network()

        def on_train_epoch_start(self) -> None:
            clock.begin()

        def on_train_epoch_end(self) -> None:
            clock.end()

        def training_step(self, batch: Any, _index: int) -> Tensor:
            images, targets = batch
            return functional.cross_entropy(self.network(images.contiguous(memory_format=torch.channels_last)), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return contest.optimizer(self.network)

    pl.Trainer(
        max_epochs=2,
        accelerator="cpu" if contest.device.type == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed" if computes_bf16(contest.device) else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module(), contest.loader())
    return clock.rate(contest.images)


PEERS = {
    "torchvision's loop, fp32": torchvision_fp32,
    "the same, bf16": torchvision_bf16,
    "Hugging Face Trainer": hugging_face,
    "Lightning": lightning,
    "timm's loader": timm,
}
