"""A key–value cache that is written in place, starts from a shared prefix and drops finished rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _PreallocatedLayer(DynamicLayer):
    """transformers' own layer copies all keys and values at each token; this one writes into room kept for them.

    ``keys`` and ``values``: [rows, heads, tokens so far, head width], views of buffers with ``capacity`` tokens.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers
        self.capacity, self.tokens = capacity, 0
        self.buffers: list[Tensor] = []  # keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.buffers:
            self.reserve(key_states, value_states, len(key_states))
        end = self.tokens + key_states.shape[-2]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.tokens : end] = new
        return self.show(end)

    def reserve(self, keys: Tensor, values: Tensor, rows: int) -> None:
        """Buffers for ``rows`` rows of the shape of ``keys`` and ``values``."""
        self.lazy_initialization(keys, values)
        self.buffers = [
            # zeros: what masked padding holds is multiplied by 0, and must be finite
            torch.zeros(rows, like.shape[1], self.capacity, like.shape[3], dtype=like.dtype, device=like.device)
            for like in (keys, values)
        ]

    def show(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Make the first ``tokens`` tokens visible."""
        self.tokens = tokens
        keys, values = (buffer[:, :, :tokens] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self.buffers = [buffer[rows] for buffer in self.buffers]
        self.show(self.tokens)


def _joined(alone: Sequence[_PreallocatedLayer], capacity: int) -> _PreallocatedLayer:
    """One layer of several with one row each, padded on the left to the longest."""
    longest = max(single.tokens for single in alone)
    layer = _PreallocatedLayer(capacity)
    keys, values = alone[0].buffers
    layer.reserve(keys, values, len(alone))
    for row, single in enumerate(alone):
        for buffer, own in zip(layer.buffers, single.buffers, strict=True):
            buffer[row, :, longest - single.tokens : longest] = own[0, :, : single.tokens]
    layer.show(longest)
    return layer


class PreallocatedCache(Cache):
    """What ``past_key_values`` takes, for models whose layers all attend to everything before.

    Args:
        layers: decoder layers.
        capacity: tokens that there must be room for.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        self.own_layers = [_PreallocatedLayer(capacity) for _ in range(layers)]
        super().__init__(layers=[*self.own_layers])

    @classmethod
    def of(cls, layers: Sequence[_PreallocatedLayer]) -> PreallocatedCache:
        """A cache of these layers."""
        cache = cls(0, 0)
        cache.own_layers = list(layers)
        cache.layers = [*layers]
        return cache

    @classmethod
    def joined(cls, alone: Sequence[PreallocatedCache], capacity: int) -> PreallocatedCache:
        """One cache of several with one row each, padded on the left to the longest."""
        return cls.of([_joined(own, capacity) for own in zip(*(cache.own_layers for cache in alone), strict=True)])

    def expanded(self, rows: int, capacity: int) -> PreallocatedCache:
        """A cache of ``rows`` rows that all start with this one's only row (the shared prefix)."""
        return self.joined([self] * rows, capacity)

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only, in this order."""
        for layer in self.own_layers:
            layer.keep(rows)


def plain_layers(model: PreTrainedModel) -> int:
    """How many layers a ``PreallocatedCache`` of the model has; 0 where some layer needs another kind of cache."""
    layers = DynamicCache(config=model.config).layers
    return len(layers) if all(type(layer) is DynamicLayer for layer in layers) else 0
