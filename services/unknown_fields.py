"""Fields that nobody knows, and what they may have meant: a misspelt one would be missed otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Final

from models.schemas import AnyRequest
from services.log_entry import clean_text

_OTHER_NAMES: Final[Mapping[str, str]] = {
    "model": "arch architecture backbone model_name net network",
    "num_classes": "classes n_classes nb_classes nc",
    "train_path": "train train_data train_dir traindir",
    "val_path": "val val_data val_dir valdir valid_path validation_path",
    "save_path": "checkpoint_dir out_dir output output_dir outdir save_dir",
    "batch_size": "batch bs train_batch_size per_device_train_batch_size",
    "num_epochs": "epoch epochs max_epochs n_epochs num_train_epochs",
    "learning_rate": "base_lr initial_lr lr lr0 max_lr",
    "image_size": "crop_size img_size imgsz imgsize input_size resolution size",
    "weight_path": "checkpoint checkpoint_path ckpt ckpt_path pretrained_path weights",
    "optimizer": "opt optim",
    "weight_decay": "l2 wd",
    "clip_grad_norm": "clip_grad grad_clip gradient_clip_val max_grad_norm",
    "accumulate_batches": "accumulate accumulate_grad_batches grad_accum gradient_accumulation_steps",
    "schedule": "lr_schedule lr_scheduler sched scheduler",
    "warmup_epochs": "warmup",
    "early_stopping_patience": "early_stopping patience",
    "ema_decay": "ema",
    "label_smoothing": "smoothing",
    "mixup_alpha": "mixup",
    "cutmix_alpha": "cutmix",
    "random_erasing": "reprob",
    "seed": "manual_seed random_seed random_state",
    "amp": "fp16 mixed_precision precision",
    "device": "cuda gpu gpu_id gpu_ids gpus",
    "name": "experiment experiment_name run_name",
    "task_id": "id run_id",
    "command": "cmd",
    "working_dir": "cwd workdir",
    "env": "environ environment",
    "path": "file log log_file log_path",
    "max_runtime_s": "max_time timeout",
}
"""What fields are called elsewhere, in other trainers' options most of all."""
_MEANT: Final = {other: field for field, others in _OTHER_NAMES.items() for other in others.split()}
_LONGEST = 64
_MOST = 32
"""Fields that a guess is made for: each takes a millisecond, and a body has room for 100,000."""
_ALIKE = 0.8
"""Of the letters of both, as `difflib` counts them."""


def unknown_fields(request: AnyRequest) -> tuple[str, ...]:
    """A sentence or two for each."""
    known = type(request).model_fields
    told = []
    for number, name in enumerate(sorted(request.model_extra or ())):
        meant = _meant_by(name, known) if number < _MOST else None
        question = "" if meant is None else f" Did you mean {meant!r}?"
        told.append(f"Unknown field {clean_text(name)!r} was ignored.{question}")
    return tuple(told)


def _meant_by(name: str, known: Collection[str]) -> str | None:
    """The field that such a name may stand for."""
    if len(name) > _LONGEST:
        return None
    plain = name.lower().replace("-", "_").replace(" ", "_")
    if plain in known:
        return plain
    if (meant := _MEANT.get(plain)) in known:
        return meant
    return next(iter(get_close_matches(plain, known, n=1, cutoff=_ALIKE)), None)
