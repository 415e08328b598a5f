"""Prompts cut from the windows that a model is chosen by; never reported."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from torch import Tensor

from quail_lightning.data.opening import opening_tokens
from quail_lightning.data.window_records import MOST_RECORDS, prompt_of, spread
from quail_lightning.errors import InputError
from quail_lightning.evaluation.rouge import rougeL_f1
from quail_lightning.evaluation.verbmem import NEW_TOKENS
from quail_lightning.functional.masking import without_padding
from quail_lightning.inference.encoding import encode
from quail_lightning.inference.generation import check_lengths, generate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ValidationPrompts:
    """The first halves of some windows, and what follows.

    Attributes:
        prompts: the first halves.
        truths: what follows each, at most 127 tokens.
        new_tokens: of a completion.
    """

    prompts: tuple[str, ...]
    truths: tuple[str, ...]
    new_tokens: int

    def score(self, model: PreTrainedModel, tokenizer: Any, batch_size: int) -> float:
        """Mean ROUGE-L F1 × 100 of the model's greedy completions; the processes share the prompts."""
        responses = generate(model, tokenizer, self.prompts, self.new_tokens, batch_size)
        return fmean(100 * rougeL_f1(truth, said) for truth, said in zip(self.truths, responses, strict=True))


def validation_prompts(windows: Tensor, tokenizer: Any, limit: int | None) -> ValidationPrompts:
    """Cut prompts from windows.

    Args:
        windows: [n, time], n ≥ 1.
        tokenizer: that cut them.
        limit: the model's positions; None where it has no limit.

    Raises:
        InputError: a prompt and its completion do not fit the positions.
    """
    first = len(opening_tokens(tokenizer))
    half = windows.shape[1] // 2 - first
    runs = [without_padding(window)[first:] for window in spread(windows, MOST_RECORDS)]
    records = [prompt_of(run, min(half, len(run) // 2), tokenizer) for run in runs]
    prompts = tuple(record.prompt for record in records)
    new_tokens = min(NEW_TOKENS, windows.shape[1] - windows.shape[1] // 2)
    try:
        check_lengths([len(row) for row in encode(tokenizer, prompts)], new_tokens, limit)
    except InputError as problem:
        raise InputError(
            f"no validation prompts can be cut from the windows: {problem}", remedy="Set best.max_prompts to 0"
        ) from problem
    return ValidationPrompts(prompts, tuple(record.truth for record in records), new_tokens)
