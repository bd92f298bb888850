"""A frozen backbone runs once: what it makes of an image is kept, and only the head runs in every epoch.

That is right only where the backbone sees the same image each time, draws no random numbers and learns no statistics
from its batch. Whether it does is asked of the request and the network. Whether features are kept follows from the
request and the images alone, never from how much memory is free just now: a training that goes on keeps them too.

Shapes: B images of a batch, N of a split, F features of an image (in whatever shape the head takes them).
"""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from models.schemas import TrainingRequest
from trainer import lines
from trainer.automatic import batch_size_of
from trainer.data import batches, group
from trainer.errors import TrainingStopped
from trainer.features import Features, head_of
from trainer.framing import Central
from trainer.layers import set_training
from trainer.run import Run
from trainer.split import Split

MOST_MB = 1024
"""MiB of features that are kept where the request has no `cache_mb`."""


def with_features(run: Run) -> Run:
    """`run` with the features of its splits where they stay what they are. Says which are kept, or why they are not.

    Raises `TrainingStopped`, and what `batches` raises.
    """
    if run.request.freeze == "none":
        return run
    reason = _reason_against_any(run)
    if reason:
        run.logger.info(lines.features_not_kept(reason))
        return run
    reason = reason_against_training(run.request, run.network)
    splits = [run.validation] if reason else [run.training, run.validation]
    size = sum(len(split.paths) for split in splits) * _features_of(run, _blank(run)).nbytes
    run.logger.info(lines.features_kept([split.name for split in splits], size, reason))
    features = {split.name: _computed(run, split) for split in splits}
    if not reason:
        run.forget_images()  # nobody asks for them again
    return replace(run, features=features)


def _reason_against_any(run: Run) -> str:
    """Why no features are kept; empty where they are."""
    if run.ranks.count > 1:
        return "several processes share its work"
    head = {id(parameter) for parameter in head_of(run.network).parameters()}
    if any(parameter.requires_grad and id(parameter) not in head for parameter in run.network.parameters()):
        return "layers in front of the head are trained"
    images = len(run.training.paths) + len(run.validation.paths)
    size = images * _features_of(run, _blank(run)).nbytes / 2**20
    most = MOST_MB if run.request.cache_mb is None else run.request.cache_mb
    if size > most:
        limit = f"cache_mb is {most:g}" if run.request.cache_mb is not None else f"without cache_mb {most} MiB are kept"
        return f"those of all images take {size:.1f} MiB, and {limit}"
    return ""


def reason_against_training(request: TrainingRequest, network: nn.Module) -> str:
    """Why the backbone has to see the training images in every epoch; empty where it has not."""
    changing = {
        "augment": request.augment,
        "trivial_augment": request.trivial_augment,
        "random_erasing": request.random_erasing > 0,
        "mixup_alpha": request.mixup_alpha > 0,
        "cutmix_alpha": request.cutmix_alpha > 0,
        "progressive_resizing": request.progressive_resizing < 1,
    }
    if found := [name for name, changes in changing.items() if changes]:
        return f"{', '.join(found)} change{'s' if len(found) == 1 else ''} the images in each epoch"
    set_training(network)
    head = {id(module) for module in head_of(network).modules()}
    backbone = [module for module in network.modules() if id(module) not in head]
    if any(isinstance(module, _DropoutNd | StochasticDepth) and module.p > 0 for module in backbone):
        return f"{request.model} leaves out parts of its backbone at random"
    if any(isinstance(module, _BatchNorm) and module.training for module in backbone):
        return f"{request.model} normalises by the statistics of a batch"
    return ""


def _computed(run: Run, split: Split) -> Features:
    """Always in the same batches, whatever is left out of them, as the last bit may depend on the others of a batch."""
    request = run.request
    groups = group(list(range(len(split.paths))), batch_size_of(request))
    groups = [[index for index in indices if index not in split.left_out] for indices in groups]
    rows_NF = torch.cat([torch.zeros_like(_features_of(run, _blank(run)))] * len(split.paths))
    loaded = batches(
        split,
        groups,
        Central(request.image_size),
        image_size=request.image_size,
        should_stop=run.should_stop,
        device=run.device,
        readers=run.readers,
    )
    for indices, (images_BCHW, targets_B) in zip(groups, loaded, strict=True):
        if run.should_stop():
            raise TrainingStopped
        if len(targets_B):
            read = [index for index in indices if index not in split.left_out]
            rows_NF[read] = _features_of(run, images_BCHW)
    return Features(split, rows_NF)


def _blank(run: Run) -> Tensor:
    size = run.request.image_size
    return torch.zeros((1, 3, size, size), dtype=torch.uint8).to(memory_format=torch.channels_last)


@torch.no_grad()
def _features_of(run: Run, images_BCHW: Tensor) -> Tensor:
    """features_BF of uint8 images, on the CPU. Nothing of the backbone is in training, so it is as in validation."""
    found: list[Tensor] = []
    head = head_of(run.network)
    first = next(module for module in head.children())
    hook = first.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0].cpu().clone()))
    try:
        run.logits(run.network.eval(), run.ready(images_BCHW))
    finally:
        hook.remove()
    return found[0]
