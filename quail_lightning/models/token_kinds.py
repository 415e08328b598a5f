"""llama.cpp's kinds of tokens (``tokenizer.ggml.token_type``), by its numbers."""

from __future__ import annotations

from enum import IntEnum


class TokenKind(IntEnum):
    """One kind; llama.cpp decodes a token by it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6
