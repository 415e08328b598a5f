"""Which of several answers does a model find likeliest? No text is generated, so no wording has to be hit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from quail_lightning.data.multiple_choice import ChoiceQuestion
from quail_lightning.evaluation.intervals import Floats
from quail_lightning.inference.encoding import encode
from quail_lightning.inference.likelihood import token_log_likelihoods

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def choice_prompt(question: ChoiceQuestion) -> str:
    """What stands before an answer: the question, plainly, without examples and without the other answers."""
    return f"Question: {question.question}\nAnswer:"


def choice_texts(question: ChoiceQuestion) -> list[str]:
    """The prompt with each of the options, the right one first."""
    return [f"{choice_prompt(question)} {option}" for option in question.options]


def choice_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[ChoiceQuestion],
    batch_size: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """Mean log-likelihood of each option's tokens after the prompt.

    The mean and not the sum, by which an option of one token beats one of three whatever the model knows. An
    option's tokens are all those after what its text and the prompt's have in common; where a tokenizer joins the
    prompt's end with an option's beginning, those of all four begin one token earlier.

    Args:
        model: a causal language model; its mode is restored afterwards.
        tokenizer: its own.
        questions: with their options.
        batch_size: texts in one forward pass, four to a question; None: by free memory.
        progress: called after each batch with the texts done and their total.

    Returns:
        [n, 4] nats a token, the right option first.
    """
    texts = [text for question in questions for text in choice_texts(question)]
    prompts = encode(tokenizer, [choice_prompt(question) for question in questions])
    encoded = encode(tokenizer, texts)
    likelihoods = token_log_likelihoods(model, tokenizer, texts, batch_size, progress=progress)
    scores = np.empty((len(questions), len(texts) // max(1, len(questions))))
    for row, prompt in enumerate(prompts):
        options = range(row * scores.shape[1], (row + 1) * scores.shape[1])
        begin = min(_shared(prompt, encoded[option]) for option in options)
        for column, option in enumerate(options):
            # one token fewer has a likelihood than is encoded: nothing stands before the first
            own = likelihoods[option][begin - len(encoded[option]) :]
            scores[row, column] = own.double().mean().item()
    return scores


def chosen_options(scores: Iterable[Floats]) -> list[int | None]:
    """The option that each row names; a tie with the right one names a wrong one, for a model that tells nothing
    apart knows no answer. None where a score is not finite: a diverged model names none.

    Args:
        scores: of each question [options], the right one first; not all need as many.
    """
    named: list[int | None] = []
    for row in scores:
        best_wrong = 1 + int(row[1:].argmax())
        named.append(None if not np.isfinite(row).all() else 0 if row[0] > row[best_wrong] else best_wrong)
    return named


def beyond_chance(is_right: bool, options: int) -> float:
    """(right − 1/k) / (1 − 1/k) of one question with k answers: 1 if right, −1/(k − 1) if not.

    Its mean is 0 for who guesses, however many answers each question has (the correction for guessing of multiple
    choice tests: right answers less wrong ones over k − 1).
    """
    return 1.0 if is_right else -1 / (options - 1)


def _shared(prompt: Sequence[int], whole: Sequence[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))))
