"""One optimizer step: gradients of all its sides, clipped, weighted, and applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.nn.utils import clip_grads_with_norm_

import quail_lightning.unlearning.sharding as sharding
from quail_lightning.data.batch import TokenBatch
from quail_lightning.models.sharded import is_sharded
from quail_lightning.objectives.weighting import StepWeights, step_weights
from quail_lightning.reference import Side
from quail_lightning.run.processes import sum_over_processes
from quail_lightning.unlearning.accumulation import accumulate
from quail_lightning.unlearning.guards import check_gradient, check_losses
from quail_lightning.unlearning.sophia import estimate_curvature

if TYPE_CHECKING:
    from quail_lightning.unlearning.module import UnlearningModule


def take_step(
    module: UnlearningModule, sides: Sequence[tuple[Side, TokenBatch]], norm_name: str
) -> dict[str, Any]:
    """Accumulate the gradients of all sides, then step once.

    Args:
        module: in training.
        sides: of the step, the forget side first.
        norm_name: what the gradient's norm is logged as.

    Returns:
        the unweighted losses, means over the step, and the norm before clipping.

    Raises:
        RunError: a loss or the gradient is not finite; the weights are as they were.
    """
    assert module.model is not None
    optimizer: Any = module.optimizers()
    estimate_curvature(module, sides, optimizer)
    weights = _weights(module, [side for side, _ in sides])
    windows = next((batch.window for side, batch in sides if side == "forget"), None)
    visit = None if module.goals is None or windows is None else module.goals.visit(windows)
    with sharding.unsynchronized(module.trainer):
        losses, made = accumulate(module, sides, weights.losses, visit)
    trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
    sharding.sum_gradients(trained, is_sharded(module.model))
    sum_over_processes([*losses.values(), *([] if visit is None else [visit.nll])])
    open_share = 1.0 if visit is None else visit.end()
    check_losses([losses[name] for name in module.weights._fields if name in losses], made, module.trainer)
    sharding.multiply_gradients(module.gradient_masks)
    norm = sharding.gradient_norm(trained)
    if module.clip_norm is not None:  # of the windows that contribute, which then have their part of a step
        clip_grads_with_norm_(trained, module.clip_norm * (open_share if len(sides) == 1 else 1.0), norm)
    check_gradient(norm, norm_name, module.trainer)
    if open_share == 0 and len(sides) == 1:  # momentum alone would drive them on
        optimizer.zero_grad()
        return losses | {norm_name: norm}
    if weights.gradient != 1:
        sharding.multiply_gradients(dict.fromkeys(trained, weights.gradient))
    optimizer.step()
    optimizer.zero_grad()  # the evaluation at the epoch's end needs the memory
    return losses | {norm_name: norm}


def _weights(module: UnlearningModule, sides: list[Side]) -> StepWeights:
    if len(sides) > 1 or module.retain is None or module.schedule == "joint":
        return StepWeights(module.current_weights, 1.0)
    return step_weights(module.current_weights, sides[0])
