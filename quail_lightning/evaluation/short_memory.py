"""An evaluation that needs more memory than there is, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quail_lightning.errors import RunError
from quail_lightning.out_of_memory import first_line, is_out_of_memory

FROM = "evaluation.suite.batch_size; of `quail evaluate` --batch_size, of keeping the best best.batch_size"


@contextmanager
def explained_memory(rows: int, what: str, tokens: int, shorter: str) -> Iterator[None]:
    """Let a pass that memory is too short for say what to change.

    Args:
        rows: that go through the model together.
        what: they are, in the plural.
        tokens: of the longest, with what is generated.
        shorter: which option makes them shorter.

    Raises:
        RunError: memory is short inside; other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        remedies = [f"a batch size of {rows // 2} ({FROM})"] if rows > 1 else []
        remedies += [f"fewer tokens than {tokens} ({shorter})", "a device with more memory"]
        raise RunError(
            f"memory is short in the evaluation, with {rows} {what} of {tokens} tokens at once: "
            f"{first_line(error)}",
            remedy="Change, in this order: " + "; ".join(remedies),
        ) from error
