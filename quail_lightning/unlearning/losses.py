"""The terms of the loss on one batch of one set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from quail_lightning.data.batch import TokenBatch, single_rows
from quail_lightning.functional.chunked import head_terms
from quail_lightning.functional.token_likelihood import IGNORED, counted, log_likelihood
from quail_lightning.models.activations import Activations, decoder_layers, output_head
from quail_lightning.models.sharded import inside
from quail_lightning.objectives.term import Frozen, Layer, Term, TermInputs, layer_number
from quail_lightning.reference import FrozenOutputs, Request

if TYPE_CHECKING:
    from transformers import PreTrainedModel


SHOWN = {"forget_nll": "forget NLL", "at_goal": "at goal", "hinge": "hinge", "retain_nll": "retain NLL"}
"""What of a step's losses the progress bar shows; a signed forget loss tells a reader nothing."""


class Floor(NamedTuple):
    """Windows whose loss has reached its goal contribute no more.

    Attributes:
        terms: names of those that leave such windows out.
        is_open: numbers [n] and NLLs [n] of a pass's windows → [n] whether they still contribute.
    """

    terms: frozenset[str]
    is_open: Callable[[Tensor, Tensor], Tensor]


class Forward(Protocol):
    """The body's forward pass in the training step's arithmetic."""

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        layers: tuple[int, ...] = (),
        perturbations: Mapping[int, Tensor] | None = None,
    ) -> Activations: ...


def term_losses(
    model: PreTrainedModel,
    terms: Mapping[str, Term],
    batch: TokenBatch,
    frozen: FrozenOutputs,
    forward: Forward,
    dtype: torch.dtype,
    perturbations: Mapping[int, Tensor] | None = None,
    chunk: int | None = None,
    floor: Floor | None = None,
) -> dict[str, Tensor]:
    """Every term's value on a batch: one pass through the body, one through the head.

    Pairs with an alternate answer go through together; a term is shown the true answers, and the alternates beside
    them (``TermInputs.alternate``).

    With a floor, a term that leaves windows out is its value on the others times their share of what it is a mean
    over: the same however a step is divided.

    Args:
        model: the model being unlearned; of a sharded one all processes must call.
        terms: by name; all act on this batch.
        batch: windows of one set.
        frozen: what the terms asked for about the target, of ``batch.rows()``.
        forward: the body's forward pass.
        dtype: of the head's product.
        perturbations: decoder layer → what is added to its output (an adversary's).
        chunk: tokens whose logits are held at once; None: by ``chunk_tokens``.
        floor: which windows contribute; None: all.
    """
    given = (model, terms, batch, frozen, forward, dtype, perturbations, chunk, floor)
    return inside(model, lambda: _term_losses(*given))


def _term_losses(
    model: PreTrainedModel,
    terms: Mapping[str, Term],
    batch: TokenBatch,
    frozen: FrozenOutputs,
    forward: Forward,
    dtype: torch.dtype,
    perturbations: Mapping[int, Tensor] | None,
    chunk: int | None,
    floor: Floor | None,
) -> dict[str, Tensor]:
    count = len(decoder_layers(model))
    read = {name: named_layers(term, count) for name, term in terms.items()}
    wanted = tuple(sorted({number for layers in read.values() for number in layers.values()}))
    rows = batch.rows()
    states = forward(model, rows.input_ids, wanted, perturbations)
    labels = rows.labels[:, 1:]
    true = slice(None, None, len(rows.window) // len(batch.window))  # the true answers among the rows
    asked = {name: term.needs.tokens for name, term in terms.items()}
    of_floor = () if floor is None else (log_likelihood,)
    functions = list(dict.fromkeys([*of_floor, *(function for own in asked.values() for function in own)]))
    values: tuple[Tensor, ...] = ()
    if functions:
        final, head = states.final[:, :-1], output_head(model)
        values = head_terms(final, labels, head, functions, frozen.rows, dtype=dtype, tokens=chunk)
    found = dict(zip(functions, values, strict=True))
    contributes = torch.ones(len(batch.window), dtype=torch.bool, device=labels.device)
    if floor is not None:
        real = (labels[true] != IGNORED).sum(dim=-1)
        contributes = floor.is_open(batch.window, -found[log_likelihood][true].sum(dim=-1) / real.clamp(min=1))
    losses = {}
    for name, term in terms.items():
        inputs = TermInputs(
            labels,
            tuple(found[function] for function in asked[name]),
            {layer: states.layers[number] for layer, number in read[name].items()},
            frozen.likelihood,
            {layer: frozen.layers[number] for layer, number in read[name].items() if number in frozen.layers},
        )
        if len(rows.window) > len(batch.window):
            inputs = inputs.paired()
        left_out = floor is not None and name in floor.terms and not contributes.all()
        losses[name] = _partly(term, inputs, contributes) if left_out else term.loss(inputs)
    return losses


def _partly(term: Term, inputs: TermInputs, contributes: Tensor) -> Tensor:
    if not contributes.any():
        # in the graph still: shards are gathered for the backward pass by all processes
        return 0.0 * torch.stack([values.sum() for values in (*inputs.tokens, *inputs.layers.values())]).sum()
    weights = counted(inputs.labels, term.needs.mean_over)
    return term.loss(inputs.windows(contributes)) * (weights[contributes].sum() / weights.sum())


def named_layers(term: Term, count: int) -> dict[Layer, int]:
    """Layer as the term names it → its number, of ``count`` decoder layers.

    Raises:
        InputError: there is no such layer.
    """
    layers = range(count) if term.needs.layers is None else term.needs.layers
    return {layer: layer_number(layer, count) for layer in layers}


def request(terms: Iterable[Term], windows: Tensor, count: int) -> Request | None:
    """What terms on one set read of the frozen target; None if nothing.

    Args:
        terms: that act on the set.
        windows: [n, time] of the set, or [n, 2, time] true and alternate answers.
        count: decoder layers of the model.

    Raises:
        InputError: a term names a layer that does not exist.
    """
    frozen, layers = set[Frozen](), set[int]()
    for term in terms:
        numbers = named_layers(term, count).values()
        frozen |= term.needs.frozen
        if "layers" in term.needs.frozen:
            layers.update(numbers)
    return Request(single_rows(windows), frozenset(frozen), tuple(sorted(layers))) if frozen else None
