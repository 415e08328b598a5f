"""A model whose weights are spread over all processes (FSDP2), gathered where they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from quail_lightning.functional.head import Head
from quail_lightning.models.activations import decoder_layers, output_head
from quail_lightning.models.arithmetic import compute_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")
ROOT = "_quail_sharding_root"  # where a model keeps its root, beside its modules: no name of a weight changes


class Root(nn.Module):
    """Root of the sharding: whatever runs within its forward finds embedding, final norm and head whole.

    The model's own forward will not do: the losses read body and head apart.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.announce: Callable[[], object] = _to_nobody

    def forward(self, function: Callable[[], Any]) -> Any:
        """Run a function of the model."""
        return function()


def shard(model: PreTrainedModel, mesh: DeviceMesh, compute: torch.dtype | None) -> None:
    """Spread a model's weights over a mesh, in place: by decoder layer, and the rest as one.

    Layers are gathered in ``compute``, one at a time, and again for the backward pass. What autocast leaves in the
    weights' own dtype (norms, the residual stream, embedding and head) stays in it, and gradients are summed in
    float32: the arithmetic is that of one device. 16-bit weights whose products the device emulates are all
    gathered in float32.

    Args:
        model: may lie on the meta device.
        mesh: one-dimensional, of all processes.
        compute: dtype of the layers' products; None: the weights' own.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # the residual stream enters a layer as it is: autocast casts for each product
    own = next(model.parameters()).dtype
    wide = compute_dtype(own, mesh.device_type)
    gathered = None if wide == own else wide
    plain = MixedPrecisionPolicy(gathered, torch.float32, cast_forward_inputs=False)
    cast = MixedPrecisionPolicy(compute or gathered, torch.float32, cast_forward_inputs=False)
    for layer in decoder_layers(model):
        if compute is not None:
            for part in layer.modules():
                direct = list(part.parameters(recurse=False))
                if direct and all(parameter.ndim < 2 for parameter in direct):
                    fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=plain)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=cast)
    root = Root(model)
    # reshard the root too, so that outside of it a weight is always a shard, whichever pass came last
    fully_shard(root, mesh=mesh, reshard_after_forward=True, mp_policy=plain)
    model.__dict__[ROOT] = root


def inside(model: nn.Module, function: Callable[[], T]) -> T:
    """Run a function of a model where its weights can be read; of a sharded one all processes must call."""
    if is_sharded(model):
        model.__dict__[ROOT].announce()
    return unannounced(model, function)


def unannounced(model: nn.Module, function: Callable[[], T]) -> T:
    """As ``inside``, where the other processes know of it (``announcing``)."""
    root = model.__dict__.get(ROOT)
    return function() if root is None else root(function)


@contextmanager
def announcing(model: nn.Module, announce: Callable[[], object]) -> Iterator[None]:
    """Have ``announce`` called before every pass of a sharded model that is made by ``inside``."""
    root = model.__dict__[ROOT]
    before, root.announce = root.announce, announce
    try:
        yield
    finally:
        root.announce = before


def _to_nobody() -> None:
    pass


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a share of the model alone."""
    return ROOT in model.__dict__


def defer_gradients(model: nn.Module, defer: bool) -> None:
    """Keep the gradients of the coming backward passes whole and apart, until a pass that does not defer."""
    root: Any = model.__dict__.get(ROOT)
    if root is not None:
        root.set_requires_gradient_sync(not defer)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; of a sharded one all processes must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_rows(parameter: Tensor) -> slice:
    """Rows of a weight that this process holds; none of a weight with fewer rows than there are processes."""
    if not isinstance(parameter, DTensor):
        return slice(0, len(parameter))
    # private: DTensor tells a shard's place nowhere else
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    return slice(offset[0], offset[0] + shape[0]) if shape[0] else slice(0, 0)


def whole_head(model: PreTrainedModel) -> Head:
    """All of the output head, without gradient; of a sharded one all processes must call."""
    head = output_head(model)
    if not is_sharded(model):
        return head
    bias = None if head.bias is None else whole(head.bias.detach())
    return head._replace(weight=whole(head.weight.detach()), bias=bias)


def share(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; all of one that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_like(values: Tensor, weight: Tensor) -> Tensor:
    """``values``, of the weight's shape or of size 1 in some dimensions, laid out as the weight is."""
    if not isinstance(weight, DTensor):
        return values
    placements = [
        Replicate() if values.shape[getattr(place, "dim", 0)] == 1 else place for place in weight.placements
    ]
    return distribute_tensor(values, weight.device_mesh, placements)
