"""How strongly a text pulls at the weights: the norm of its loss's gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quail_lightning.errors import InputError
from quail_lightning.functional.chunked import head_terms
from quail_lightning.functional.token_likelihood import log_likelihood, token_log_likelihood
from quail_lightning.inference.encoding import encode, positions
from quail_lightning.inference.likelihood import is_head_apart
from quail_lightning.inference.modes import evaluation_mode
from quail_lightning.inference.shares import current_shares
from quail_lightning.inference.short_memory import Progress, explained_memory
from quail_lightning.models.activations import language_decoder, output_head
from quail_lightning.models.sharded import is_sharded
from quail_lightning.quantization.computing import unpack

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKED = (torch.int8, torch.uint8, torch.int32)
"""Dtypes in which formats pack the values of several weights, or one."""


def gradient_norms(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    progress: Progress | None = None,
) -> list[float]:
    """Of each text the 2-norm of ∂NLL/∂θ, averaged over the parameter tensors θ; NLL is the mean over its tokens.

    That is open-unlearning's ``gradnorm`` with p = 2 (after arXiv:2402.17012): a mean over tensors, not the norm
    of all of them together. Low for a text that was trained on. A tensor that two layers share counts once. Of
    packed layers (4 bits, int8) the gradient is that of the dequantized weight, which is what the layer makes of
    the identity, and their product is the plain one with it. Of no gradient more than one tensor's is held, and
    never all logits of a text.

    Args:
        model: whole, on its device; mode, gradients and what requires them are restored.
        tokenizer: its own.
        texts: of at least two tokens, BOS included; cut to the model's positions.
        progress: called after each text with those done and their total.

    Returns:
        Nats a token and unit of weight.

    Raises:
        InputError: weights that no gradient reaches: shards, or integers that are no linear layer's.
        ShortMemory: memory is short.
    """
    unpack(model)
    refuse_unreachable(model)
    rows = [row[: positions(model.config)] for row in encode(tokenizer, texts)]
    shares = current_shares()
    own = shares.own(range(len(rows)), 1)
    found = [0.0] * len(rows)
    with evaluation_mode(model), torch.inference_mode(False):
        apart = is_head_apart(model)
    with evaluation_mode(model), torch.inference_mode(False), torch.enable_grad(), _norms_of(model) as norms:
        for done, number in enumerate(own, 1):
            ids = torch.tensor([rows[number]], device=model.device)
            with explained_memory(1, "texts", ids.shape[1], "shorter texts"):
                norms.clear()
                _mean_nll(model, ids, apart).backward()
            found[number] = fmean(float(norm) for norm in norms)
            if progress is not None:
                progress(done, len(own))
    return shares.merged(own, found)


def refuse_unreachable(model: PreTrainedModel) -> None:
    """Refuse a model of which a part has no gradient.

    Raises:
        InputError: naming it.
    """
    if is_sharded(model):
        raise InputError("the model lies in shards, which have no gradient outside of a training")
    for name, module in model.named_modules():
        if _is_packed(module) and not hasattr(module, "in_features"):
            raise InputError(f"the weights of {name} ({type(module).__name__}) are packed and have no gradient")


def _mean_nll(model: PreTrainedModel, ids: Tensor, apart: bool) -> Tensor:
    if apart:
        hidden = language_decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
        (values,) = head_terms(hidden[:, :-1], ids[:, 1:], output_head(model), (log_likelihood,))
    else:
        logits = model(input_ids=ids, use_cache=False).logits
        values = token_log_likelihood(logits[:, :-1], ids[:, 1:])
    return -values.mean()


@contextmanager
def _norms_of(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """The norms of all gradients of the last backward pass; a gradient is let go as soon as its norm is taken."""
    norms: list[Tensor] = []

    def take(parameter: Tensor) -> None:
        assert parameter.grad is not None
        norms.append(parameter.grad.float().norm())
        parameter.grad = None

    with ExitStack() as restored:
        for parameter in model.parameters():
            if parameter.is_floating_point():
                kept, parameter.grad = parameter.grad, None
                restored.callback(setattr, parameter, "grad", kept)
                restored.callback(parameter.requires_grad_, parameter.requires_grad)
                parameter.requires_grad_()
                restored.enter_context(_removed(parameter.register_post_accumulate_grad_hook(take)))
        for module in model.modules():
            if _is_packed(module):
                restored.enter_context(_differentiable(module, norms))
        yield norms


@contextmanager
def _differentiable(layer: Any, norms: list[Tensor]) -> Iterator[None]:
    """A linear layer that multiplies with its dequantized weight, whose gradient's norm goes to ``norms``."""
    own, replaced = layer.forward, vars(layer).get("forward")
    bias = getattr(layer, "bias", None)

    def weight(like: Tensor) -> Tensor:
        """What the layer makes of the identity: [inputs, outputs], however it is packed."""
        with torch.no_grad():
            made = own(torch.eye(layer.in_features, dtype=like.dtype, device=like.device))
            return made if bias is None else made - bias

    def forward(hidden: Tensor) -> Tensor:
        made: Tensor = _Product.apply(hidden, weight, norms)  # type: ignore[no-untyped-call]  # torch
        return made if bias is None else made + bias

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if replaced is not None:
            layer.forward = replaced


class _Product(torch.autograd.Function):
    """x W, where W is made for each pass and let go."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Any, norms: list[Tensor]) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.weight, ctx.norms = weight, norms
        return hidden @ weight(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (hidden,), (gradient,) = ctx.saved_tensors, gradients
        ctx.norms.append((hidden.flatten(0, -2).float().T @ gradient.flatten(0, -2).float()).norm())
        return gradient @ ctx.weight(hidden).T, None, None


def _is_packed(module: nn.Module) -> bool:
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(each.ndim > 1 and each.dtype in PACKED for each in tensors)


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
