"""What an evaluation says of each class, as a file beside the checkpoint: a log line has no room for it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from trainer.evaluation import Evaluation


def report(evaluation: Evaluation, epoch: int, classes: Sequence[str], *, checkpoint: str | None = None) -> bytes:
    """JSON: the epoch, its metrics, the confusion matrix (rows are true classes), and the scores of each class.

    `checkpoint` is the checksum of the network that was evaluated: a crash can come between the two files.
    """
    content = {
        "epoch": epoch,
        "checkpoint": checkpoint,
        "metrics": evaluation.as_metrics(),
        "classes": list(classes),
        "confusion_matrix": evaluation.confusion,
        "per_class": [
            {
                "class": name,
                "support": scores.support,
                "precision": scores.precision,
                "recall": scores.recall,
                "f1": scores.f1,
                "ap": scores.average_precision,
            }
            for name, scores in zip(classes, evaluation.classes, strict=True)
        ],
    }
    return json.dumps(content, allow_nan=False).encode("ascii")
