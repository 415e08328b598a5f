"""What a term of the loss asks for, and what it is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.chunked import TokenFunction
from quail_lightning.functional.token_likelihood import Unit

Frozen = Literal["logits", "likelihood", "layers"]
"""What can be asked of the frozen target: logits of every token, log f(y|x) of every window, layers' outputs."""

Layer = int | float
"""A decoder layer: its number from 0, or a share of the depth in (0, 1), so that one config suits every model."""


def layer_number(layer: Layer, count: int) -> int:
    """The decoder layer meant: 7 is the eighth; 0.25 the last of the first quarter (7 of 32, 0 of 2).

    Raises:
        InputError: there is no such layer.
    """
    if isinstance(layer, float) and 0 < layer < 1:
        return math.ceil(layer * count) - 1
    if layer != int(layer) or not 0 <= layer < count:
        raise InputError(
            "no such decoder layer", given=layer, allowed=f"0 … {count - 1}, or a share of the depth in (0, 1)"
        )
    return int(layer)


class Needs(NamedTuple):
    """What a term reads.

    Attributes:
        tokens: functions of each token's logits; they are computed in chunks, the logits never held.
        layers: decoder layers whose outputs it reads, see ``layer_number``; None for all.
        frozen: what it reads of the frozen target, on the same windows.
        mean_over: what its loss is a mean over, which is what a part of a step's windows weighs.
        alternate: whether it reads an alternate answer to each question (``data.alternates``).
    """

    tokens: tuple[TokenFunction, ...] = ()
    layers: tuple[Layer, ...] | None = ()
    frozen: frozenset[Frozen] = frozenset()
    mean_over: Unit = "tokens"
    alternate: bool = False


class TermInputs(NamedTuple):
    """What a term is shown of one batch.

    Attributes:
        labels: [batch, time − 1] the true next tokens, ``IGNORED`` (−100) where there is none.
        tokens: for each function asked for, its values [batch, time − 1].
        layers: layer, as the term named it (numbers where it named none) → [batch, time, width] its output.
        frozen_likelihood: [batch] log f_target(y|x), nats a window: the sum over its real tokens.
        frozen_layers: layer → [batch, time, width] the target's output.
        alternate: the same of the alternate answers to the same questions, where there are any.
    """

    labels: Tensor
    tokens: tuple[Tensor, ...] = ()
    layers: Mapping[Layer, Tensor] = {}
    frozen_likelihood: Tensor | None = None
    frozen_layers: Mapping[Layer, Tensor] = {}
    alternate: TermInputs | None = None

    def paired(self) -> TermInputs:
        """Of windows that are true and alternate answers in turn: the true ones, the others beside them."""
        return self.windows(slice(0, None, 2))._replace(alternate=self.windows(slice(1, None, 2)))

    def windows(self, chosen: Tensor | slice) -> TermInputs:
        """Those of some windows of the batch alone; ``chosen`` is [batch], boolean, or a slice."""
        likelihood = self.frozen_likelihood
        return TermInputs(
            self.labels[chosen],
            tuple(values[chosen] for values in self.tokens),
            {layer: states[chosen] for layer, states in self.layers.items()},
            None if likelihood is None else likelihood[chosen],
            {layer: states[chosen] for layer, states in self.frozen_layers.items()},
            None if self.alternate is None else self.alternate.windows(chosen),
        )


T = TypeVar("T")


def of_target(value: T | None, who: str) -> T:
    """What a term was shown of the frozen target.

    Raises:
        InputError: it was shown nothing, since no reference is at hand.
    """
    if value is None:
        raise InputError(
            f"{who} compares with the frozen target, and no reference gives its outputs",
            remedy="Set model.reference, or leave it out for the default",
        )
    return value


@runtime_checkable
class Term(Protocol):
    """One term of the loss.

    A class attribute ``short``, such as ``ga``, names it in the names of runs; without it its class's name does.
    """

    @property
    def needs(self) -> Needs:
        """What ``loss`` will be shown."""
        ...

    def loss(self, inputs: TermInputs) -> Tensor:
        """A scalar to be minimized."""
        ...
