"""How a command ends: one line and an exit status for everything that is the user's to mend."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Iterator

from quail_lightning.errors import InputError, RunError, hint_of, sentences
from quail_lightning.storage.durable import write_failure

BAD_INPUT, CANNOT_GO_ON, INTERRUPTED = 2, 1, 130
# of a path that was given or of its disk; any other number is a fault of the program
_OF_PATHS = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTEMPTY,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
)


def ending(error: BaseException, go_on: str) -> tuple[str, int] | None:
    """What to say of an error, and the exit status; None where it is a fault of the program.

    Args:
        error: that ended the command.
        go_on: how the verb is gone on with; an error's own hint counts before it.
    """
    chain = list(_causes(error))
    go_on = next(filter(None, map(hint_of, chain)), go_on)
    for each in chain:
        if isinstance(each, KeyboardInterrupt):
            return sentences("interrupted", go_on), INTERRUPTED
        if isinstance(each, InputError):
            return f"error: {each}", BAD_INPUT
        if isinstance(each, RunError):
            return sentences(f"error: {each}", next(filter(None, map(hint_of, chain)), "")), CANNOT_GO_ON
        if (failure := write_failure(each)) is not None:
            return sentences(f"error: {failure[0]}", failure[1], go_on), CANNOT_GO_ON
        if isinstance(each, OSError) and each.errno in _OF_PATHS:
            where = f"{each.filename}: " if each.filename else ""
            return f"error: {where}{each.strerror}.", CANNOT_GO_ON
    # what follows asks libraries that need seconds to be imported; those that raised are imported
    if "torch" in sys.modules:
        from quail_lightning.run.out_of_memory import first_line, is_out_of_memory

        if short := next(filter(is_out_of_memory, chain), None):
            remedy = "Take smaller batches (batch_size, micro_batch_size) or shorter windows"
            return sentences(f"error: memory is short ({first_line(short)})", remedy, go_on), CANNOT_GO_ON
    if "lightning.pytorch" in sys.modules:
        from quail_lightning.run.trainer_options import is_refusal, refusal

        if refused := next(filter(is_refusal, chain), None):
            return f"error: {refusal(refused, {})}", BAD_INPUT
    return None


def report_thread(failed: threading.ExceptHookArgs) -> None:
    """A hook for errors of threads, such as the one that writes TensorBoard's events: a full disk is one line."""
    failure = None if failed.exc_value is None else write_failure(failed.exc_value)
    if failure is None:
        threading.__excepthook__(failed)
    else:
        print(f"\nlogging has stopped: {failure[0]}", file=sys.stderr, flush=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those it came of, the outermost first."""
    each: BaseException | None = error
    while each is not None:
        yield each
        # Lightning answers Ctrl-C by SystemExit(1), without saying that it came of it
        interrupted = isinstance(each, SystemExit) and isinstance(each.__context__, KeyboardInterrupt)
        each = each.__context__ if interrupted else each.__cause__
