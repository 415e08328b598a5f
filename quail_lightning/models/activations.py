"""What the losses read of a causal language model: hidden states and the output head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from quail_lightning.errors import InputError
from quail_lightning.functional.head import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Activations(NamedTuple):
    """One forward pass.

    Attributes:
        final: [batch, time, width] after the final norm; the head's input.
        layers: decoder layer (from 0) → [batch, time, width] its output, for the layers asked for.
    """

    final: Tensor
    layers: dict[int, Tensor]


def activations(
    model: PreTrainedModel,
    input_ids: Tensor,
    layers: Sequence[int] = (),
    perturbations: Mapping[int, Tensor] | None = None,
) -> Activations:
    """Run the body, without the head.

    Args:
        model: a decoder-only language model.
        input_ids: [batch, time], without padding.
        layers: decoder layers whose outputs are wanted.
        perturbations: decoder layer → [batch, time, width] added to its output.
    """
    caught: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for layer in {*layers, *(perturbations or {})}:
            shift = (perturbations or {}).get(layer)
            hooks.enter_context(_hook(decoder_layers(model)[layer], layer, shift, caught))
        final = language_decoder(model)(input_ids=input_ids, use_cache=False).last_hidden_state
    return Activations(final, {layer: caught[layer] for layer in layers})


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers.

    Raises:
        InputError: this architecture keeps them where we do not look.
    """
    decoder = language_decoder(model)
    for name in ("layers", "h", "blocks"):
        layers = getattr(decoder, name, None)
        if isinstance(layers, nn.ModuleList):
            return layers
    raise InputError(f"{type(model).__name__} keeps its decoder layers in no list that this program knows")


def output_head(model: PreTrainedModel) -> Head:
    """The head's own parameters (not copies), and what the model does to its logits afterwards."""
    head: Any = model.get_output_embeddings()
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    return Head(head.weight, getattr(head, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


def check_head(
    model: PreTrainedModel, within: Callable[[Callable[[], Tensor]], Tensor] = lambda function: function()
) -> None:
    """See that body and head, taken apart, give the model's own logits.

    Args:
        model: its mode is restored afterwards.
        within: runs a pass of the model where its weights can be read; needed for a sharded one.

    Raises:
        InputError: the model does something to its logits that this program does not know.
    """
    ids = torch.tensor([[1, 2, 3, 4]], device=model.device) % model.config.get_text_config().vocab_size
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = within(lambda: model(input_ids=ids, use_cache=False).logits.float())
            found = within(lambda: output_head(model).logits(activations(model, ids).final))
    finally:
        model.train(was_training)
    tolerance = 2e-2 if model.dtype == torch.bfloat16 else 1e-3
    if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item()):
        raise InputError(
            f"the logits of {type(model).__name__} are not its head's product with the final hidden states",
            allowed="a linear head, scaled (logit_scale, logits_scaling) or soft-capped (final_logit_softcapping)",
        )


def language_decoder(model: PreTrainedModel) -> nn.Module:
    """The language model without its head; of a multimodal model no tower.

    Raises:
        InputError: this architecture keeps it where we do not look.
    """
    found: Any = model.get_decoder()
    if found is model:  # the library did not find it (Llama 4)
        found = getattr(model, "model", None)
    if not isinstance(found, nn.Module):
        raise InputError(f"{type(model).__name__} keeps its decoder where this program does not look")
    return found


@contextmanager
def _hook(module: nn.Module, layer: int, shift: Tensor | None, caught: dict[int, Tensor]) -> Iterator[None]:
    def catch(_: nn.Module, __: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        if shift is not None:
            states = states + shift
        caught[layer] = states
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = module.register_forward_hook(catch)
    try:
        yield
    finally:
        handle.remove()
