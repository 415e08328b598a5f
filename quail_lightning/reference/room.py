"""How much room a cache takes, and whether there is that much."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from quail_lightning.errors import InputError
from quail_lightning.reference.kinds import Kind, Products, States
from quail_lightning.reference.protocol import Request, Side, Sizes
from quail_lightning.storage.disk_room import bytes_in, nearest_existing, refuse_too_little_room, size_text


class Room(NamedTuple):
    """What a cache will hold.

    Attributes:
        requests: what is read, by set.
        kind: what is kept of the logits.
        sizes: of the target.
        dtype: of the head's product.
        layer_dtype: of the layers' outputs.
    """

    requests: Mapping[Side, Request]
    kind: Kind
    sizes: Sizes
    dtype: torch.dtype
    layer_dtype: torch.dtype

    def of_window(self, side: Side) -> int:
        """Bytes kept of one window of a set."""
        request, total = self.requests[side], 0
        time = request.windows.shape[1]
        if "logits" in request.frozen:
            total += (time - 1) * self.kind.entries(self.sizes) * self.dtype.itemsize
        if "likelihood" in request.frozen:
            total += (time - 1) * torch.float32.itemsize
        if "layers" in request.frozen:
            total += len(request.layers) * time * self.sizes.width * self.layer_dtype.itemsize
        return total

    def in_all(self) -> int:
        """Bytes of all arrays and the head."""
        total = sum(len(request.windows) * self.of_window(side) for side, request in self.requests.items())
        if any("logits" in request.frozen for request in self.requests.values()):
            total += self.kind.head_rows(self.sizes) * self.sizes.width * self.dtype.itemsize
        return total

    def refuse_too_large(self, folder: Path, replaced: Path) -> None:
        """See that the disk has it.

        Args:
            folder: of all caches.
            replaced: folder whose files may be this cache's own; what they take counts as free.

        Raises:
            InputError: the disk has too little, or ``folder`` is no folder.
        """
        existing = nearest_existing(folder)
        if not existing.is_dir():
            raise InputError("the folder of the reference cache lies at or below a file", given=str(existing))
        remedies = [
            "Name a folder on another disk (model.reference.init_args.folder), or remove caches that are no "
            f"longer needed (all in {folder} take {size_text(bytes_in(folder))})"
        ]
        if isinstance(self.kind, Products):
            smaller = size_text(self._replace(kind=States()).in_all())
            remedies.append(f"Or quail_lightning.reference.CachedStates: the same logits from {smaller}")
        remedies.append("Or quail_lightning.reference.LiveReference: a second model in memory, nothing on disk")
        own = bytes_in(replaced)
        refuse_too_little_room("the reference cache", self.in_all(), folder, ". ".join(remedies), own)
