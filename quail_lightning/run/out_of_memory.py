"""Whether an error means that memory is short, on an accelerator or in the machine."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """The CPU's allocator raises a plain RuntimeError, which is known by its message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """What an error says, without the advice for developers that follows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
