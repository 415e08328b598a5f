"""Two models' weights, compared piece by piece: the second pass."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import torch

from quail_lightning.comparison.bounds import Ranges, ranges
from quail_lightning.comparison.formats import Format, Mixture
from quail_lightning.comparison.heap import keep_freed_memory
from quail_lightning.comparison.parameters import Role
from quail_lightning.comparison.pieces import PieceReader
from quail_lightning.comparison.result import (
    Change,
    Comparison,
    GridKey,
    Scope,
    SharedStep,
    TensorComparison,
)
from quail_lightning.comparison.source import WeightSource
from quail_lightning.comparison.tensor_grids import Lane, TensorGrids
from quail_lightning.errors import InputError, check_choice
from quail_lightning.functional.affine_grid import GridKind
from quail_lightning.quantization.fitted_ranges import joined
from quail_lightning.quantization.protocol import Bounds

TASK = 2**24  # values of one task: what a task costs by itself is then small, and threads still share tensors
AHEAD = 32  # tasks that wait for a thread


@dataclass(frozen=True)
class Questions:
    """What is asked of two models.

    Attributes:
        bits: widths N of the overlap table, 1 … 16.
        granularities: one step for the model, one for each tensor.
        kinds: formulas of the grids; ``minmax-floor`` is QUAIL's (V-A).
        formats: deployment formats whose delivered shift is measured; each takes about as long as all the rest.
    """

    bits: Sequence[int] = (16, 8, 4)
    granularities: Sequence[SharedStep] = ("global", "tensor")
    kinds: Sequence[GridKind] = ("minmax-floor",)
    formats: Sequence[Format | Mixture] = ()

    def __post_init__(self) -> None:
        if not self.bits or not all(1 <= bits <= 16 for bits in self.bits):
            raise InputError("bits must lie in 1 … 16, at least one of them", given=list(self.bits))
        if not self.granularities or not self.kinds:
            raise InputError("at least one granularity and one grid are needed")
        for granularity in self.granularities:
            check_choice("granularities", granularity, get_args(SharedStep))
        for kind in self.kinds:
            check_choice("grids", kind, get_args(GridKind))

    def grids(self) -> tuple[GridKey, ...]:
        """The overlap table's grids, without repetition."""
        return tuple(
            GridKey(kind, granularity, bits, scope)
            for kind in dict.fromkeys(self.kinds)
            for granularity in dict.fromkeys(self.granularities)
            for bits in dict.fromkeys(self.bits)
            for scope in _scopes(granularity)
        )


def compare(
    reference: WeightSource,
    model: WeightSource,
    parameters: Mapping[str, Role],
    questions: Questions,
    advance: Callable[[int], object] = lambda _: None,
    threads: int | None = None,
    gradient: WeightSource | None = None,
) -> Comparison:
    """Weight change, bucket overlap and delivered shift of every parameter.

    Every weight is read twice: for the ranges, and for the rest. What is held in memory depends on the number
    of tensors and threads, not on the size of the models.

    Args:
        reference: w, the target.
        model: w′, the unlearned model.
        parameters: the tensors to be compared, with their roles.
        questions: what to count.
        advance: told how many values have been read; four times the number of parameters altogether.
        threads: that work at once; as many as there are cores, at most four, if not given.
        gradient: g of the forget NLL by the quantized weights, under their names (``inference.nll_gradient``),
            for what formats deliver along it; None leaves that out.

    Raises:
        InputError: NaN or infinity in a tensor, or a format that does not fit one.
    """
    names = [name for name in parameters if math.prod(reference.shapes[name])]
    for used in questions.formats:
        used.check({name: reference.shapes[name] for name in names if parameters[name].quantized})
    workers = threads or min(4, len(os.sched_getaffinity(0)))
    keep_freed_memory()
    with _one_thread_an_operation():
        found = ranges(reference, model, names, workers, advance)
        plans = _plans(names, parameters, found, reference, model, questions)
        readers = deque(PieceReader(reference, model, gradient) for _ in range(workers))
        return _gathered(_results(plans, readers, advance))


def _gathered(results: Iterator[TensorComparison]) -> Comparison:
    changes: dict[Scope, Change] = {"quantized": Change(), "all": Change()}
    tensors = []
    for tensor in results:
        changes["all"] += tensor.change
        if tensor.quantized:
            changes["quantized"] += tensor.change
        tensor.change.histogram = None
        tensors.append(tensor)
    return Comparison(tuple(tensors), changes)


def _scopes(granularity: SharedStep) -> tuple[Scope, ...]:
    return ("all",) if granularity == "tensor" else ("quantized", "all")


def _plans(
    names: Sequence[str],
    parameters: Mapping[str, Role],
    found: Ranges,
    reference: WeightSource,
    model: WeightSource,
    questions: Questions,
) -> Iterator[TensorGrids]:
    """The grids of one tensor after another, made when they are needed."""
    of_model: dict[Scope, tuple[Bounds, Bounds]] = {}
    for scope in ("quantized", "all"):
        within = [name for name in names if scope == "all" or parameters[name].quantized]
        of_model[scope] = (
            joined(found.reference[name] for name in within),
            joined(found.model[name] for name in within),
        )
    shapes = {name: reference.shapes[name] for name in names if parameters[name].quantized}
    formats = [used.of_each(shapes) for used in questions.formats]
    ranges = [
        tuple(used.ranges({name: of[name] for name in shapes}) for of in (found.reference, found.model))
        for used in questions.formats
    ]
    for name in names:
        role = parameters[name]
        own = found.reference[name], found.model[name]
        keys = [key for key in questions.grids() if key.scope == "all" or role.quantized]
        lanes = [
            Lane(kind, granularity, scope, bits, *(own if granularity == "tensor" else of_model[scope]))
            for (kind, granularity, scope), bits in _lanes(keys)
        ]
        yield TensorGrids(
            name,
            reference.shapes[name],
            role,
            (reference.dtype(name), model.dtype(name)),
            lanes,
            [of_each[name] for of_each in formats] if role.quantized else (),
            [(before[name], after[name]) for before, after in ranges] if role.quantized else (),
            own,
            of_model["quantized"],
        )


def _lanes(keys: Sequence[GridKey]) -> Iterator[tuple[tuple[GridKind, SharedStep, Scope], tuple[int, ...]]]:
    """Which bit widths share a lane: all of ``minmax-floor``, none of the others."""
    grouped: dict[tuple[GridKind, SharedStep, Scope], list[int]] = {}
    for key in keys:
        grouped.setdefault((key.kind, key.granularity, key.scope), []).append(key.bits)
    for place, bits in grouped.items():
        if place[0] == "minmax-floor":
            yield place, tuple(sorted(bits, reverse=True))
        else:
            yield from ((place, (each,)) for each in bits)


def _results(
    plans: Iterator[TensorGrids], readers: deque[PieceReader], advance: Callable[[int], object]
) -> Iterator[TensorComparison]:
    """One tensor after another, while the threads, one a reader, are some tasks ahead."""

    def run(plan: TensorGrids, start: int, stop: int) -> TensorComparison:
        reader = readers.popleft()  # there are as many as threads, and a deque may be shared
        try:
            return reader.compare(plan, start, stop)
        finally:
            readers.append(reader)

    waiting: deque[tuple[TensorGrids, bool, Future[TensorComparison]]] = deque()
    total: TensorComparison | None = None
    with ThreadPoolExecutor(len(readers)) as pool:
        try:
            for plan, start, stop in _tasks(plans):
                waiting.append((plan, stop == plan.size, pool.submit(run, plan, start, stop)))
                while len(waiting) > AHEAD or (waiting and waiting[0][2].done()):
                    total = _collect(total, waiting[0], advance)
                    if waiting.popleft()[1]:
                        yield _finished(total)
                        total = None
            while waiting:
                total = _collect(total, waiting[0], advance)
                if waiting.popleft()[1]:
                    yield _finished(total)
                    total = None
        finally:
            pool.shutdown(cancel_futures=True)


def _tasks(plans: Iterator[TensorGrids]) -> Iterator[tuple[TensorGrids, int, int]]:
    for plan in plans:
        length = max(plan.piece, TASK // plan.piece * plan.piece)
        for start in range(0, plan.size, length):
            yield plan, start, min(start + length, plan.size)


def _collect(
    total: TensorComparison | None,
    task: tuple[TensorGrids, bool, Future[TensorComparison]],
    advance: Callable[[int], object],
) -> TensorComparison:
    part = task[2].result()
    advance(2 * part.change.count)
    if total is None:
        return part
    total.add(part)
    return total


def _finished(total: TensorComparison) -> TensorComparison:
    for delivery in total.deliveries.values():
        delivery.set_signal_to_noise(total.shape[-1])
    return total


@contextmanager
def _one_thread_an_operation() -> Iterator[None]:
    """torch's own threads would compete with ours."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
