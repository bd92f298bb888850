"""How good predictions are, in the numbers that scikit-learn would give.

People compare what they read in a log with what they compute themselves, so every definition, and every
corner of it, is scikit-learn's.

Shapes: N images, C classes.
"""

# ruff: noqa: N803, N806 - shape suffixes are upper case
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TOP_K = (1, 3, 5)


@dataclass(frozen=True)
class ClassScores:
    """One class against all others. `support` is how many images are of it; `None`: undefined without any."""

    support: int
    precision: float
    recall: float
    f1: float
    average_precision: float | None


@dataclass(frozen=True)
class Evaluation:
    """Accuracies are percent; F1, precision, recall and mAP are fractions; the loss is in nats.

    `confusion` counts the images of each true class (rows) that were taken for each class (columns).
    """

    loss: float
    accuracy: float
    macro_f1: float
    micro_f1: float
    macro_precision: float
    macro_recall: float
    micro_precision: float
    micro_recall: float
    mean_average_precision: float
    top_k: dict[int, float]
    classes: tuple[ClassScores, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()

    def as_metrics(self) -> dict[str, float]:
        """By the names that metrics have on the wire (`models.schemas.TrainingMetrics`)."""
        return {
            "val_loss": self.loss,
            "val_acc": self.accuracy,
            "macro_f1": self.macro_f1,
            "micro_f1": self.micro_f1,
            "mAP": self.mean_average_precision,
            "macro_precision": self.macro_precision,
            "macro_recall": self.macro_recall,
            "micro_precision": self.micro_precision,
            "micro_recall": self.micro_recall,
            **{f"top{k}_acc": accuracy for k, accuracy in self.top_k.items()},
        }


def evaluate(logits_NC: Tensor, targets_N: Tensor) -> Evaluation:
    """Evaluate the logits of a whole validation set.

    Every image has one class, so pooled over classes a false positive of one is a false negative of
    another: micro precision, recall and F1 are all the accuracy.
    """
    assert len(logits_NC) == len(targets_N) > 0
    logits_NC = logits_NC.double()
    ranks_N = target_ranks(logits_NC, targets_N)
    accuracy = (ranks_N == 0).double().mean().item()
    confusion_CC = confusion(logits_NC.argmax(dim=1), targets_N, num_classes=logits_NC.shape[1])
    precision, recall, f1 = macro_scores(confusion_CC)
    precisions = average_precisions(logits_NC.softmax(dim=1), targets_N)
    return Evaluation(
        loss=functional.cross_entropy(logits_NC, targets_N).item(),
        accuracy=100 * accuracy,
        macro_f1=f1,
        micro_f1=accuracy,
        macro_precision=precision,
        macro_recall=recall,
        micro_precision=accuracy,
        micro_recall=accuracy,
        mean_average_precision=sum(precisions.values()) / len(precisions),
        top_k={k: 100 * (ranks_N < k).double().mean().item() for k in TOP_K if k <= logits_NC.shape[1]},
        classes=tuple(
            ClassScores(int(row_C.sum()), float(precision), float(recall), float(f1), precisions.get(c))
            for c, (row_C, precision, recall, f1) in enumerate(zip(confusion_CC, *_scores(confusion_CC), strict=True))
        ),
        confusion=tuple(map(tuple, confusion_CC.tolist())),
    )


def target_ranks(scores_NC: Tensor, targets_N: Tensor) -> Tensor:
    """How many classes come before the target in the order of scores; of equal scores the lower class is first.

    That is the order in which `argmax` chooses, so rank 0 is the prediction even among ties.
    """
    own_N1 = scores_NC.gather(1, targets_N[:, None])
    lower_class_NC = torch.arange(scores_NC.shape[1]) < targets_N[:, None]
    return ((scores_NC > own_N1) | ((scores_NC == own_N1) & lower_class_NC)).sum(dim=1)


def confusion(predictions_N: Tensor, targets_N: Tensor, *, num_classes: int) -> Tensor:
    """How many images of each true class (first dimension) were taken for each class, as `confusion_matrix`."""
    pairs_N = targets_N * num_classes + predictions_N
    return torch.bincount(pairs_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def macro_scores(confusion_CC: Tensor) -> tuple[float, float, float]:
    """Unweighted class means of precision, recall and F1.

    As `precision_recall_fscore_support(average="macro", zero_division=0)`: over the classes that are
    predicted or true somewhere; a class that is never predicted has precision 0, one that is never true
    has recall 0.
    """
    seen_C = confusion_CC.sum(dim=0) + confusion_CC.sum(dim=1) > 0
    precision, recall, f1 = (values_C[seen_C].mean().item() for values_C in _scores(confusion_CC))
    return precision, recall, f1


def _scores(confusion_CC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1 of each class; 0 where a denominator is."""
    hits_C = confusion_CC.diagonal().double()
    predicted_C, true_C = confusion_CC.sum(dim=0).double(), confusion_CC.sum(dim=1).double()
    return (
        hits_C / predicted_C.clamp(min=1),
        hits_C / true_C.clamp(min=1),
        2 * hits_C / (predicted_C + true_C).clamp(min=1),
    )


def average_precisions(scores_NC: Tensor, targets_N: Tensor) -> dict[int, float]:
    """Of each class the average precision of telling it from all others; their mean is mAP.

    As `average_precision_score`: AP = sum over thresholds of (R_n - R_{n-1}) P_n, where images of equal
    score enter at one threshold. Classes that no target has are left out: their recall is undefined.
    """
    return {c: _average_precision(scores_NC[:, c], targets_N == c) for c in sorted(set(targets_N.tolist()))}


def _average_precision(scores_N: Tensor, positive_N: Tensor) -> float:
    scores_N, order_N = scores_N.sort(descending=True)
    hits_N = positive_N[order_N].cumsum(dim=0).double()
    last_of_its_score = torch.ones(len(scores_N), dtype=torch.bool)
    last_of_its_score[:-1] = scores_N[1:] != scores_N[:-1]
    places = torch.arange(1, len(scores_N) + 1)[last_of_its_score]
    hits = hits_N[last_of_its_score]
    gained_recall = hits.diff(prepend=hits.new_zeros(1)) / hits[-1]
    return (gained_recall * hits / places).sum().item()
