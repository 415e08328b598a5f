"""The header of a GGUF file: metadata, and where each tensor lies. Nothing of a tensor's data is read.

The layout is that of llama.cpp's specification (ggml/docs/gguf.md), versions 2 and 3, little-endian: magic,
version, counts of tensors and of pairs of key and value; the pairs; of each tensor its name, sizes, type and
offset; the data, aligned.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from quail_lightning.errors import InputError
from quail_lightning.storage.readable import check_readable, damaged

MAGIC, VERSIONS = b"GGUF", (2, 3)
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's number of a value's type → ``struct``'s letter."""
MOST_SIZES = 4  # of a tensor, GGML_MAX_DIMS
ALIGNMENT = 32  # bytes, where the file says no other


class GgufTensor(NamedTuple):
    """Where a tensor lies.

    Attributes:
        type: ggml's name of it (``Q4_1``, ``F32``, ...).
        shape: its sizes, outermost first, as torch has them; the file has them the other way round.
        offset: of its first byte in the file.
        size: bytes.
    """

    type: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def weights(self) -> int:
        """Values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What a file says of itself.

    Attributes:
        file: it was read from.
        metadata: key → number, truth value, text, or a list of them.
        tensors: by ggml's names, such as ``blk.0.attn_q.weight``.
    """

    file: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of it; empty where the file says none."""
        return str(self.metadata.get("general.architecture", ""))

    def own(self, key: str, default: Any = None) -> Any:
        """The value of one of the architecture's own keys, such as ``block_count``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read_header(file: Path) -> GgufHeader:
    """Read and check a header against the file's length.

    Raises:
        InputError: it is no GGUF file, of another version or byte order, damaged, or shorter than its tensors; or
            the package ``gguf`` is missing, or does not know a tensor's type.
    """
    check_gguf_package()
    check_readable(file)
    with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        if memory[:4] != MAGIC:
            raise damaged(file, f"it does not begin with {MAGIC.decode()}, as GGUF files do")
        cursor = _Cursor(memory, 4)
        try:
            return _read(file, cursor, len(memory))
        except _EndError:
            raise damaged(file, f"its header goes beyond its end ({len(memory):,} bytes)") from None
        except UnicodeDecodeError:
            raise damaged(file, f"a text before byte {cursor.position:,} of its header is not UTF-8") from None


def check_gguf_package() -> None:
    """Refuse to go on without the package that knows the tensor types.

    Raises:
        InputError: with the extra that brings it.
    """
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise InputError(
            "GGUF files are read with the package gguf, which is not installed",
            remedy="pip install 'quail-lightning[gguf]'",
        )


class _EndError(Exception):
    """The header says more than there is."""


class _Cursor:
    """Reads values one after the other.

    Args:
        memory: the file.
        position: of the next byte.
    """

    def __init__(self, memory: mmap.mmap, position: int) -> None:
        self._memory, self.position = memory, position

    def numbers(self, letter: str, count: int = 1) -> tuple[Any, ...]:
        """So many numbers of one of ``struct``'s types."""
        start = self._pass(count * struct.calcsize(f"<{letter}"))
        return struct.unpack_from(f"<{count}{letter}", self._memory, start)

    def text(self) -> str:
        """A length in eight bytes, then UTF-8."""
        start = self._pass(self.numbers("Q")[0])
        return self._memory[start : self.position].decode("utf-8")

    def value(self, kind: int) -> Any:
        """A value of one of GGUF's types.

        Raises:
            ValueError: there is no such type, or an array of arrays, which no key has.
        """
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.numbers(_letter(kind))[0]
        (inner,), (count,) = self.numbers("I"), self.numbers("Q")
        if inner == STRING:
            return [self.text() for _ in range(count)]
        return list(self.numbers(_letter(inner), count))

    def _pass(self, count: int) -> int:
        start = self.position
        if count > len(self._memory) - start:
            raise _EndError
        self.position = start + count
        return start


def _letter(kind: int) -> str:
    if kind not in NUMBERS:
        raise ValueError(f"it has a value of the unknown type {kind}")
    return NUMBERS[kind]


def _read(file: Path, cursor: _Cursor, length: int) -> GgufHeader:
    (version,) = cursor.numbers("I")
    if version not in VERSIONS:
        big_endian = struct.unpack("<I", struct.pack(">I", version))[0] in VERSIONS
        raise InputError(
            f"{file} is a GGUF file of {'big-endian byte order' if big_endian else f'version {version}'}",
            allowed=f"little-endian, version {' or '.join(map(str, VERSIONS))}",
            remedy="Convert it anew by a current llama.cpp",
        )
    tensor_count, pair_count = cursor.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.text()
        if key in metadata:
            raise damaged(file, f"it says {key} twice")
        try:
            metadata[key] = cursor.value(cursor.numbers("I")[0])
        except ValueError as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            raise damaged(file, f"{error} ({key})") from None
    described = [_described(file, cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment.bit_count() != 1:
        raise damaged(file, f"its alignment is {alignment}, which is no power of two")
    data = -(-cursor.position // alignment) * alignment
    return GgufHeader(file, metadata, _placed(file, described, data, length))


def _described(file: Path, cursor: _Cursor) -> tuple[str, GgufTensor]:
    """A tensor's name, and what is said of it; its offset is that within the data."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name, (count,) = cursor.text(), cursor.numbers("I")
    if count > MOST_SIZES:
        raise damaged(file, f"{name} has {count} sizes")
    shape = cursor.numbers("Q", count)[::-1]
    (kind,), (offset,) = cursor.numbers("I"), cursor.numbers("Q")
    try:
        type_ = GGMLQuantizationType(kind)
        block, size = GGML_QUANT_SIZES[type_]
    except (ValueError, KeyError):
        raise InputError(
            f"{name} in {file} is of a type that the installed package gguf does not know",
            given=kind,
            remedy="Install a newer one (pip install -U gguf), or take a file of another quantization",
        ) from None
    if not shape or shape[-1] % block or not all(shape):
        raise damaged(file, f"{name} has sizes {list(shape)}, which {type_.name} cannot have")
    return name, GgufTensor(type_.name, shape, offset, math.prod(shape) // block * size)


def _placed(file: Path, described: list[tuple[str, GgufTensor]], data: int, length: int) -> dict[str, GgufTensor]:
    """The tensors by name, with offsets within the file, none beyond its end and no two in one place."""
    tensors: dict[str, GgufTensor] = {}
    for name, tensor in described:
        if name in tensors:
            raise damaged(file, f"it holds {name} twice")
        tensors[name] = tensor._replace(offset=data + tensor.offset)
    end = max((tensor.offset + tensor.size for tensor in tensors.values()), default=0)
    if end > length:
        raise damaged(file, f"it has {length:,} of {end:,} bytes")
    before, free = "", data
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset < free:
            raise damaged(file, f"{name} begins within {before}")
        before, free = name, tensor.offset + tensor.size
    return tensors
