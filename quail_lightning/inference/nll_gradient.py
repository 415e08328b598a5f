"""Where the likelihood of texts would go if weights moved: the gradient of their mean NLL."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.chunked import head_terms
from quail_lightning.functional.masking import labels_of, token_numbers, without_common_padding
from quail_lightning.functional.token_likelihood import counted, log_likelihood, token_log_likelihood
from quail_lightning.inference.encoding import positions
from quail_lightning.inference.likelihood import is_head_apart, window_problem
from quail_lightning.inference.modes import evaluation_mode
from quail_lightning.inference.short_memory import Progress, explained_memory
from quail_lightning.models.activations import language_decoder, output_head
from quail_lightning.models.sharded import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NllGradient(NamedTuple):
    """The mean NLL of windows and its gradient.

    Attributes:
        nll: mean over the windows of the mean over their tokens, nats a token: the metric ``nll_forget`` of a
            forget set.
        weights: name → gradient, shaped like the weight, on the CPU in the weights' dtype; nats a token and unit
            of weight.
    """

    nll: float
    weights: dict[str, Tensor]


def nll_gradient(
    model: PreTrainedModel, windows: Tensor, names: Collection[str], progress: Progress | None = None
) -> NllGradient:
    """∂NLL/∂W at the model's own weights, window by window, with no dropout.

    Beside the model one gradient of every named weight is held, and the activations of one window. Gradients are
    added up in the weights' dtype: load the model in float32.

    Args:
        model: whole, on its device, in a floating dtype; mode, gradients and what requires them are restored.
        windows: [n, time] token numbers, BOS first, masked as in ``functional.masking``; at least one.
        names: of the parameters W.
        progress: called after each window with those done and their total.

    Raises:
        InputError: shards, names of no parameter, no window, or windows that the model has no positions for.
        ShortMemory: memory is short.
    """
    if is_sharded(model):
        raise InputError("the model lies in shards, which have no gradient outside of a training")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if unknown := [name for name in names if name not in parameters]:
        raise InputError("the model has no such parameter", given=", ".join(unknown[:3]))
    if not len(windows):
        raise InputError("a gradient of the NLL needs at least one window", given=0)
    if problem := window_problem(windows, positions(model.config)):
        raise problem
    wanted = {name: parameters[name] for name in names}
    nll = 0.0
    with evaluation_mode(model), torch.inference_mode(False), ExitStack() as restored:
        apart = is_head_apart(model)
        chosen = {id(parameter) for parameter in wanted.values()}
        for parameter in model.parameters():
            kept, parameter.grad = parameter.grad, None
            restored.callback(setattr, parameter, "grad", kept)
            restored.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(id(parameter) in chosen)
        with torch.enable_grad():
            for done, window in enumerate(windows, 1):
                row = without_common_padding(window.unsqueeze(0)).to(model.device)
                with explained_memory(1, "windows", row.shape[1], "data.max_len"):
                    value = _window_nll(model, row, apart) / len(windows)
                    value.backward()
                nll += float(value.detach())
                if progress is not None:
                    progress(done, len(windows))
        found = {
            name: torch.zeros_like(weight, device="cpu") if weight.grad is None else weight.grad.cpu()
            for name, weight in wanted.items()
        }
    return NllGradient(nll, found)


def _window_nll(model: PreTrainedModel, window: Tensor, apart: bool) -> Tensor:
    """Mean over the learned tokens of one window [1, time] after its first."""
    ids, labels = token_numbers(window), labels_of(window)[:, 1:]
    if apart:
        hidden = language_decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
        (values,) = head_terms(hidden[:, :-1], labels, output_head(model), (log_likelihood,))
    else:
        values = token_log_likelihood(model(input_ids=ids, use_cache=False).logits[:, :-1], labels)
    return -values.sum() / counted(labels).sum()
