"""The table of words is data: a word that nothing can reach, or that says two things, would go unnoticed."""

from __future__ import annotations

import itertools

import pytest

from models.schemas import TrainingMetrics
from services.parsing import LineParser, vocabulary
from services.parsing.meaning import Meaning, context_of, meaning_of, statistics_of, words_of
from services.parsing.tables import read_header

ROLES = {
    **{f"context {name}": words for name, words in vocabulary.CONTEXTS.items()},
    **{f"metric {name}": words for name, words in vocabulary.METRICS.items()},
    **{f"statistic {name}": words for name, words in vocabulary.STATISTICS.items()},
    "filler": tuple(sorted(vocabulary.FILLERS)),
}
WORDS = [word for words in ROLES.values() for word in words]


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(ROLES, 2)))
def test_no_word_has_two_roles(first: str, second: str) -> None:
    assert not set(ROLES[first]) & set(ROLES[second])


def test_no_row_has_a_word_twice() -> None:
    for role, words in ROLES.items():
        assert len(words) == len(set(words)), role


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_table_comes_out_of_a_key_as_it_stands(word: str) -> None:
    """Otherwise it is never looked up: it is in capitals, taken apart, or part of a phrase."""
    assert words_of(word) == (word,)


@pytest.mark.parametrize(("metric", "words"), vocabulary.METRICS.items())
def test_every_metric_is_found_by_each_of_its_words(metric: str, words: tuple[str, ...]) -> None:
    for word in words:
        found = meaning_of(word)
        assert found is not None, word
        assert found.metric == metric, word
        assert meaning_of(f"Best {word.title()}") == Meaning(metric, statistics=frozenset({"best"})), word


@pytest.mark.parametrize(("context", "words"), vocabulary.CONTEXTS.items())
def test_every_context_is_found_by_each_of_its_words(context: str, words: tuple[str, ...]) -> None:
    for word in words:
        assert context_of(f"{word.title()} set") == context, word
        assert meaning_of(f"{word}_loss") == meaning_of(f"{word}/loss") == Meaning("loss", context), word


@pytest.mark.parametrize(("statistic", "words"), vocabulary.STATISTICS.items())
def test_every_statistic_is_found_by_each_of_its_words(statistic: str, words: tuple[str, ...]) -> None:
    for word in words:
        assert statistic in statistics_of(word), word


@pytest.mark.parametrize("word", sorted(vocabulary.FILLERS))
def test_a_filler_changes_nothing(word: str) -> None:
    assert meaning_of(f"{word} loss") == Meaning("loss")


@pytest.mark.parametrize(("phrase", "word"), vocabulary.PHRASES)
def test_every_phrase_stands_for_words_that_are_known(phrase: str, word: str) -> None:
    assert phrase == phrase.lower()
    assert words_of(phrase) == words_of(word)
    assert set(words_of(phrase)) <= set(WORDS)


@pytest.mark.parametrize(("chinese", "english"), vocabulary.CHINESE.items())
def test_every_chinese_word_stands_for_words_that_are_known(chinese: str, english: str) -> None:
    assert words_of(chinese) == tuple(english.split())
    assert set(english.split()) <= set(WORDS)


def test_the_longest_chinese_word_is_taken() -> None:
    assert meaning_of("验证集准确率") == Meaning("acc", "val")
    assert meaning_of("最佳损失值") == Meaning("loss", statistics=frozenset({"best"}))


@pytest.mark.parametrize(("column", "key"), vocabulary.COLUMNS.items())
def test_every_short_name_of_a_column_means_what_its_key_means(column: str, key: str) -> None:
    """At the head of a table, that is: beside two columns that are known anyhow."""
    assert meaning_of(key) is not None
    header = read_header(f"{column}  loss  epoch")
    assert header is not None
    assert header[0][0] == column


def test_settings_and_hints_are_written_as_they_are_looked_up() -> None:
    for word in (*vocabulary.SETTINGS, *vocabulary.HINTS, *vocabulary.RATE_UNITS):
        assert word == word.lower()


MEASURED = ("loss", "acc", "score", "f1", "precision", "recall", "mAP", "map50", "ppl")
KEYS = [
    *(word for metric in MEASURED for word in vocabulary.METRICS[metric]),
    *(phrase for phrase, _ in vocabulary.PHRASES),
    *vocabulary.CHINESE,
]


@pytest.mark.parametrize("key", [key for key in KEYS if (found := meaning_of(key)) and found.metric in MEASURED])
def test_a_measured_value_is_found_on_a_line_of_its_own(key: str) -> None:
    """A line without any of `HINTS` is not looked at further, so each of these words must have one in it."""
    assert LineParser().parse(f"{key}: 0.5").metrics


def test_metrics_of_the_wire_contract_are_in_the_table() -> None:
    table = {"learning_rate" if name == "lr" else name for name in vocabulary.METRICS}
    fields = set(TrainingMetrics.model_fields)
    assert {"epoch", "total_epochs", "total_steps", "learning_rate", "mAP", "eta", "throughput", "precision"} <= fields
    assert {"epoch", "total_epochs", "total_steps", "learning_rate", "mAP", "eta", "throughput", "precision"} <= table


def test_a_key_with_a_word_of_no_role_is_none_of_these_metrics() -> None:
    for key in ("loss scale", "accuracy threshold", "train loss weight", "val split", "epoch seconds"):
        assert meaning_of(key) is None, key
