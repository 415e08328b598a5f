"""A cache of the target's outputs: found on disk, or taken from the target and written."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import quail_lightning.reference.manifest as vouched
from quail_lightning.data.batch import TokenBatch
from quail_lightning.functional.head import Head
from quail_lightning.reference.building import Source, evaluating, window_likelihood
from quail_lightning.reference.kinds import Kind
from quail_lightning.reference.layout import Shard, files_of, origin, windows_per_shard
from quail_lightning.reference.protocol import Arithmetic, FrozenOutputs, Request, Side, Sizes
from quail_lightning.reference.room import Room
from quail_lightning.reference.store import HEAD, Store, read_head, remove_abandoned, write_head, write_shard
from quail_lightning.run.processes import Processes
from quail_lightning.storage.disk_room import size_text
from quail_lightning.storage.locks import hold
from quail_lightning.storage.privacy import private_folder
from quail_lightning.terminal import Bar, step

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Cache:
    """What ``CachedStates`` and ``CachedLogits`` share; they differ in what is kept of the logits.

    Args:
        caches: folder of all caches.
        kind: what is kept of the logits.
    """

    def __init__(self, caches: Path, kind: Kind) -> None:
        self._caches, self._kind = caches, kind
        self._requests: Mapping[Side, Request] = {}
        self._store: Store | None = None
        self._head: Head | None = None
        self._device = torch.device("cpu")
        self.fingerprint: str | None = None  # of the cache in use
        self.folder: Path | None = None

    def check(self, requests: Mapping[Side, Request], sizes: Sizes, dtype: torch.dtype) -> None:
        """See that the disk has room.

        Lenient where the answer is not known yet: the layers' outputs may be float32 beside a bfloat16 product,
        and any cache in the folder may be the one that is wanted. ``prepare`` looks again.
        """
        Room(requests, self._kind, sizes, dtype, dtype).refuse_too_large(self._caches, replaced=self._caches)

    def prepare(
        self,
        requests: Mapping[Side, Request],
        target: Callable[[], PreTrainedModel],
        identity: Mapping[str, str],
        arithmetic: Arithmetic,
        processes: Processes,
    ) -> None:
        """Open the cache of these requests; take from the target whatever of it is missing or damaged.

        File i belongs to process i modulo their number, which verifies it and, where need be, writes it. So the
        processes need not agree beforehand on what is to be done: all pass the same two barriers in any case.
        """
        self._store = self._head = None
        made_of = origin(self._kind, requests, identity, arithmetic)
        self.fingerprint = vouched.fingerprint(made_of)
        folder = self.folder = self._caches / self.fingerprint[:16]
        first = processes.rank == 0
        if folder.is_dir():
            _lock(folder)

        manifest = None
        try:
            manifest = vouched.read_manifest(folder, made_of)
        except vouched.UnusableError as error:
            if first:
                _say(folder, f"{error}; everything is computed again")
        source = functools.cache(lambda: _source(target(), self._kind, arithmetic))
        if manifest is None:
            room = _room(requests, source())
            room.refuse_too_large(self._caches, replaced=folder)
            _lock(folder)
            if first:
                _say(folder, f"takes {size_text(room.in_all())}")
            per_shard = windows_per_shard(arithmetic.batch_size, max(room.of_window(side) for side in requests))
        else:
            per_shard = manifest.windows_per_shard

        files = files_of(requests, per_shard)
        own = list(files)[processes.rank :: processes.world_size]
        intact = {}
        if manifest is not None:
            with step(f"verifying the reference cache {folder}"):
                intact = {name: manifest.files[name] for name in own if _is_intact(folder / name, manifest)}
        if wanted := {name: files[name] for name in own if name not in intact}:
            _write(folder, wanted, requests, source(), shown=first)
        processes.barrier()  # every file is written
        if first:
            found = vouched.Manifest(per_shard, {n: intact.get(n) or vouched.describe(folder / n) for n in files})
            if found == manifest:
                _say(folder, "complete, and used again")
            else:
                vouched.write_manifest(folder, made_of, found)
            remove_abandoned(folder)
        processes.barrier()  # and vouched for
        self._open(folder, list(files), per_shard, requests, arithmetic.device)

    def outputs(self, side: Side, batch: TokenBatch) -> FrozenOutputs:
        """What was asked for about the windows of a batch, as far as the batch goes."""
        assert self._store is not None
        store, request, windows = self._store, self._requests[side], batch.window.tolist()
        time = batch.input_ids.shape[1]

        def read(name: str, length: int) -> Tensor:
            return store.windows(f"{side}.{name}", windows, length).to(self._device)

        rows, likelihood, layers = None, None, {}
        if "logits" in request.frozen:
            assert self._head is not None
            rows = self._kind.rows(store, f"{side}.{self._kind.name}", windows, time - 1, self._head)
        if "likelihood" in request.frozen:
            likelihood = window_likelihood(read("likelihood", time - 1), batch.labels.to(self._device))
        if "layers" in request.frozen:
            layers = {layer: read(f"layer{layer}", time) for layer in request.layers}
        return FrozenOutputs(rows, likelihood, layers)

    def _open(
        self,
        folder: Path,
        files: Sequence[str],
        per_shard: int,
        requests: Mapping[Side, Request],
        device: torch.device,
    ) -> None:
        self._requests, self._device = dict(requests), device
        self._head = read_head(folder / HEAD, device) if HEAD in files else None
        self._store = Store(folder, [name for name in files if name != HEAD], per_shard)


def _lock(folder: Path) -> None:
    """Keep `quail clean` from what this process reads; two builds of one cache need not wait for each other."""
    private_folder(folder, folder.parent)
    hold(folder, f"the reference cache {folder}", shared=True)


def _source(model: PreTrainedModel, kind: Kind, arithmetic: Arithmetic) -> Source:
    with torch.no_grad():
        return Source(model, arithmetic.head(model).cast(arithmetic.dtype), kind, arithmetic)


def _room(requests: Mapping[Side, Request], source: Source) -> Room:
    vocabulary, width = source.head.weight.shape
    # under autocast too: each layer adds to the stream that the embedding begins
    layer_dtype = next(source.model.get_input_embeddings().parameters()).dtype
    return Room(requests, source.kind, Sizes(vocabulary, width), source.arithmetic.dtype, layer_dtype)


def _is_intact(path: Path, manifest: vouched.Manifest) -> bool:
    try:
        vouched.verify(path, manifest.files[path.name])
    except vouched.UnusableError as error:
        _say(path.parent, f"{error}; it is computed again")
        return False
    return True


def _write(
    folder: Path, files: Mapping[str, Shard | None], requests: Mapping[Side, Request], source: Source, shown: bool
) -> None:
    total = sum(len(shard.rows) for shard in files.values() if shard)
    bar = Bar(total=total, desc=source.kind.shown, unit="window", disable=not shown or not total)
    with evaluating(source.model), bar:
        for name, shard in files.items():
            if shard is None:
                write_head(folder / name, source.kind.kept_head(source.head))
            else:
                write_shard(folder / name, source.shard(shard.side, requests[shard.side], shard.rows, bar.update))


def _say(folder: Path, what: str) -> None:
    print(f"reference cache {folder}: {what}", file=sys.stderr, flush=True)
