"""What the unlearning module asks of a reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from quail_lightning.data.batch import TokenBatch
from quail_lightning.functional.chunked import Rows
from quail_lightning.functional.head import Head
from quail_lightning.models.activations import Activations, output_head
from quail_lightning.objectives.term import Frozen
from quail_lightning.run.processes import Processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Side = Literal["forget", "retain"]


class Request(NamedTuple):
    """What the terms read of the frozen target on one set.

    Attributes:
        windows: [n, time] all windows of the set, masked as in ``functional.masking``; row i is asked for later
            as window i.
        frozen: ``logits``, ``likelihood``, ``layers``; at least one.
        layers: decoder layers whose outputs are read, from 0.
    """

    windows: Tensor
    frozen: frozenset[Frozen]
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Arithmetic:
    """How the training step computes; the reference must compute in the same way.

    Attributes:
        forward: model, input_ids [batch, time], layers → activations, under the step's autocast.
        dtype: of the head's product.
        batch_size: windows a forward pass.
        device: where batches and their references are wanted.
        head: a model's output head, whole.
        copy: a copy of a model that lies as it does.
    """

    forward: Callable[[PreTrainedModel, Tensor, tuple[int, ...]], Activations]
    dtype: torch.dtype
    batch_size: int
    device: torch.device
    head: Callable[[PreTrainedModel], Head] = output_head
    copy: Callable[[PreTrainedModel], PreTrainedModel] = copy.deepcopy


class Sizes(NamedTuple):
    """What decides how much room the target's outputs take."""

    vocabulary: int
    width: int


class FrozenOutputs(NamedTuple):
    """The target's outputs on one batch, without gradient, on the batch's device.

    Attributes:
        rows: logits of the flattened [batch · (time − 1)] predicted tokens, a slice at a time; if asked for.
        likelihood: [batch] log f_target(y|x), nats a window: of its real tokens; if asked for.
        layers: layer → [batch, time, width] its output.
    """

    rows: Rows | None = None
    likelihood: Tensor | None = None
    layers: Mapping[int, Tensor] = {}


@runtime_checkable
class Reference(Protocol):
    """The frozen target's outputs on the windows of a run."""

    @property
    def kept_in(self) -> Path | None:
        """Folder of what is kept on disk; None where nothing is."""
        ...

    def check(self, requests: Mapping[Side, Request], sizes: Sizes, dtype: torch.dtype) -> None:
        """Refuse what will not fit, before any weight is loaded; say how much room will be taken.

        Args:
            requests: what will be read, by set.
            sizes: of the target.
            dtype: of the head's product in the training step.

        Raises:
            InputError: naming what is needed, what there is, and the remedy.
        """
        ...

    def prepare(
        self,
        requests: Mapping[Side, Request],
        target: Callable[[], PreTrainedModel],
        identity: Mapping[str, str],
        arithmetic: Arithmetic,
        processes: Processes,
    ) -> None:
        """Take what will be read from the target, once, before the first step.

        Args:
            requests: as in ``check``.
            target: gives the target on the training device; called at most once, and not where its outputs are at
                hand. Its weights change as soon as training starts, so what is kept of it must be a copy. It may
                be sharded: only ``arithmetic`` reads it then.
            identity: what names the target and the arithmetic beyond doubt (digests, dtypes).
            arithmetic: the training step's.
            processes: that train together; they share the work.
        """
        ...

    def outputs(self, side: Side, batch: TokenBatch) -> FrozenOutputs:
        """What was asked for about the windows of a batch."""
        ...
