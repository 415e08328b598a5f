"""A key–value cache that is written in place, starts from a shared prefix and drops finished rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _GrowingLayer(DynamicLayer):
    """transformers' own layer copies all keys and values at each token; this one writes into room kept for them.

    ``keys`` and ``values``: [rows, heads, tokens so far, head width], views of buffers with ``capacity`` tokens.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.reserve(key_states, value_states, len(key_states))
        start = self.get_seq_length() if self.keys.numel() else 0
        end = start + key_states.shape[-2]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.show(end)
        return self.keys, self.values

    def reserve(self, keys: Tensor, values: Tensor, rows: int) -> None:
        """Buffers for ``rows`` rows of the shape of ``keys`` and ``values``."""
        self.buffers = [
            # zeros: what masked padding holds is multiplied by 0, and must be finite
            torch.zeros(rows, like.shape[1], self.capacity, like.shape[3], dtype=like.dtype, device=like.device)
            for like in (keys, values)
        ]

    def show(self, tokens: int) -> None:
        """Make the first ``tokens`` tokens visible."""
        self.keys, self.values = (buffer[:, :, :tokens] for buffer in self.buffers)

    def expanded(self, rows: int, capacity: int) -> _GrowingLayer:
        """A layer of ``rows`` rows that all start with this one's only row."""
        layer = _GrowingLayer(capacity)
        layer.lazy_initialization(self.keys, self.values)
        layer.reserve(self.keys, self.values, rows)
        tokens = self.keys.shape[-2]
        for buffer, prefix in zip(layer.buffers, (self.keys, self.values), strict=True):
            buffer[:, :, :tokens] = prefix
        layer.show(tokens)
        return layer

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only."""
        tokens = self.keys.shape[-2]
        self.buffers = [buffer[rows] for buffer in self.buffers]
        self.show(tokens)


class GrowingCache(Cache):
    """What ``past_key_values`` takes, for models whose layers all attend to everything before.

    Args:
        layers: decoder layers.
        capacity: tokens that there must be room for.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[_GrowingLayer(capacity) for _ in range(layers)])

    def expanded(self, rows: int, capacity: int) -> GrowingCache:
        """A cache of ``rows`` rows that all start with this one's only row (the shared prefix)."""
        cache = GrowingCache(0, capacity)
        cache.layers = [layer.expanded(rows, capacity) for layer in self.layers]
        return cache

    @classmethod
    def joined(cls, alone: Sequence[GrowingCache], capacity: int) -> GrowingCache:
        """One cache of several with one row each, padded on the left to the longest."""
        longest = max(cache.get_seq_length() for cache in alone)
        joined = cls(0, capacity)
        for own in zip(*(cache.layers for cache in alone), strict=True):
            layer = _GrowingLayer(capacity)
            layer.lazy_initialization(own[0].keys, own[0].values)
            layer.reserve(own[0].keys, own[0].values, len(own))
            for row, single in enumerate(own):
                first = longest - single.keys.shape[-2]
                layer.buffers[0][row, :, first:longest] = single.keys[0]
                layer.buffers[1][row, :, first:longest] = single.values[0]
            layer.show(longest)
            joined.layers.append(layer)
        return joined

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only, in this order."""
        for layer in self.layers:
            layer.keep(rows)


def plain_layers(model: PreTrainedModel) -> int:
    """How many layers a ``GrowingCache`` of the model has; 0 where some layer needs another kind of cache."""
    layers = DynamicCache(config=model.config).layers
    return len(layers) if all(type(layer) is DynamicLayer for layer in layers) else 0
