"""What a cache is made of, and into which files it is divided."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from quail_lightning.reference.kinds import Kind
from quail_lightning.reference.manifest import FORMAT
from quail_lightning.reference.protocol import Arithmetic, Request, Side
from quail_lightning.reference.store import HEAD, shard_name

SHARD_BYTES = 2**28  # about; but at least one batch


class Shard(NamedTuple):
    """One file: windows ``rows`` of a set."""

    side: Side
    rows: range


def origin(
    kind: Kind, requests: Mapping[Side, Request], identity: Mapping[str, str], arithmetic: Arithmetic
) -> dict[str, Any]:
    """Everything that a cache's content depends on; the batch size too, which decides how sums are rounded."""
    return {
        "format": FORMAT,
        "kind": kind.name,
        "dtype": str(arithmetic.dtype),
        "batch_size": arithmetic.batch_size,
        "identity": dict(identity),
        "requests": {
            side: {
                "windows": hashlib.sha256(request.windows.cpu().long().numpy().tobytes()).hexdigest(),
                "shape": list(request.windows.shape),
                "frozen": sorted(request.frozen),
                "layers": list(request.layers),
            }
            for side, request in requests.items()
        },
    }


def windows_per_shard(batch_size: int, window_bytes: int) -> int:
    """Whole batches, so that the division into files does not change the batches."""
    return batch_size * max(1, SHARD_BYTES // (batch_size * window_bytes))


def files_of(requests: Mapping[Side, Request], per_shard: int) -> dict[str, Shard | None]:
    """The files of a cache of ``per_shard`` windows a shard; None stands for the head's."""
    files: dict[str, Shard | None] = {}
    if any("logits" in request.frozen for request in requests.values()):
        files[HEAD] = None
    for side, request in requests.items():
        count = len(request.windows)
        for number, start in enumerate(range(0, count, per_shard)):
            files[shard_name(side, number)] = Shard(side, range(start, min(start + per_shard, count)))
    return files
