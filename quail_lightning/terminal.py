"""Keep the terminal for what the user asked for."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback


def quiet_libraries() -> None:
    """Silence the advertising and the per-file progress bars of libraries; errors and real warnings stay."""
    # transformers imports torchao, which reports kernels for other machines and an enum registered twice;
    # llm-compressor traces the model, of which torch says how a function will be named
    for name in ("torchao", "torch.utils._pytree", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # torch's pytree deprecation, raised inside lightning at every batch transfer
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")
    # the windows lie in memory, so there is nothing for workers to do
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_is_no_tip)


def progress_bars(trainer_options: Mapping[str, Any]) -> list[Callback]:
    """The Trainer's progress bar, unless its options bring one or refuse it.

    tqdm's and not Lightning's default: it also writes where the output is no terminal, and the evaluation's own
    bar can stand below it.
    """
    from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

    given = trainer_options.get("callbacks") or []
    if trainer_options.get("enable_progress_bar") is False or any(isinstance(c, ProgressBar) for c in given):
        return []
    return [TQDMProgressBar()]


PATIENCE = 3.0  # seconds that a step may take before it is named
SELDOM = 15.0  # seconds to the second time; later ones come after twice the time that has passed


_silent_since: float | None = None  # a command's start, until its first step was named
_under_way: list[threading.Event] = []  # steps, the innermost last; each is set when it has ended


def begin_command() -> None:
    """Let the first line come ``PATIENCE`` after now, however many quick steps fill that time."""
    global _silent_since
    _silent_since = time.monotonic()


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say on stderr what is under way if it takes long, and for how long; quick steps stay silent.

    Whoever waits sees within seconds that something happens, on a terminal or in a log, however slow the machine.

    Args:
        what: is done inside, such as "loading checkpoints/target".
    """
    if any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        yield  # the first process says it
        return
    ended = threading.Event()
    _under_way.append(ended)
    threading.Thread(target=_say_until, args=(ended, what), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        _under_way.remove(ended)


def _say_until(ended: threading.Event, what: str) -> None:
    global _silent_since
    began, pause = time.monotonic(), PATIENCE
    if _silent_since is not None:
        pause = max(0.2, _silent_since + PATIENCE - began)
    while not ended.wait(pause):
        if _under_way[-1:] != [ended]:
            pause = PATIENCE
            continue  # the step inside this one says more
        passed = time.monotonic() - began
        _silent_since = None
        _write_line(f"{what} ..." + (f" ({passed:.0f} s)" if passed >= 1 else ""))
        pause = max(SELDOM, passed)


def _write_line(line: str) -> None:
    bars = sys.modules.get("tqdm")
    if bars is None:
        print(line, file=sys.stderr, flush=True)
    else:
        bars.tqdm.write(line, file=sys.stderr)  # above a bar that is shown, not into it
        sys.stderr.flush()


@contextmanager
def transient_bars() -> Iterator[None]:
    """Let every tqdm bar that libraries open vanish when it is full, and show none where there is no terminal."""
    from tqdm import tqdm

    original = tqdm.__init__

    def opened(self: Any, *args: Any, **kwargs: Any) -> None:
        shown = {"disable": kwargs.get("disable") or None, "leave": False}  # None: only on a terminal
        original(self, *args, **kwargs | shown)

    tqdm.__init__ = opened
    try:
        yield
    finally:
        tqdm.__init__ = original


def _is_no_tip(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "Tip:" not in message and not message.startswith(("TPU available", "GPU available: False"))
