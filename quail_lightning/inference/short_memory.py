"""An evaluation that needs more memory than there is: smaller batches, and what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from quail_lightning.errors import RunError
from quail_lightning.run.out_of_memory import first_line, is_out_of_memory

FROM = (
    "evaluation.suite.batch_size; of `quail evaluate` and `quail alternates` --batch_size, "
    "of keeping the best best.batch_size"
)

Progress = Callable[[int, int], None]  # (done, total)


class ShortMemory(RunError):
    """Memory is short in a pass."""


def in_batches(
    order: Sequence[int],
    rows: Callable[[int], int],
    run: Callable[[list[int]], None],
    may_halve: bool,
    progress: Progress | None,
) -> None:
    """Work off numbers batch by batch; from a batch that memory is too short for on, half as many at once.

    Args:
        order: the numbers.
        rows: place in ``order`` → how many to take from there.
        run: takes a batch's numbers.
        may_halve: False lets the first short batch end it.
        progress: called after each batch.

    Raises:
        ShortMemory: by ``run``, where no smaller batch may be tried.
    """
    start, most = 0, len(order)
    while start < len(order):
        chosen = list(order[start : start + min(most, rows(start))])
        try:
            run(chosen)
        except ShortMemory:
            if len(chosen) == 1 or not may_halve:
                raise
            most = len(chosen) // 2
            continue
        start += len(chosen)
        if progress is not None:
            progress(start, len(order))


@contextmanager
def explained_memory(rows: int, what: str, tokens: int, shorter: str) -> Iterator[None]:
    """Let a pass that memory is too short for say what to change.

    Args:
        rows: that go through the model together.
        what: they are, in the plural.
        tokens: of the longest, with what is generated.
        shorter: which option makes them shorter.

    Raises:
        ShortMemory: memory is short inside; other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        remedies = [f"a batch size of {rows // 2} ({FROM})"] if rows > 1 else []
        remedies += [f"fewer tokens than {tokens} ({shorter})", "a device with more memory"]
        raise ShortMemory(
            f"memory is short in the evaluation, with {rows} {what} of {tokens} tokens at once: "
            f"{first_line(error)}",
            remedy="Change, in this order: " + "; ".join(remedies),
        ) from error
