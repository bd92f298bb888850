"""Reads what is written as `key: value`, `key=value` or `key value`, and the counters between them.

A message is a row of numbers. What each one is, the text before it says (`keys.py`); what that means
may depend on the labels further left and on the brackets around it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from services.parsing.bars import WrittenOut, write_out
from services.parsing.keys import Key, key_of
from services.parsing.meaning import Meaning
from services.parsing.report import Report
from services.parsing.values import SECONDS_OF, Kind, Value, values_of
from services.parsing.vocabulary import OF_NO_SET, SETTINGS

_COUNT_BARRED = re.compile(r"\[ ?([0-9]{1,9}) ?\| ?([0-9]{1,9}) ?\]")
_EPOCH_GLUED = re.compile(r"\bepoch ?#?(?=[0-9])", re.IGNORECASE)
_ONLY_STEP = re.compile(r"(?:global )?(?:step|iteration) [0-9]", re.IGNORECASE)
"""A step that nothing is said of is worth telling where the line begins with it. `step: 30` is a setting."""
_EPOCH_BEHIND = re.compile(r"\b([0-9]{1,9})epoch(?=[: ])", re.IGNORECASE)
_THINGS_BEHIND = re.compile(r" (?:epochs|iterations|iters|steps|batches|images|samples)\b", re.IGNORECASE)
_UNIT_BEHIND = re.compile(r" (?:ms|s|secs?|seconds|minutes|mins?|hours|images|samples|[KMG]i?B)\b", re.IGNORECASE)
_LEADS_EPOCH = re.compile(r"[\s*:-]{0,8}epochs?\b(?!\W{0,3}$)", re.IGNORECASE)
"""Behind a count that counts epochs: `1/10 * Epoch (train)`."""
_SAMPLES = re.compile(r"(?:train(?:ing)?|eval(?:uation)?|val(?:idation)?|test) epoch:? [0-9]{1,9} \[", re.IGNORECASE)
"""In this form of counter, `Train Epoch: 1 [640/60000 (1%)]`, the bracket counts images."""
_OTHER_REPORT = re.compile(
    r"\b(?:namespace|config(?:uration)?s?|args|arguments|hyper-?param\w*|resum(?:e|ed|ing)|load(?:ed|ing)"
    r"|restor(?:e|ed|ing)"
    r"|usage|gflops|scanning|pre-?trained|early ?stopping counter|(?-i:\w{0,40}(?:Warning|Error|Exception)))\b"
    r"|File \"|\bclass (?!acc)\w+|类别",
    re.IGNORECASE,
)
SUSPECT_WORDS = ("namespace", "config", "arg", "hyper", "resum", "load", "restor", "usage", "gflops", "trained",
                 "scanning", "stopping", "warning", "error", "exception", 'file "', "class", "类别")  # fmt: skip
"""Without any of them, a line needs no closer look for `_OTHER_REPORT`."""
_FILE = re.compile(
    r"(?<![^\s'\"(])[^\s'\"(]{1,400}\.(?:ckpt|pth|pt|h5|keras|pkl|bin|safetensors|tar|onnx|json|ya?ml|txt|log"
    r"|png|jpe?g|cache)(?!\w)",
    re.IGNORECASE,
)
"""Names of files hold numbers of their own: `epoch=0-val_acc=0.56.ckpt`."""
_ADDRESS = re.compile(r"\w{1,20}://\S{1,2000}")
_GOES_ON = re.compile(r"[\])]?\s{0,3}(?:[^\W\d_][a-z_ ]{0,40})?\s{0,3}[:=]\s{0,8}", re.IGNORECASE)
"""Behind a number that a name ends with, up to the number that is the value."""
_PLACES = frozenset({None, "epoch", "step", "total_epochs", "total_steps"})
_INHERITED = frozenset({"best", "ema", "topk"})
_OF_NO_SET = OF_NO_SET | {"lr"}
_WORD_BEHIND = re.compile(r" {1,3}([A-Za-z]{1,7})(?!\w)")
_MEMORY_UNITS = frozenset({"", "g", "gb", "gib", "m", "mb", "mib", "k", "kb"})
_MAX_NAMED = 64
_NO_KEY = key_of("")
_MEASURED = frozenset({"loss", "acc", "score", "f1", "precision", "recall", "mAP", "map50", "ppl"})


def read_grammar(text: str, *, is_suspect: bool = True) -> Report | None:
    """The report that `text` is, or None where it is a sentence, a setting or something else with numbers.

    Args:
        text: a message.
        is_suspect: it has one of `SUSPECT_WORDS`, and may be a report of something else.
    """
    if "poch" in text or "POCH" in text:
        text = _EPOCH_GLUED.sub("epoch ", _EPOCH_BEHIND.sub(r"epoch \1", text))
    if "|" in text:
        text = _COUNT_BARRED.sub(r"[\1/\2]", text)
    if "://" in text:
        text = _ADDRESS.sub(" ", text)
    if "." in text:
        text = _FILE.sub(" ", text)
    written = write_out(text)
    if written is None:
        return None
    text = written.text
    if is_suspect and _OTHER_REPORT.search(text):
        return None
    values, rest = values_of(text)
    report = Report(is_bar=written.is_bar, rules=["key value"])
    keys = [key_of(value.gap) for value in values]
    if _is_settings(keys):
        return None
    _Reader(report, written, values, keys, rest).read()
    return report if _is_report(report) or _ONLY_STEP.match(text) else None


def _is_settings(keys: list[Key]) -> bool:
    settings = sum([key.name in SETTINGS for key in keys])
    if not settings:
        return False
    others = {key.meaning.metric if key.meaning else None for key in keys if key.name not in SETTINGS}
    return settings > 1 or (settings == 1 and others == {"lr"})


def _is_report(report: Report) -> bool:
    """A learning rate or a memory size alone may be a setting; beside a counter or a loss it is not."""
    if any(each.meaning.metric in _MEASURED for each in report.observations):
        return True
    known = [each for each in report.observations if each.meaning.metric is not None]
    is_place = report.epoch is not None or report.samples is not None or report.total_steps is not None
    return (
        is_place
        or (report.step is not None and bool(report.observations))
        or (len(known) == len(report.observations) > 0)
    )


class _Reader:
    """One pass over the numbers of a line."""

    def __init__(self, report: Report, written: WrittenOut, values: list[Value], keys: list[Key], rest: str) -> None:
        self.is_drawn = written.is_drawn
        self.report = report
        self.values = values
        self.keys = keys
        self.rest = rest
        self.counts_samples = written.counts_images or _SAMPLES.match(written.text) is not None
        self.context: str | None = None
        self.labelled: frozenset[str] = frozenset()
        self.key = _NO_KEY
        self.last_metric: str | None = None
        self.ratio = Meaning("acc")
        self.read_on_at = 0
        self.last: str = ""
        """What the number before was: epoch, step, value, or nothing that others go with."""

    def read(self) -> None:
        bare: list[tuple[Meaning, Value]] = []
        named: list[tuple[str, Value]] = []
        for index, (value, key) in enumerate(zip(self.values, self.keys, strict=True)):
            if index < self.read_on_at:
                continue
            self.key = key
            if key.context:
                self.context = key.context
            self.labelled |= key.statistics
            if key.is_blank:
                self._read_blank(index, value, key)
                continue
            meaning = key.meaning
            self.last = ""
            if value.is_rate and value.kind is Kind.NUMBER:
                self._observe(Meaning("throughput"), value)
            elif meaning is None:
                if key.name is not None and value.kind is Kind.NUMBER:
                    named.append((key.name, value))
            elif meaning.metric in ("epoch", "step"):
                self._read_counter(index, meaning, value)
            elif meaning.metric is None:
                self._read_context(index, meaning, value, bare)
            else:
                self._read_measured(index, meaning, value)
        self._read_bare(bare)
        if self.report.observations or self.report.has_counter:
            for name, value in named[:_MAX_NAMED]:
                if name not in SETTINGS and not name.endswith("_py"):
                    self.report.observe(Meaning(None, self.context), value.number, name=name)
        if not self.report.observations:
            self.report.context = self.context

    def _read_blank(self, index: int, value: Value, key: Key) -> None:
        """A number without a key of its own: a bracketed counter, a running mean, a percentage, a rate."""
        report = self.report
        if value.kind is Kind.COUNT:
            if self.is_drawn and (key.opens != "(" or index == 0) and report.step is None:
                self._set_step(value)
            elif index == 0 and len(self.values) > 1 and _LEADS_EPOCH.match(self.values[1].gap):
                report.epoch, report.total_epochs = int(value.number), int(value.total or 0)
            elif self.last == "epoch" or (key.context and key.opens == "[") or (index == 0 and self._leads(key)):
                report.opens_with_count = index == 0 and not key.context
                self._set_step(value)
                self.last = "step"
        elif value.is_rate:
            self._observe(Meaning("throughput"), value)
        elif key.opens == "(" and self.last == "ratio" and value.is_percent:
            self._observe(self.ratio, value)
        elif key.is_best and self.last_metric == "acc" and value.kind is Kind.NUMBER:
            self._observe(Meaning("acc", statistics=frozenset({"best"})), value)
        elif self._is_average(index, value, key):
            if report.observations[-1].average is None:
                report.observations[-1].average = value.number
            self.last = ""
        elif value.kind is Kind.NUMBER and value.is_whole and self._is_plain_step(index, key):
            report.step = int(value.number)
            self.last = "step"

    def _behind(self, index: int) -> str:
        return self.values[index + 1].gap if index + 1 < len(self.values) else self.rest

    def _is_average(self, index: int, value: Value, key: Key) -> bool:
        is_alone = key.opens == "(" and self._behind(index).lstrip().startswith(")")
        return is_alone and self.last == "value" and value.kind is Kind.NUMBER and not value.unit

    def _leads(self, key: Key) -> bool:
        """A count that opens the line is the step: `16/16 - 1s - loss: 0.5`."""
        return key.is_bare and len(self.values) > 1

    def _is_plain_step(self, index: int, key: Key) -> bool:
        """`Epoch [1][50]`; `[10] train-loss:0.5` and `[10] valid_0's auc: 0.5`, which are rounds of boosting."""
        if self.last == "epoch":
            return key.opens == "[" and self.report.step is None
        following = self.keys[1:2]
        is_first = index == 0 and key.opens == "["
        return is_first and bool(following) and self.values[1].gap.startswith("]") and not following[0].is_blank

    def _read_counter(self, index: int, meaning: Meaning, value: Value) -> None:
        if meaning.context:
            self.context = meaning.context
        is_count = value.kind in (Kind.NUMBER, Kind.COUNT) and not value.unit and value.number >= 0
        if not is_count or self._has_unit_behind(index):
            return
        if meaning.metric == "step":
            self._read_step(value)
        elif "best" in meaning.statistics or "best" in self.labelled or self._has_best():
            self.report.best_epoch = value.number
        elif self.report.epoch is None:
            self._read_epoch(value)

    def _read_step(self, value: Value) -> None:
        report = self.report
        if self.key.is_phrase and report.epoch is not None and "global" in value.gap:
            report.observe(Meaning(None), value.number, name="global_step")  # counts on through the epochs
        elif value.is_whole and report.step is None:
            self._set_step(value)
            self.last = "step"

    def _read_epoch(self, value: Value) -> None:
        report = self.report
        report.epoch = int(value.number) if value.is_whole else value.number
        if report.opens_with_count and report.step == report.epoch and value.total is None:
            report.total_epochs, report.step, report.total_steps = report.total_steps, None, None  # 1/10 * Epoch 1
            report.opens_with_count = False
        if value.total is not None:
            report.total_epochs = int(value.total)
        self.last = "epoch"

    def _has_unit_behind(self, index: int) -> bool:
        """`batch: 45 ms` is a time."""
        return _UNIT_BEHIND.match(self._behind(index)) is not None

    def _has_best(self) -> bool:
        return any("best" in each.meaning.statistics for each in self.report.observations)

    def _read_context(self, index: int, meaning: Meaning, value: Value, bare: list[tuple[Meaning, Value]]) -> None:
        """`Train: 0 [ 10/50]` and `Test: [10/50]` are counters; `Train: 0.9, Val: 0.8` are accuracies."""
        if value.kind is Kind.NUMBER and not self._is_followed_by_count(index):
            bare.append((meaning, value))
            return
        self.context = meaning.context
        if value.kind is Kind.COUNT and self._is_followed_by_count(index) and self.report.epoch is None:
            self.report.epoch, self.report.total_epochs = int(value.number), int(value.total or 0)
            self.last = "epoch"
        elif value.kind is Kind.COUNT:
            self._set_step(value)
            self.last = "step"
        elif value.is_whole:
            if self.report.epoch is None:
                self.report.epoch = int(value.number)
            self.last = "epoch"

    def _is_followed_by_count(self, index: int) -> bool:
        if index + 1 >= len(self.values):
            return False
        key, value = self.keys[index + 1], self.values[index + 1]
        return key.is_blank and key.opens == "[" and value.kind is Kind.COUNT

    def _read_bare(self, bare: list[tuple[Meaning, Value]]) -> None:
        if len({meaning.context for meaning, _ in bare}) > 1:
            for meaning, value in bare:
                if value.kind is Kind.NUMBER and not value.is_whole:
                    self._observe(replace(meaning, metric="acc"), value)

    def _read_measured(self, index: int, meaning: Meaning, value: Value) -> None:
        metric = meaning.metric
        if metric in ("total_epochs", "total_steps"):
            if value.is_whole:
                setattr(self.report, metric, int(value.number))
            return
        if metric == "eta":
            word = _WORD_BEHIND.match(self._behind(index))
            unit = value.unit or (word[1].lower() if word and word[1].lower() in SECONDS_OF else "")
            if value.kind is Kind.CLOCK or (value.kind is Kind.NUMBER and unit in SECONDS_OF):
                self._observe(meaning, replace(value, number=value.number * SECONDS_OF.get(unit, 1.0)))
            return
        if metric == "acc" and value.kind is Kind.COUNT:  # Accuracy: 9500/10000 (95%)
            self.last = "ratio"
            self.ratio = meaning
            return
        if value.kind is not Kind.NUMBER or not _fits(metric, value):
            return
        if value.is_whole and self._is_part_of_name(index):
            self.read_on_at = index + 2
            return
        if value.is_whole and _THINGS_BEHIND.match(self._behind(index)):  # accuracy after 10 epochs is 93 %
            return
        self._observe(meaning, value)

    def _is_part_of_name(self, index: int) -> bool:
        """`Accuracy after epoch 3: 0.8`, `loss after 10 iterations: 0.5`: the value is the number behind."""
        if index + 1 == len(self.values) or self.values[index].gap.rstrip().endswith((":", "=")):
            return False
        following = self.keys[index + 1].meaning
        says_more = following is not None and following.metric not in _PLACES
        return not says_more and _GOES_ON.fullmatch(self._behind(index)) is not None

    def _observe(self, meaning: Meaning, value: Value) -> None:
        if meaning.context is None and self.context is not None and meaning.metric not in _OF_NO_SET:
            meaning = replace(meaning, context=self.context)
        elif meaning.context is not None:
            self.context = meaning.context if self.key.is_phrase else self.context
        if self.labelled:
            meaning = replace(meaning, statistics=meaning.statistics | (self.labelled & _INHERITED))
        if not self.report.observations:
            self.report.context = self.context  # labels further right are of the values behind them
            self.report.is_averaged = "avg" in self.labelled
        self.last_metric = meaning.metric
        if self.key.is_phrase:
            self.labelled |= meaning.statistics & {"ema"}
        self.report.observe(meaning, value.number, is_percent=value.is_percent)
        self.last = "value"

    def _set_step(self, value: Value) -> None:
        if self.counts_samples and value.total is not None:
            self.report.samples = (int(value.number), int(value.total))
            return
        self.report.step = int(value.number)
        if value.total is not None:
            self.report.total_steps = int(value.total)


def _fits(metric: str | None, value: Value) -> bool:
    if metric == "gpu_memory":
        return value.unit in _MEMORY_UNITS
    return value.unit in ("", "%")
