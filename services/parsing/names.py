"""What the observations of a line are called: `train_loss`, `val_acc`, `macro_f1`, `best_acc`, ...

A context that a line does not give comes from the lines before it, or from what only a validation prints.
"""

from __future__ import annotations

from services.parsing.meaning import Meaning
from services.parsing.memory import LogState
from services.parsing.report import Number, Observation, Report
from services.parsing.vocabulary import OF_EVALUATION, OF_NO_SET, TEST, TRAIN, VAL

Kind = tuple[str | None, str | None]
"""Metric and context: values of one kind on a line are told apart by their statistics."""
_OF_VALIDATION = OF_EVALUATION | {"score"}
_PREFIXES = ("train_", "val_", "valid_", "validation_", "eval_", "test_")
_BEST = frozenset({"best", "max"})
_ACCURACIES = frozenset({"acc", "score"})
_SECONDARY = frozenset({"avg", "step"})
_AVERAGED = frozenset({"train_loss", "train_acc", "val_loss", "val_acc"})


def name_metrics(report: Report, state: LogState) -> tuple[dict[str, Number], frozenset[str]]:
    """Names and values, the first of each name, and the names of those printed with a percent sign."""
    default = _default_context(report, state)
    metrics: dict[str, Number] = {}
    percents: set[str] = set()
    numbered = False
    epochs: set[Kind] = set()
    plain: set[Kind] = set()
    if any(each.meaning.statistics for each in report.observations):
        numbered = _numbered_sets(report)
        epochs = {_kind(each) for each in report.observations if "epoch" in each.meaning.statistics}
        plain = {_kind(each) for each in report.observations if not each.meaning.statistics & _SECONDARY}
    for each in report.observations:
        context = each.meaning.context or default
        if context == TEST:
            context = VAL if _is_validation(report, state) else TEST
        suffix = _suffix(each, plain, epochs)
        for name in _names(each, context, is_numbered=numbered):
            first, second = each.value, each.average
            if report.is_averaged and second is not None:
                first, second = second, first
            metrics.setdefault(name + suffix, first)
            if second is not None and name in _AVERAGED:
                metrics.setdefault(f"{name}_{'last' if report.is_averaged else 'avg'}", second)
            if each.is_percent:
                percents.add(name + suffix)
    return metrics, frozenset(percents)


def _is_validation(report: Report, state: LogState) -> bool:
    """Whether a test set is looked at after each epoch: no other is, or the training's own values stand beside it."""
    return not report.holds(VAL) and (report.holds(TRAIN) or not (state.has_val or state.is_completed))


def _kind(each: Observation) -> Kind:
    return each.meaning.metric, each.meaning.context


def _suffix(each: Observation, plain: set[Kind], epochs: set[Kind]) -> str:
    """A mean beside the value itself is another series, and so is the value of a step beside that of its epoch."""
    if "avg" in each.meaning.statistics and _kind(each) in plain:
        return "_avg"
    if "step" in each.meaning.statistics and (_kind(each) in epochs or _kind(each) in plain):
        return "_step"
    return ""


def _numbered_sets(report: Report) -> bool:
    """Whether a line has several numbered sets: which of them is the validation set, it does not say."""
    sets = {word for each in report.observations for word in each.meaning.statistics if word.startswith("set")}
    return len(sets) > 1


def _default_context(report: Report, state: LogState) -> str:
    """Of observations that name no context of their own."""
    if report.context is not None:
        return report.context
    if report.phase is not None:
        return report.phase
    if state.phase == VAL and (report.epoch is None or state.is_bar_of_validation(report)):
        return VAL
    found = {each.meaning.metric for each in report.observations if each.meaning.context is None}
    if "loss" not in found and (found & _OF_VALIDATION or ("acc" in found and report.holds(VAL))):
        return VAL
    if "acc" in found and not found & {"loss", "lr", "eta"} and report.step is None and not report.holds(TRAIN):
        return VAL
    return TRAIN


def _names(each: Observation, context: str, *, is_numbered: bool) -> tuple[str, ...]:
    """What the value of an observation is called; a top-1 accuracy of the validation is its accuracy, too."""
    metric, statistics = each.meaning.metric, each.meaning.statistics
    if metric is None:
        return _own_name(each.name or "", context)
    if metric == "lr":
        return ("learning_rate",)
    if metric in OF_NO_SET:
        return _of_no_set(each, metric)
    if metric == "score" and each.meaning.context is None and not statistics & _BEST:
        return ("score",)
    of_set = sorted(word.removeprefix("set") for word in statistics if word.startswith("set"))
    if is_numbered and of_set:
        return (f"validation_{of_set[0]}_{metric}",)
    if "ema" in statistics:
        return (f"ema_top{each.meaning.k}_acc",) if each.meaning.k not in (None, 1) else (f"{context}_ema_{metric}",)
    if "best" in statistics or ("max" in statistics and metric in _ACCURACIES):
        is_accuracy = metric in _ACCURACIES and each.meaning.k in (None, 1)
        return ("best_acc",) if is_accuracy else (f"best_{_plain(each.meaning)}",)
    if "max" in statistics:
        return (f"max_{metric}",)
    return _of_context(each.meaning, context)


def _own_name(name: str, context: str) -> tuple[str, ...]:
    return (name,) if context == TRAIN or name.startswith(_PREFIXES) else (f"{context}_{name}",)


def _of_no_set(each: Observation, metric: str) -> tuple[str, ...]:
    if metric == "throughput" and each.value <= 0:  # printed where nothing was measured
        return ()
    if metric == "throughput" and each.meaning.context == VAL:
        return ("val_throughput",)
    return (metric, f"{metric}_max") if "max" in each.meaning.statistics else (metric,)


def _plain(meaning: Meaning) -> str:
    return f"top{meaning.k}_acc" if meaning.k else (meaning.metric or "").lower()


def _of_context(meaning: Meaning, context: str) -> tuple[str, ...]:
    metric, k = meaning.metric, meaning.k
    prefix = "" if context == VAL else f"{context}_"
    if k == 1:
        names = (f"{context}_acc", f"{prefix}top1_acc")
        return names[:1] if context == TRAIN else names[1:] if "topk" in meaning.statistics else names
    if k is not None:
        return (f"{prefix}top{k}_acc",)
    if metric in ("loss", "acc", "score"):
        return (f"{context}_{'acc' if metric == 'score' else metric}",)
    if metric in ("f1", "precision", "recall"):
        average = next((word for word in ("macro", "micro", "weighted") if word in meaning.statistics), None)
        if average is None:
            return (f"{prefix}{metric}",)
        named = f"{prefix}{average}_{metric}"
        return (f"{prefix}{metric}", named) if average == "macro" and metric != "f1" else (named,)
    return (f"{context}_ppl",) if metric == "ppl" else (f"{prefix}{metric}",)
