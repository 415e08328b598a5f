"""The range of every tensor: the first pass, which also finds what is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from quail_lightning.comparison.source import WeightSource
from quail_lightning.errors import InputError
from quail_lightning.quantization.protocol import Bounds

PIECE = 2**18  # values; half a megabyte of bfloat16 stays in a core's cache between reading and looking


class Ranges(NamedTuple):
    """Smallest and largest value of each tensor of the two models."""

    reference: Mapping[str, Bounds]
    model: Mapping[str, Bounds]


def ranges(
    reference: WeightSource,
    model: WeightSource,
    names: Iterable[str],
    threads: int,
    advance: Callable[[int], object],
) -> Ranges:
    """The range of every tensor, read once.

    Args:
        reference: w.
        model: w′.
        names: of the tensors.
        threads: that read at once.
        advance: told of every tensor's size when it is done.

    Raises:
        InputError: NaN or infinity, with the first tensors and the model that hold them.
    """
    names = list(names)
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for source in (reference, model):
            of_source: dict[str, Bounds] = {}
            pieces = [(name, piece) for name in names for piece in _pieces(source.shapes[name])]
            read = pool.map(lambda part, source=source: _range(source, part[0], *part[1]), pieces)
            for (name, (start, stop)), bounds in zip(pieces, read, strict=True):
                low, high = of_source.get(name, bounds)
                # min and max of Python would pass NaN over
                of_source[name] = (_least(low, bounds[0]), -_least(-high, -bounds[1]))
                advance(stop - start)
            found.append(of_source)
    result = Ranges(*found)
    _refuse_non_finite(result, reference, model)
    return result


def _pieces(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    size = math.prod(shape)
    long = 64 * PIECE  # a task a piece would be all overhead
    return [(start, min(start + long, size)) for start in range(0, size, long)]


def _range(source: WeightSource, name: str, start: int, stop: int) -> Bounds:
    buffer = bytearray(min(PIECE, stop - start) * source.dtype(name).itemsize)
    lows, highs = [], []
    for begin in range(start, stop, PIECE):
        low, high = torch.aminmax(source.read(name, begin, min(begin + PIECE, stop), buffer))
        lows.append(low)
        highs.append(high)
    return torch.stack(lows).min().item(), torch.stack(highs).max().item()


def _least(first: float, second: float) -> float:
    return first if math.isnan(first) or first < second else second


def _refuse_non_finite(found: Ranges, reference: WeightSource, model: WeightSource) -> None:
    for source, bounds in ((reference, found.reference), (model, found.model)):
        broken = [name for name, pair in bounds.items() if not all(map(math.isfinite, pair))]
        if broken:
            kind = "NaN" if any(math.isnan(value) for name in broken for value in bounds[name]) else "infinity"
            more = f" and {len(broken) - 3} more tensors" if len(broken) > 3 else ""
            raise InputError(
                f"weights must be finite; {kind} in {', '.join(broken[:3])}{more} of {source.name}",
                remedy="The training that made this model diverged: go back to an earlier checkpoint",
            )
