"""n-gram entropy."""

from math import log2

import pytest

from quail_lightning.evaluation.fluency import fluency, fluency_prompt, ngram_entropy


def test_entropy_of_two_bigrams_seen_twice_and_once():
    assert ngram_entropy(["a", "b", "a", "b"], 2) == pytest.approx(-(2 / 3) * log2(2 / 3) - (1 / 3) * log2(1 / 3))


def test_fluency_is_a_third_of_the_bigrams_and_two_thirds_of_the_trigrams_entropy():
    # 5 different words and a full stop: 5 bigrams, 4 trigrams, each once
    assert fluency("one two three four five.") == pytest.approx(log2(5) / 3 + 2 * log2(4) / 3)


def test_repetition_and_shortness_score_zero():
    assert fluency("no no no no no") == 0
    assert fluency("no") == 0
    assert fluency("") == 0


def test_an_instruction_is_put_as_rwku_puts_it():
    assert fluency_prompt("Name a tree.") == "Instruction: Name a tree.\n"
