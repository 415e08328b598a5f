"""The target's outputs on every window, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from quail_lightning.data.batch import TokenBatch
from quail_lightning.reference.cache import Cache
from quail_lightning.reference.kinds import Products, States
from quail_lightning.reference.protocol import Arithmetic, FrozenOutputs, Request, Side, Sizes
from quail_lightning.run.processes import Processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FOLDER = "checkpoints/reference-cache"


class CachedStates:
    """Keep the target's final hidden states and one copy of its head; the logits are their product.

    They take width / vocabulary of the logits' room (an eighth for Llama 2, a thirty-second with 128k tokens) and
    lose nothing: they are kept in the dtype to which the head's product casts them. Runs with the same target,
    windows, arithmetic and batch size share one cache. A step's batch holds other windows together than the
    cache's batches, which on some devices rounds sums differently: a hinge then wants a dead zone.

    Args:
        folder: of all caches, on a disk that all processes see; each cache has a folder of its own in it.
    """

    def __init__(self, folder: str = FOLDER) -> None:
        self.folder = folder
        self._cache = Cache(Path(folder), States())

    def check(self, requests: Mapping[Side, Request], sizes: Sizes, dtype: torch.dtype) -> None:
        """See that the disk has room; as in ``Reference``."""
        self._cache.check(requests, sizes, dtype)

    def prepare(
        self,
        requests: Mapping[Side, Request],
        target: Callable[[], PreTrainedModel],
        identity: Mapping[str, str],
        arithmetic: Arithmetic,
        processes: Processes,
    ) -> None:
        """Find or build the cache; as in ``Reference``."""
        self._cache.prepare(requests, target, identity, arithmetic, processes)

    @property
    def fingerprint(self) -> str | None:
        """Of the cache in use; None before one is."""
        return self._cache.fingerprint

    @property
    def kept_in(self) -> Path | None:
        """Folder of the cache in use; None before one is."""
        return self._cache.folder

    def outputs(self, side: Side, batch: TokenBatch) -> FrozenOutputs:
        """What was asked for about the windows of a batch."""
        return self._cache.outputs(side, batch)


class CachedLogits:
    """QUAIL section VI-E to the letter: z = f_target(x) of every window, in the dtype of the step's product.

    One window takes time × vocabulary entries: 131 MB at 2,048 tokens and 32,000 entries of bfloat16.
    ``CachedStates`` gives the same numbers from far less.

    Args:
        folder: of all caches, on a disk that all processes see; each cache has a folder of its own in it.
    """

    def __init__(self, folder: str = FOLDER) -> None:
        self.folder = folder
        self._cache = Cache(Path(folder), Products())

    def check(self, requests: Mapping[Side, Request], sizes: Sizes, dtype: torch.dtype) -> None:
        """See that the disk has room; as in ``Reference``."""
        self._cache.check(requests, sizes, dtype)

    def prepare(
        self,
        requests: Mapping[Side, Request],
        target: Callable[[], PreTrainedModel],
        identity: Mapping[str, str],
        arithmetic: Arithmetic,
        processes: Processes,
    ) -> None:
        """Find or build the cache; as in ``Reference``."""
        self._cache.prepare(requests, target, identity, arithmetic, processes)

    @property
    def fingerprint(self) -> str | None:
        """Of the cache in use; None before one is."""
        return self._cache.fingerprint

    @property
    def kept_in(self) -> Path | None:
        """Folder of the cache in use; None before one is."""
        return self._cache.folder

    def outputs(self, side: Side, batch: TokenBatch) -> FrozenOutputs:
        """What was asked for about the windows of a batch."""
        return self._cache.outputs(side, batch)
