"""Completions in batches, greedy unless sampling is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING

from quail_lightning.errors import InputError
from quail_lightning.inference.batching import generation_rows
from quail_lightning.inference.encoding import decode, encode, positions
from quail_lightning.inference.modes import evaluation_mode
from quail_lightning.inference.sampling import Sampling, completed, generators
from quail_lightning.inference.shares import current_shares
from quail_lightning.inference.short_memory import Progress, explained_memory, in_batches
from quail_lightning.models.sharded import is_sharded

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from quail_lightning.inference.decoding import Decoding

SHORTER = (
    "the new ones: evaluation.suite.verbmem_new_tokens, .knowmem_new_tokens; "
    "of `quail alternates` --max_new_tokens"
)
SHORTEST_PREFIX = 8  # tokens; a shorter one costs more to keep than to compute again


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int | None = None,
    progress: Progress | None = None,
    stops: Sequence[str] = (),
    sampling: Sampling | None = None,
) -> list[str]:
    """Completions of the prompts, in the prompts' order.

    Prompts are sorted by length, padded on the left and masked, so each row sees its own positions and nothing
    else; what all prompts begin with is computed once. In float32 the text is the one that the prompt alone
    would give, unless two tokens' logits are equal to within rounding (about 1e-6 relative). In bfloat16 the
    kernels of another batch shape may round differently, near ties are common, and a completion can differ from
    the first near tie on; a run with the same prompts and batch size repeats.

    Args:
        model: a causal language model of transformers, on its device; its mode is restored afterwards, and no
            random state is used.
        tokenizer: its own; each prompt opens as ``opening_tokens`` says. It is not changed.
        prompts: texts to continue.
        max_new_tokens: tokens; generation stops earlier at EOS.
        batch_size: prompts generated together; None: as many as the free memory holds.
        progress: called after each batch with the prompts done and their total, of this process.
        stops: strings at which the caller cuts: a completion that holds one may end after it.
        sampling: draw the tokens instead of taking the likeliest.

    Returns:
        One completion a prompt: the new tokens only, up to EOS, special tokens left out.

    Raises:
        InputError: a prompt is empty, or the longest prompt and the new tokens do not fit the model's
            positions. Raised before anything is generated.
    """
    from quail_lightning.inference.decoding import continuations, prefix_cache

    encoded = encode(tokenizer, prompts)
    if not encoded:
        return []
    longest = max(len(row) for row in encoded)
    check_lengths([len(row) for row in encoded], max_new_tokens, positions(model.config))
    how = _decoding(model, tokenizer, max_new_tokens, stops, sampling)
    shares = current_shares()
    fitting = batch_size or generation_rows(model, longest + max_new_tokens)
    rows = shares.rows(batch_size, fitting, len(encoded))
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]), reverse=True)
    order = shares.own(order, rows)
    completions = [""] * len(encoded)
    with evaluation_mode(model):
        prefix = prefix_cache(model, _shared_prefix(encoded)) if how.layers and order else None

        def run(chosen: list[int]) -> None:
            drawing = None if how.sampling is None else generators(how.sampling, chosen)
            widest = max(len(encoded[index]) for index in chosen) + max_new_tokens
            with explained_memory(len(chosen), "prompts", widest, SHORTER):
                new = continuations(model, [encoded[index] for index in chosen], how, prefix, drawing)
            for index, tokens in zip(chosen, new, strict=True):
                completions[index] = decode(tokenizer, tokens)

        in_batches(order, lambda _: rows, run, batch_size is None and not is_sharded(model), progress)
    return shares.merged(order, completions)


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


def end_tokens(own: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Token numbers that end a completion: the generation config's, or else the tokenizer's EOS."""
    eos = tokenizer.eos_token_id if own is None or own.eos_token_id is None else own.eos_token_id
    return frozenset() if eos is None else frozenset([eos] if isinstance(eos, int) else eos)


def _decoding(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    stops: Sequence[str],
    sampling: Sampling | None,
) -> Decoding:
    from quail_lightning.inference.decoding import Decoding
    from quail_lightning.inference.preallocated_cache import plain_layers

    own = model.generation_config
    # without position_ids a row's padding cannot be told from its text, so such a model goes one row at a time
    layers = plain_layers(model) if "position_ids" in signature(model.forward).parameters else 0
    return Decoding(
        max_new_tokens=max_new_tokens,
        ends=end_tokens(own, tokenizer),
        layers=layers,
        stops=tuple(stops),
        text=lambda tokens: decode(tokenizer, tokens),
        sampling=None if sampling is None else completed(sampling, own),
    )


def _shared_prefix(encoded: Sequence[list[int]]) -> list[int]:
    """What all rows begin with, leaving each row a token of its own; empty where it is not worth it."""
    if len(encoded) < 2:
        return []
    first, last = min(encoded), max(encoded)
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    length = min(length, min(len(row) for row in encoded) - 1)
    return list(first[:length]) if length >= SHORTEST_PREFIX else []
