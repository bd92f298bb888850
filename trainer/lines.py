"""The wording of the lines of a training.

They are an interface: programs read them, so a changed word is a changed contract. Every line with a
number in it is written here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trainer.evaluation import Evaluation
from trainer.images import UnreadableImage


def format_number(value: float) -> str:
    """Four decimals, or four significant digits where that is more: 0.5234, 0.0001235, 3.2e-05.

    A small loss or learning rate never reads as 0.0000; at most 5e-4 of a value is lost to rounding.
    """
    return f"{value:.4f}" if abs(value) >= 0.1 or value == 0 else f"{value:.4g}"


def resumed(epoch: int, epochs: int) -> str:
    """No place in the training, for whoever counts epochs: the next line has it."""
    return f"Resuming from last.pt: epochs 1 to {epoch} of {epochs} are done"


def nothing_to_resume() -> str:
    return "No last.pt to resume from: beginning at epoch 1"


def best_damaged(why: str) -> str:
    return f"best.pt cannot be used, {why}: the next epoch that is better writes it anew"


def other_images(name: str) -> str:
    return f"Other images in {name} than before: going on with those that are there now"


def left_out(error: UnreadableImage) -> str:
    return f"Left out: {error}"


def training_starts(
    network: str, device: str, *, training: int, validation: int, classes: int, bf16: bool, workers: int = 1
) -> str:
    precision = "bf16 autocast" if bf16 else "fp32"
    device = f"{workers} x {device}" if workers > 1 else device
    counts = f"{training} training and {validation} validation images, {classes} classes"
    return f"Training {network} on {device}: {counts}, {precision}"


def options(chosen: Mapping[str, object]) -> str:
    """What is not as it is by default."""
    return f"Options: {', '.join(f'{name}={value}' for name, value in chosen.items())}"


def options_without_effect(needs: Mapping[str, str]) -> str:
    return f"Options without effect: {', '.join(f'{name} (needs {need})' for name, need in needs.items())}"


def epoch_started(epoch: int, epochs: int) -> str:
    return f"Epoch [{epoch}/{epochs}] started"


def chosen(field: str, value: float, why: str) -> str:
    return f"Chosen for auto: {field}={value:g}, because {why}"


def smaller_images(size: int, whole: int) -> str:
    return f"Progressive resizing: this epoch trains on images of {size} px instead of {whole} px"


def readers_start(count: int, seconds: float) -> str:
    return f"Reading takes {1000 * seconds:.1f} ms an image: starting {count} processes that read"


def no_readers(why: str) -> str:
    return f"No processes that read could begin; this one reads on alone, which is slower for a GPU: {why}"


def images_kept(kept: int, images: int, size: int) -> str:
    return f"Decoded images kept in memory: {kept} of {images} ({size / 2**20:.0f} MiB)"


def features_kept(names: Iterable[str], size: int, reason: str) -> str:
    """`reason`: why those of the training images are not."""
    without = f"; train_path goes through it in every epoch, because {reason}" if reason else ""
    kept = f"its features of {' and '.join(names)} are computed once and kept ({size / 2**20:.1f} MiB)"
    return f"Frozen backbone: {kept}{without}"


def features_not_kept(reason: str) -> str:
    return f"Frozen backbone: its features are not kept, because {reason}"


def step_done(
    epoch: int, epochs: int, step: int, steps: int, *, loss: float, images_per_second: float, seconds_left: float
) -> str:
    place = f"Epoch [{epoch}/{epochs}], Step [{step}/{steps}]"
    return f"{place}, Train Loss: {format_number(loss)}, {images_per_second:.1f} images/s, ETA: {seconds_left:.0f}s"


def epoch_trained(loss: float, accuracy: float) -> str:
    return f"Train Loss: {format_number(loss)}, Train Accuracy: {accuracy:.2f}%"


def validated(evaluation: Evaluation) -> list[str]:
    top_k = {f"top{k}": round(accuracy, 2) for k, accuracy in evaluation.top_k.items()}
    return [
        f"Validation Loss: {format_number(evaluation.loss)}, Validation Accuracy: {evaluation.accuracy:.2f}%",
        f"Validation macro_F1: {format_number(evaluation.macro_f1)}",
        f"Validation micro_F1: {format_number(evaluation.micro_f1)}",
        f"Validation macro_Precision: {format_number(evaluation.macro_precision)}",
        f"Validation macro_Recall: {format_number(evaluation.macro_recall)}",
        f"Validation micro_Precision: {format_number(evaluation.micro_precision)}",
        f"Validation micro_Recall: {format_number(evaluation.micro_recall)}",
        f"Validation mAP: {format_number(evaluation.mean_average_precision)}",
        f"Validation Top-k Accuracy: {top_k}",
    ]


def learning_rate(rate: float) -> str:
    return f"Learning Rate: {rate:.6g}"


def best_saved(accuracy: float) -> str:
    return f"New best model saved with Accuracy: {accuracy:.2f}%"


def epoch_finished(epoch: int, epochs: int, seconds: float) -> str:
    return f"Epoch [{epoch}/{epochs}] finished in {seconds:.1f}s"


def stopped_early(monitor: str, patience: int) -> str:
    return f"Early stopping: no better {monitor} in the last {patience} epochs"


def training_complete(best_accuracy: float) -> str:
    return f"Training complete. Best Accuracy: {best_accuracy:.2f}%"


def diverged(loss: float, epoch: int, learning_rate: float) -> str:
    return (
        f"Training diverged in epoch {epoch}: the loss became {loss}. Lower learning_rate (now {learning_rate:g}), or "
        f"raise warmup_epochs."
    )
