"""Every number is the one that scikit-learn gives, ties and absent classes included."""

# ruff: noqa: N806, N815 - shape suffixes are upper case
from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from torch import Tensor

from models.schemas import TrainingMetrics
from trainer.evaluation import average_precisions, confusion, evaluate, macro_scores, target_ranks


@dataclass(frozen=True)
class Case:
    """Logits of N images and C classes. From few values, so that ties are common, or all distinct."""

    logits_NC: Tensor
    targets_N: Tensor


@st.composite
def cases(draw: st.DrawFn, *, ties: bool = True) -> Case:
    images, classes = draw(st.integers(1, 30)), draw(st.integers(2, 7))
    values = st.integers(-3, 3) if ties else st.integers(-10_000, 10_000)
    count = images * classes
    flat = draw(st.lists(values, min_size=count, max_size=count, unique=not ties))
    targets = draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    scale = 2.0 if ties else 1000.0
    return Case(torch.tensor(flat).view(images, classes) / scale, torch.tensor(targets))


@settings(deadline=None, max_examples=50)
@given(cases())
def test_macro_and_micro_scores_agree_with_scikit_learn(case: Case) -> None:
    evaluation = evaluate(case.logits_NC, case.targets_N)
    predictions = case.logits_NC.numpy().argmax(axis=1)
    for average, ours in (
        ("macro", (evaluation.macro_precision, evaluation.macro_recall, evaluation.macro_f1)),
        ("micro", (evaluation.micro_precision, evaluation.micro_recall, evaluation.micro_f1)),
    ):
        theirs = precision_recall_fscore_support(case.targets_N, predictions, average=average, zero_division=0)
        assert ours == pytest.approx(theirs[:3], abs=1e-6)
    assert evaluation.accuracy == pytest.approx(100 * accuracy_score(case.targets_N, predictions), abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_mean_average_precision_agrees_with_scikit_learn_over_the_classes_there_are(case: Case) -> None:
    expected = {
        c: average_precision_score(case.targets_N == c, case.logits_NC[:, c])
        for c in range(case.logits_NC.shape[1])
        if (case.targets_N == c).any()
    }
    assert average_precisions(case.logits_NC, case.targets_N) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_each_class_and_the_confusion_matrix_agree_with_scikit_learn(case: Case) -> None:
    evaluation = evaluate(case.logits_NC, case.targets_N)
    predictions = case.logits_NC.numpy().argmax(axis=1)
    labels = list(range(case.logits_NC.shape[1]))
    assert [list(row) for row in evaluation.confusion] == confusion_matrix(
        case.targets_N, predictions, labels=labels
    ).tolist()
    theirs = precision_recall_fscore_support(case.targets_N, predictions, labels=labels, zero_division=0)
    ours = [(scores.precision, scores.recall, scores.f1, scores.support) for scores in evaluation.classes]
    assert ours == [pytest.approx(each, abs=1e-6) for each in zip(*theirs, strict=True)]
    precisions = [scores.average_precision for scores in evaluation.classes]
    known = [each for each in precisions if each is not None]
    assert sum(known) / len(known) == pytest.approx(evaluation.mean_average_precision)
    assert [each is None for each in precisions] == [scores.support == 0 for scores in evaluation.classes]


@settings(deadline=None, max_examples=50)
@given(cases(ties=False))
def test_loss_and_mean_average_precision_come_from_the_probabilities(case: Case) -> None:
    evaluation = evaluate(case.logits_NC, case.targets_N)
    probabilities_NC = case.logits_NC.double().softmax(dim=1)
    labels = range(case.logits_NC.shape[1])
    assert evaluation.loss == pytest.approx(log_loss(case.targets_N, probabilities_NC, labels=labels), abs=1e-6)
    of_classes = average_precisions(probabilities_NC, case.targets_N).values()
    assert evaluation.mean_average_precision == sum(of_classes) / len(of_classes)


@settings(deadline=None, max_examples=50)
@given(cases(ties=False))
def test_top_k_agrees_with_scikit_learn(case: Case) -> None:
    evaluation = evaluate(case.logits_NC, case.targets_N)
    classes = case.logits_NC.shape[1]
    assert list(evaluation.top_k) == [k for k in (1, 3, 5) if k <= classes]
    for k, ours in evaluation.top_k.items():
        if k == classes:
            assert ours == 100
        elif classes > 2:
            theirs = top_k_accuracy_score(case.targets_N, case.logits_NC, k=k, labels=range(classes))
            assert ours == pytest.approx(100 * theirs, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(cases())
def test_top_1_is_the_accuracy_even_among_ties(case: Case) -> None:
    evaluation = evaluate(case.logits_NC, case.targets_N)
    assert evaluation.top_k[1] == evaluation.accuracy
    predicted_N = target_ranks(case.logits_NC, case.targets_N) == 0
    assert torch.equal(predicted_N, case.logits_NC.argmax(dim=1) == case.targets_N)


def test_a_class_that_is_neither_true_nor_predicted_does_not_count() -> None:
    assert macro_scores(confusion(torch.tensor([0, 1]), torch.tensor([0, 1]), num_classes=9)) == (1, 1, 1)


def test_a_class_that_is_only_predicted_lowers_the_means() -> None:
    scores = macro_scores(confusion(torch.tensor([0, 1]), torch.tensor([0, 0]), num_classes=2))
    assert scores == pytest.approx((0.5, 0.25, 1 / 3), abs=1e-9)


def test_metrics_have_the_names_of_the_wire() -> None:
    metrics = evaluate(torch.eye(6), torch.arange(6)).as_metrics()
    assert metrics.keys() <= TrainingMetrics.model_fields.keys()
    assert metrics["top5_acc"] == 100
