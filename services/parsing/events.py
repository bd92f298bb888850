"""Words that announce something: an epoch begins, a validation begins, the training is complete."""

from __future__ import annotations

import re

from models.schemas import Stage
from services.parsing.vocabulary import TRAIN, VAL

_COMPLETED = re.compile(
    r"(?:done |finished )?(?:model )?(?:training|train|optimi[sz]ation|fine-?tuning)"
    r"(?: (?:is|has been|was|process|loop|run))?"
    r" (?:complete|completed|finished|done|ended)(?=$|[ ]?[^\w ]| (?:in|after|with|at|successfully)(?!\w))"
    r"|(?:done|finished|completed) (?:training|train|fine-?tuning)(?! epoch)(?!\w)"
    r"|(?:run|experiment|job|fit) (?:finished|completed|complete|done)(?!\w)"
    r"|(?:total )?training time:? [0-9]+:[0-9]|total (?:training )?time elapsed"
    r"|[0-9]{1,9} epochs completed in "
    r"|`?trainer\.fit`? stopped"
    r"|stopping since \S+ has not improved"
    r"|early stopping(?: triggered| at| after|!|\.|$)|early stop(?:ped)?(?:!| at| in|$)"
    r"|engine run finished"
    r"|\W{0,4}训练(?:已)?(?:完成|结束|完毕)|所有轮次训练完成"
    r"|\*{3} best metric",
    re.IGNORECASE,
)
_COUNTER = re.compile(r"epoch\W{0,4}[0-9]{1,9}(?: ?/ ?[0-9]{1,9})?", re.IGNORECASE)
_EPOCH_WORD = re.compile(
    r"[\])]?[ :,.|-]{0,4}(?:(?P<start>start(?:s|ed|ing)?|begins?|began|running|\.{2,})|"
    r"(?P<end>(?:epoch )?time|finished|completed?|done|"
    r"ended|ends|(?:training )?(?:time|took|takes)|total time|finished saving))(?!\w)",
    re.IGNORECASE,
)
_VALIDATION_BEGINS = re.compile(
    r"\W{0,12}(?:(?:start(?:ing|ed)?|begin(?:ning)?|running|run|perform(?:ing)?|doing)(?: the| a)? )?"
    r"(?:eval|evaluation|evaluate|evaluating|validation|validating|validate|testing)"
    r"(?! (?:loss|acc|accuracy|score|results?|metrics?|set|samples|dataset|data|images|f1|map)\b)"
    r"(?:\b[^:=0-9]{0,60}(?:\.\.\.+|\*{3,}|-{3,})?$|$| begin\b|ing? )"
    r"|\W{0,12}(?:eval|evaluation|validation|test) metrics\b"
    r"|(?:开始)?(?:验证|评估|测试)(?:中|开始)?\W{0,6}$|开始(?:验证|评估|测试)"
    r"|\W{0,12}(?:test|valid\w*|eval\w*)(?: \w{1,12})?:\s*$"
    r"|begin validation on|running sanity|evaluating (?:on )?",
    re.IGNORECASE,
)
_TRAINING_BEGINS = re.compile(
    r"\W{0,12}(?:(?:start(?:ing)?|begin(?:ning)?|running) )?train(?:ing)?"
    r"(?: metrics\b| phase\b)?(?:\W{0,6}$|\.\.\.| \*{3,})"
    r"|开始训练",
    re.IGNORECASE,
)
_EVALUATES = re.compile(r"saving dict for global step|(?:final )?evaluation results?\b", re.IGNORECASE)
_EPOCH_BEGINS = re.compile(
    r"begin(?:ning)? (?:training )?epoch|(?:start(?:ing)?|going into)(?: train(?:ing)?)? epoch", re.IGNORECASE
)
_EPOCH_ENDS = re.compile(
    r"end of epoch|epoch end|epoch [0-9]{1,9} (?:done|training time)|finished epoch", re.IGNORECASE
)
_ONLY_EPOCH = re.compile(
    r"\W*(?:epoch|ep)\W{0,4}[0-9]{1,9}(?: ?/ ?[0-9]{1,9}| of [0-9]{1,9})?[\])]?[\s:.=*>#-]*$", re.IGNORECASE
)


def announces_completion(text: str) -> bool:
    return _COMPLETED.match(text) is not None


def phase_announced(text: str) -> str | None:
    """`val` where a validation begins, `train` where the training goes on, None for every other line."""
    if _VALIDATION_BEGINS.match(text):
        return VAL
    return TRAIN if _TRAINING_BEGINS.match(text) else None


def evaluates(text: str) -> bool:
    """Whether the whole line reports an evaluation, in words that its keys do not repeat."""
    return _EVALUATES.match(text) is not None


def epoch_event(text: str) -> Stage | None:
    """Whether a line with an epoch's number in it says that the epoch begins or ends."""
    if _ONLY_EPOCH.match(text) or _EPOCH_BEGINS.search(text):
        return Stage.EPOCH_START
    if _EPOCH_ENDS.search(text):
        return Stage.EPOCH_END
    counter = _COUNTER.search(text)
    word = _EPOCH_WORD.match(text, counter.end()) if counter else None
    if word is None:
        return None
    return Stage.EPOCH_START if word["start"] else Stage.EPOCH_END
