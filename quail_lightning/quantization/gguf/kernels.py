"""ggml's own quantization, called in the library of the xllamacpp wheel, which is llama.cpp."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.ggml_blocks import LAYOUTS, BlockType, Bytes

CHUNK = 2**18  # weights that a thread quantizes at once


def pack(weight: Tensor, kind: BlockType) -> Bytes:
    """[rows, bytes] a weight's blocks, as llama.cpp makes them without an importance matrix.

    Args:
        weight: [rows, inputs], finite, of any floating dtype and on any device; computed in float32.
        kind: whose block length divides the inputs.

    Raises:
        InputError: the library cannot be used.
    """
    quantize = _library().ggml_quantize_chunk
    layout = LAYOUTS[kind]
    values = weight.detach().to("cpu", torch.float32).contiguous().numpy()
    rows, inputs = values.shape
    packed = np.empty((rows, inputs // layout.weights * layout.size), np.uint8)

    def stretch(start: int, stop: int) -> None:
        place = packed[start:stop].ctypes.data, 0, stop - start, inputs, None
        quantize(layout.number, values[start:stop].ctypes.data, *place)

    _by_rows(stretch, rows, max(1, CHUNK // inputs))
    return packed


def unpack(packed: Bytes, kind: BlockType) -> Tensor:
    """[rows, inputs] the weights that blocks stand for, float32.

    Args:
        packed: [rows, bytes].
        kind: their type.

    Raises:
        InputError: the library cannot be used.
    """
    dequantize = getattr(_library(), _dequantizer(kind))
    layout = LAYOUTS[kind]
    values = np.empty((len(packed), packed.shape[1] // layout.size * layout.weights), np.float32)
    contiguous = np.ascontiguousarray(packed)

    def stretch(start: int, stop: int) -> None:
        place = values[start:stop]
        dequantize(contiguous[start:stop].ctypes.data, place.ctypes.data, place.size)

    _by_rows(stretch, len(values), max(1, CHUNK // values.shape[1]))
    return torch.from_numpy(values)


def _by_rows(stretch: Callable[[int, int], None], rows: int, length: int) -> None:
    """Rows do not depend on each other, and ctypes lets go of the interpreter's lock."""
    starts = range(0, rows, length)
    stops = [min(start + length, rows) for start in starts]
    if (threads := min(torch.get_num_threads(), len(stops))) < 2:
        stretch(0, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(stretch, starts, stops))


def _dequantizer(kind: BlockType) -> str:
    return f"dequantize_row_{kind[0].lower()}{kind[1:]}"


def library_file() -> Path | None:
    """llama.cpp's library in the wheel of xllamacpp; None where there is none."""
    spec = importlib.util.find_spec("xllamacpp")
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((path for folder in folders for path in sorted(Path(folder).glob("xllamacpp*.so"))), None)


@cache
def _library() -> Any:
    """The wheel's library, with the signatures of what is called in it."""
    try:
        if (path := library_file()) is None:
            raise OSError("no library")
        library = ctypes.CDLL(str(path))
        library.ggml_quantize_chunk.restype = ctypes.c_size_t
        numbers, address = [ctypes.c_int64] * 3, ctypes.c_void_p
        library.ggml_quantize_chunk.argtypes = [ctypes.c_int, address, address, *numbers, address]
        for kind in LAYOUTS:
            dequantize = getattr(library, _dequantizer(kind))
            dequantize.restype, dequantize.argtypes = None, [address, address, ctypes.c_int64]
    except (OSError, AttributeError) as error:
        raise InputError(
            f"the xllamacpp that is installed here does not give ggml's quantization ({error})",
            remedy="Run: pip install 'quail-lightning[gguf]' on Linux or macOS; on other systems save the model "
            "by `quail quantize --to bf16` and quantize it with llama.cpp's own programs",
        ) from error
    return library
