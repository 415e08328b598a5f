"""The loop over new tokens, for one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quail_lightning.inference.preallocated_cache import PreallocatedCache
from quail_lightning.inference.sampling import Sampling, draw
from quail_lightning.models.sharded import inside

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOOK_EVERY = 4  # tokens between two looks for a stop string, which means decoding the text
WORTH_KEEPING = 0.75  # share of unfinished rows below which the finished ones are dropped, which copies the cache


@dataclass(frozen=True)
class Decoding:
    """How completions are made.

    Attributes:
        max_new_tokens: tokens.
        ends: token numbers that end a completion; they are no part of it.
        layers: of the key–value cache; 0 where the model's cache is none of ours, and rows then go one by one.
        stops: strings after which a completion may end.
        text: token numbers → text, for the stops.
        sampling: completed; None: greedy.
    """

    max_new_tokens: int
    ends: frozenset[int]
    layers: int
    stops: tuple[str, ...]
    text: Callable[[Sequence[int]], str]
    sampling: Sampling | None


@dataclass(frozen=True)
class Prefix:
    """The tokens that all prompts begin with, and what the model made of them."""

    tokens: list[int]
    cache: PreallocatedCache


def prefix_cache(model: PreTrainedModel, tokens: list[int]) -> Prefix | None:
    """Run the shared prefix once; None where there is none."""
    if not tokens:
        return None
    from quail_lightning.inference.preallocated_cache import plain_layers

    cache = PreallocatedCache(plain_layers(model), len(tokens))
    ids = torch.tensor([tokens], device=model.device)
    _last_logits(model, input_ids=ids, past_key_values=cache)
    return Prefix(tokens, cache)


def continuations(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    how: Decoding,
    prefix: Prefix | None,
    drawing: Sequence[torch.Generator] | None,
) -> list[list[int]]:
    """New tokens of each row, without the end token.

    Args:
        model: in eval mode.
        rows: token numbers of each prompt, the prefix included.
        how: the same for all.
        prefix: what all rows begin with.
        drawing: a generator a row, where tokens are drawn.
    """
    if not how.layers:
        return [
            _one_row(model, list(row), how, None if drawing is None else [drawing[number]])
            for number, row in enumerate(rows)
        ]
    shared = 0 if prefix is None else len(prefix.tokens)
    ids, mask = left_pad([row[shared:] for row in rows], 0)
    capacity = shared + ids.shape[1] + how.max_new_tokens
    # one mask for all steps, seen a token further in each
    seen = torch.ones(len(rows), capacity, dtype=torch.long)
    seen[:, shared : shared + ids.shape[1]] = mask
    places = (seen.cumsum(1) - 1).clamp(min=0).to(model.device)
    seen, ids = seen.to(model.device), ids.to(model.device)

    end = shared + ids.shape[1]
    if prefix is None and len(rows) > 1 and model.device.type == "cpu":
        logits, cache = _read_alone(model, rows, how.layers, capacity)
        ids = ids[:, :0]
    else:
        if prefix is None:
            cache = PreallocatedCache(how.layers, capacity)
        else:
            cache = prefix.cache.expanded(len(rows), capacity)
        logits = torch.empty(0)

    def step(start: int, end: int) -> Tensor:
        mask, positions = seen[:, :end], places[:, start:end]
        return _last_logits(
            model, input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache
        )

    new: list[list[int]] = [[] for _ in rows]
    live = list(range(len(rows)))  # rows in the batch; the finished ones among them only fill it
    finished: set[int] = set()
    if ids.shape[1]:
        logits = step(shared, end)
    for made in range(1, how.max_new_tokens + 1):
        tokens = _choose(logits, how, None if drawing is None else [drawing[row] for row in live])
        for row, token in zip(live, tokens, strict=True):
            if row not in finished and token not in how.ends:
                new[row].append(token)
            if token in how.ends or (made % LOOK_EVERY == 0 and _stopped(new[row], how)):
                finished.add(row)
        going = [position for position, row in enumerate(live) if row not in finished]
        if not going or made == how.max_new_tokens:
            break
        if len(going) < WORTH_KEEPING * len(live):
            kept = torch.tensor(going, device=model.device)
            cache.keep(kept)
            seen, places = seen[kept], places[kept]
            live, tokens = [live[position] for position in going], [tokens[position] for position in going]
        ids = torch.tensor(tokens, device=model.device)[:, None]
        end += 1
        logits = step(end - 1, end)
    return new


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token numbers and attention mask, both [rows, longest], with the padding on the left."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for position, row in enumerate(rows):
        ids[position, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[position, longest - len(row) :] = 1
    return ids, mask


def _read_alone(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], layers: int, capacity: int
) -> tuple[Tensor, PreallocatedCache]:
    """Logits after each row, and their joint cache; the rows are read one by one.

    A processor is as busy with one long prompt as with many, and alone a prompt needs no padding and no mask.
    """
    caches, logits = [], []
    for row in rows:
        cache = PreallocatedCache(layers, len(row))
        given = torch.tensor([list(row)], device=model.device)
        logits.append(_last_logits(model, input_ids=given, past_key_values=cache))
        caches.append(cache)
    return torch.cat(logits), PreallocatedCache.joined(caches, capacity)


def _one_row(
    model: PreTrainedModel, ids: list[int], how: Decoding, drawing: Sequence[torch.Generator] | None
) -> list[int]:
    """One unpadded prompt through whatever cache the model brings itself."""
    new: list[int] = []
    given = torch.tensor([ids], device=model.device)
    past: Any = None
    while len(new) < how.max_new_tokens:
        output = _pass(model, input_ids=given, past_key_values=past)
        past = output.past_key_values
        (token,) = _choose(output.logits[:, -1], how, drawing)
        if token in how.ends:
            break
        new.append(token)
        if len(new) % LOOK_EVERY == 0 and _stopped(new, how):
            break
        given = torch.tensor([[token]], device=model.device)
    return new


def _choose(logits: Tensor, how: Decoding, drawing: Sequence[torch.Generator] | None) -> list[int]:
    if how.sampling is None or drawing is None:
        return logits.argmax(-1).tolist()
    return draw(logits, how.sampling, list(drawing))


def _stopped(tokens: Sequence[int], how: Decoding) -> bool:
    if not how.stops:
        return False
    text = how.text(tokens)
    return any(stop in text for stop in how.stops)


def _last_logits(model: PreTrainedModel, **given: Any) -> Tensor:
    """[rows, vocabulary] after the last token."""
    logits: Tensor = _pass(model, **given).logits
    return logits[:, -1]


def _pass(model: PreTrainedModel, **given: Any) -> Any:
    """One forward pass, which spares the head all tokens but the last, where the model can."""
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    return inside(model, lambda: model(**given, use_cache=True, **last_only))
