"""Where compared weights come from: files, or a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class WeightSource(Protocol):
    """Weights by name, read piece by piece, by several threads at once.

    Attributes:
        name: what error messages call it.
    """

    name: str

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Sizes of every tensor."""

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor: a floating one."""

    def read(self, name: str, start: int, stop: int, buffer: bytearray | None = None) -> Tensor:
        """Values ``start`` … ``stop`` in memory order, on the CPU; maybe in ``buffer``."""


class Tensors:
    """Tensors in memory, such as a gradient.

    Args:
        tensors: by name, of a floating dtype.
        name: what error messages call them.
    """

    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        self.name = name
        self._flat = {key: tensor.detach().reshape(-1) for key, tensor in tensors.items()}
        self.shapes: Mapping[str, tuple[int, ...]] = {key: tuple(each.shape) for key, each in tensors.items()}

    def dtype(self, name: str) -> torch.dtype:
        """See ``WeightSource.dtype``."""
        return self._flat[name].dtype

    def read(self, name: str, start: int, stop: int, buffer: bytearray | None = None) -> Tensor:
        """See ``WeightSource.read``."""
        return self._flat[name][start:stop].cpu()


class ModelWeights:
    """The parameters of a model in memory, which are read and not copied if they lie on the CPU.

    Args:
        model: any; its parameters are not changed.
        name: what error messages call it.
    """

    def __init__(self, model: PreTrainedModel, name: str = "the model in memory") -> None:
        held = Tensors(dict(model.named_parameters(remove_duplicate=False)), name)
        self.name, self.shapes = held.name, held.shapes
        self.dtype, self.read = held.dtype, held.read


class CastWeights:
    """Other weights, cast to one dtype: what loading them in it would give.

    Args:
        source: the weights.
        dtype: to cast to.
    """

    def __init__(self, source: WeightSource, dtype: torch.dtype) -> None:
        self.name, self.shapes = source.name, source.shapes
        self._source, self._dtype = source, dtype

    def dtype(self, name: str) -> torch.dtype:
        """See ``WeightSource.dtype``."""
        return self._dtype

    def read(self, name: str, start: int, stop: int, buffer: bytearray | None = None) -> Tensor:
        """See ``WeightSource.read``."""
        return self._source.read(name, start, stop).to(self._dtype)
