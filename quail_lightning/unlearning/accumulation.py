"""The gradient of one optimizer step, accumulated over its passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from quail_lightning.data.batch import TokenBatch
from quail_lightning.models.sharded import defer_gradients, is_sharded
from quail_lightning.objectives import GradientDescent, Weights
from quail_lightning.reference import Side
from quail_lightning.run.processes import current_processes
from quail_lightning.unlearning.division import passes
from quail_lightning.unlearning.guards import Pass
from quail_lightning.unlearning.losses import Floor
from quail_lightning.unlearning.sharpness import perturbed
from quail_lightning.unlearning.stopping import Visit

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule

Sides = Sequence[tuple[Side, TokenBatch]]
IsOpen = Callable[[Tensor, Tensor], Tensor]
Found = tuple[dict[str, Tensor], list[Pass]]


def accumulate(module: UnlearningModule, sides: Sides, weights: Weights, visit: Visit | None) -> Found:
    """Add the gradients of the weighted losses; with SAM the forget side's is taken at the perturbed weights.

    With ``module.perturbation`` all are taken at the weights that it draws for this step.

    Args:
        module: whose weights hold the gradients.
        sides: of the step, the forget side first.
        weights: of the losses.
        visit: which forget windows contribute; None: all.

    Returns:
        What this process adds to each loss of the step, at the weights as they are (with ``perturbation`` at those
        drawn), and its passes.
    """
    is_open = None if visit is None else visit.open
    assert module.model is not None
    if module.perturbation is not None:
        try:
            with module.perturbation.applied(module.model, module.global_step) as module.rounded_to:
                return add_gradients(module, sides, weights, is_open)
        finally:
            module.rounded_to = None
    if module.sam is None or sides[0][0] != "forget":
        return add_gradients(module, sides, weights, is_open)
    losses, made = add_gradients(module, sides[:1], weights, is_open)
    with perturbed(module.sam, module.parameters(), module.gradient_masks, is_sharded(module.model)):
        add_gradients(module, sides[:1], weights, None if visit is None else visit.was_open)
    others, further = add_gradients(module, sides[1:], weights)
    return losses | others, made + further


def add_gradients(
    module: UnlearningModule, sides: Sides, weights: Weights, is_open: IsOpen | None = None
) -> Found:
    """Add the gradients of the weighted losses, pass by pass; see ``accumulate``.

    Args:
        module: whose weights hold the gradients.
        sides: of the step.
        weights: of the losses.
        is_open: see ``Floor``.
    """
    assert module.model is not None
    losses, made = dict[str, Tensor](), list[Pass]()
    processes, most = current_processes(), module.micro_batch_size
    scale = processes.world_size if is_sharded(module.model) else 1  # FSDP2 takes the mean over the ranks
    divided = [(side, *part) for side, batch in sides for part in passes(batch, most, processes)]
    for number, (side, part, share) in enumerate(divided, start=1):
        defer_gradients(module.model, module.defer_gradient_sync and number < len(divided))
        terms, floor = module.terms(side), None
        if is_open is not None and side == "forget" and share.windows:  # 0 of those that another rank notes
            floor = Floor(frozenset(terms), is_open)
        asked = {**terms, f"{side}_nll": GradientDescent()}
        values = module.losses(side, asked, part, floor)
        shared = share.of(values, asked)
        module.manual_backward(scale * sum(getattr(weights, name) * shared[name] for name in terms))
        made.append(Pass(side, part.window, {name: values[name].detach() for name in terms}))
        for name, value in shared.items():
            losses[name] = losses.get(name, 0.0) + value.detach()
    return losses, made
