"""How the forget text's likelihood changes from a target to the model unlearned from it, and by which weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from quail_lightning.comparison import Tensors
from quail_lightning.errors import InputError
from quail_lightning.inference.encoding import positions
from quail_lightning.inference.likelihood import window_nlls, window_problem
from quail_lightning.inference.nll_gradient import nll_gradient
from quail_lightning.models.checkpoint import load_config, load_model
from quail_lightning.models.memory import check_main_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quail_lightning.evaluation.benchmarks import Benchmark

Show = Callable[[str, int, int], None]
"""What is done, how much of it, and of how much."""


class ForgetSlope(NamedTuple):
    """The forget text under two models.

    Attributes:
        windows: whose NLL is taken.
        nll_reference, nll_model: mean over the windows of the target and of the unlearned model, nats a token.
        gradient: of the second by the quantized weights, at the unlearned model.
    """

    windows: int
    nll_reference: float
    nll_model: float
    gradient: Tensors

    @property
    def rise(self) -> float:
        """N(w′) − N(w), nats a token."""
        return self.nll_model - self.nll_reference

    def as_json(self) -> dict[str, Any]:
        """What ``analysis.json`` says of it."""
        return {"windows": self.windows, "nll_reference": self.nll_reference, "nll_model": self.nll_model}


def forget_windows(benchmark: str | Benchmark, model: str, given: Mapping[str, Any]) -> Tensor:
    """The forget windows of a benchmark that ``quail evaluate`` takes the NLL of, [n, time].

    Args:
        benchmark: stem of ``configs/benchmark/*.yaml``, or what it describes.
        model: whose tokenizer cuts them.
        given: options of the benchmark's data.

    Raises:
        InputError: no such benchmark, its text is not at hand, or the model has no positions for its windows.
    """
    from quail_lightning.evaluation.benchmarks import load_benchmark  # here: it imports lightning

    asked = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    windows = asked.read(model, given).windows.get("forget")
    if windows is None:
        raise InputError(
            f"the forget text of {asked.name!r} is not at hand, and its NLL has no gradient without it",
            remedy="Name the text by --data, or leave --benchmark out",
        )
    if problem := window_problem(windows, positions(load_config(model))):
        raise problem
    return windows


def forget_slope(
    reference: str,
    model: str,
    windows: Tensor,
    quantized: Mapping[str, tuple[int, ...]],
    device: torch.device,
    show: Show,
) -> ForgetSlope:
    """Take the NLLs of both models and the gradient at the unlearned one, in float32, one model after the other.

    Args:
        reference: the target.
        model: unlearned from it.
        windows: [n, time] of the forget set.
        quantized: the weights by which the gradient is taken, with their sizes.
        device: where the models run.
        show: told of the progress.

    Raises:
        InputError: a model that cannot be loaded, or whose gradient does not fit the memory.
    """
    check_main_memory(4 * sum(map(math.prod, quantized.values())), "a gradient of every quantized weight")
    target = _on(device, reference)
    before = window_nlls(target, windows, 1, lambda done, total: show("NLL of the target", done, total))
    del target
    unlearned = _on(device, model)
    found = nll_gradient(unlearned, windows, quantized, lambda done, total: show("gradient", done, total))
    gradient = Tensors(found.weights, "the gradient of the forget NLL")
    return ForgetSlope(len(windows), float(before.mean()), found.nll, gradient)


def _on(device: torch.device, checkpoint: str) -> PreTrainedModel:
    model = load_model(checkpoint, torch.float32)
    nn.Module.to(model, device)
    return model
