"""Greedy completions in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.evaluation.encoding import decode, encode, positions
from quail_lightning.evaluation.modes import evaluation_mode

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]  # (done, total)


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token numbers and attention mask, both [rows, longest], with the padding on the left."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for position, row in enumerate(rows):
        ids[position, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[position, longest - len(row) :] = 1
    return ids, mask


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None = None,
) -> list[str]:
    """Greedy completions of the prompts, in the prompts' order.

    Prompts are sorted by length, padded on the left and masked, so each row sees its own positions and nothing
    else. In float32 the text is the one that the prompt alone would give, unless two tokens' logits are equal
    to within rounding (about 1e-6 relative). In bfloat16 the kernels of another batch shape may round
    differently, near ties are common, and a completion can differ from the first near tie on; a run with the
    same prompts and batch size repeats.

    Args:
        model: a causal language model of transformers, on its device; its mode is restored afterwards, and no
            random state is used.
        tokenizer: its own; BOS is put before each prompt. It is not changed: where it has no padding token,
            EOS pads.
        prompts: texts to continue.
        max_new_tokens: tokens; generation stops earlier at EOS.
        batch_size: prompts generated together.
        progress: called after each batch with the prompts done and their total.

    Returns:
        One completion a prompt: the new tokens only, up to EOS, special tokens left out.

    Raises:
        InputError: a prompt is empty, or the longest prompt and the new tokens do not fit the model's
            positions. Raised before anything is generated.
    """
    encoded = encode(tokenizer, prompts)
    if not encoded:
        return []
    check_lengths([len(row) for row in encoded], max_new_tokens, positions(model.config))
    config = _greedy(model, tokenizer, max_new_tokens)
    pad, stops = config.pad_token_id, _as_set(config.eos_token_id)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]), reverse=True)
    completions = [""] * len(encoded)
    with evaluation_mode(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = left_pad([encoded[index] for index in chosen], pad)
            output = model.generate(  # type: ignore[operator]  # a mixin's method to the type checker
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
            )
            for index, row in zip(chosen, output[:, ids.shape[1] :].tolist(), strict=True):
                completions[index] = decode(tokenizer, _until(row, stops))
            if progress is not None:
                progress(start + len(chosen), len(order))
    return completions


def check_lengths(lengths: Sequence[int], max_new_tokens: int, limit: int | None) -> None:
    """Refuse prompts that are empty or leave no room for the completion.

    Args:
        lengths: tokens of each prompt, BOS included.
        max_new_tokens: tokens.
        limit: the model's positions; None where it has no limit.

    Raises:
        InputError: with the number of prompts concerned and the longest.
    """
    if min(lengths) == 0:
        raise InputError("a prompt has no token", remedy="Leave empty prompts out")
    if limit is None:
        return
    too_long = sum(length + max_new_tokens > limit for length in lengths)
    if too_long:
        raise InputError(
            f"{too_long} of {len(lengths)} prompts do not fit the model: the longest has {max(lengths)} tokens, "
            f"with {max_new_tokens} new ones {max(lengths) + max_new_tokens}, and the model has {limit} positions",
            remedy="Take a model with more positions, or cut prompts that fit from the trained windows",
        )


def _greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    from transformers import GenerationConfig

    own = model.generation_config
    eos = tokenizer.eos_token_id if own is None or own.eos_token_id is None else own.eos_token_id
    pad = tokenizer.pad_token_id
    if pad is None:
        # any number does: padding is masked on the left, and cut off with EOS on the right
        pad = min(_as_set(eos), default=0)
    # What is left out here is filled in from the checkpoint's own generation config, which may ask for
    # sampling, beams or a repetition penalty.
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=0,
        min_length=0,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,  # transformers' default: without sampling it has no effect, and another value is warned about
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        return_dict_in_generate=False,
        pad_token_id=pad,
        eos_token_id=eos,
    )


def _as_set(token: int | Sequence[int] | None) -> frozenset[int]:
    if token is None:
        return frozenset()
    return frozenset([token]) if isinstance(token, int) else frozenset(token)


def _until(row: Sequence[int], stops: frozenset[int]) -> list[int]:
    kept: list[int] = []
    for token in row:
        if token in stops:
            break
        kept.append(token)
    return kept
