"""Whether a metric is better when it is low, or when it is high. By its name; of many it cannot be said."""

from __future__ import annotations

import re
from typing import Final, Literal

Goal = Literal["min", "max"]

_LOW: Final = re.compile(
    r"(?:^|_)(?:loss|error|err|perplexity|ppl|mse|rmse|mae|mape|brier|ece|nll|cross_entropy|logloss|hinge|"
    r"wer|cer|fid|regret)(?:$|_)|loss$|error$"
)
_HIGH: Final = re.compile(
    r"(?:^|_)(?:acc|accuracy|f1|fbeta|map|ap|auc|auroc|auprc|roc_auc|precision|recall|sensitivity|specificity|iou|miou|"
    r"dice|jaccard|kappa|mcc|r2|bleu|psnr|ssim|ap50|map50|map75|score|reward|top1|top3|top5)(?:$|_)|acc$|ap\d*$|f1$"
)


def goal_of(name: str) -> Goal | None:
    """`min` for losses and errors, `max` for accuracies and scores, `None` for the rest, such as a learning rate."""
    lowered = name.lower().replace("-", "_").replace("/", "_").replace("@", "_").replace(".", "_").replace(" ", "_")
    if _LOW.search(lowered):
        return "min"
    return "max" if _HIGH.search(lowered) else None
