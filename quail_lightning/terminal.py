"""Keep the terminal for what the user asked for."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm
from tqdm.utils import disp_len, disp_trim

WIDTH = 80  # columns of a line in a log
SOON, LATE = 5.0, 30.0  # seconds between two of them
FORMS = (
    " {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} {rate_fmt}, {remaining} left{postfix}",
    " {n_fmt}/{total_fmt} {rate_fmt}, {remaining} left{postfix}",
    " {n_fmt}/{total_fmt} {rate_fmt} <{remaining}{postfix}",
    " {n_fmt}/{total_fmt} {rate_fmt}{postfix}",
)
"""What a progress bar shows after its name, the fullest first."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
"""Variables by which a job's processes are told apart before they have a process group."""


def is_first_rank() -> bool:
    """Whether this process, of which no process group knows yet, is the first one of its job."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def quiet_libraries() -> None:
    """Silence the advertising and the per-file progress bars of libraries; errors and real warnings stay."""
    # transformers imports torchao, which reports kernels for other machines and an enum registered twice;
    # llm-compressor traces the model, of which torch says how a function will be named; bitsandbytes, which peft
    # imports, misses a package of kernels
    for name in ("torchao", "torch.utils._pytree", "torch.fx._symbolic_trace", "bitsandbytes.backends"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # torch's pytree deprecation, raised inside lightning at every batch transfer
    warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*")
    # CSVLogger's, where the run's folder holds its config already; no table is there (trackers.keep_table)
    warnings.filterwarnings("ignore", message=r"Experiment logs directory .* exists and is not empty.*")
    # the windows lie in memory, so there is nothing for workers to do
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_is_no_tip)


class Bar(tqdm):  # type: ignore[misc]  # the library has no annotations
    """A progress bar that never wraps; where the output is no terminal, a line now and then in its place.

    What does not fit is left out: first the bar itself, then the time left, then the start of the description. In
    a log a line follows each tenth of the way, but not ``SOON`` after the one before, and after ``LATE`` at the
    latest; what is done sooner leaves none.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        file = options.get("file") or sys.stderr
        self._drawn = bool(file.isatty())
        self._told_at, self._told = time.monotonic(), 0.0  # of the last line in a log: when, and share of the way
        if not self._drawn:
            options |= {"leave": False, "ncols": WIDTH}
        self._shown_at = time.time()
        super().__init__(*args, **{"leave": False, "dynamic_ncols": self._drawn} | options)

    def __str__(self) -> str:
        shown, text = dict(self.format_dict), ""
        width, name = shown["ncols"] or WIDTH, shown["prefix"].rstrip(": ")
        if not self.total and not self.n:
            return str(disp_trim(name, width))  # how much there is to do is not known yet
        for form in FORMS if self._drawn else FORMS[1:]:
            text = str(self.format_meter(**shown | {"prefix": "", "bar_format": form, "ncols": None}))
            if disp_len(name) + disp_len(text) <= width:
                return name + text
        while name and disp_len(name) + disp_len(text) >= width:
            name = name[1:]
        return str(disp_trim(f"…{name}{text}", width))

    def show(self, what: str, done: int, total: int) -> None:
        """Tell how far something is; what is named otherwise than before begins now."""
        if self.disable:
            return
        if what != self.format_dict["prefix"]:
            self.set_description_str(what, refresh=False)
            self.total, self.start_t = total, self._shown_at
        self._shown_at, self.n = time.time(), done
        self.refresh()

    def set_postfix(self, ordered_dict: Any = None, refresh: bool | None = True, **more: Any) -> None:
        """Numbers with their names, to two digits behind the point."""
        values = dict(ordered_dict or {}) | more
        self.set_postfix_str(
            " ".join(f"{name} {float(value):.2f}" for name, value in values.items()), bool(refresh)
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar, or write a line where that is due."""
        if self._drawn:
            return bool(super().display(msg, pos))
        share, now = (self.n / self.total if self.total else 0.0), time.monotonic()
        if share < self._told:  # begun again
            self._told = 0.0
        waited = now - self._told_at
        ends = share >= 1 and 0 < self._told < 1
        due = waited >= LATE or (waited >= SOON and share - self._told >= 0.1)
        if msg is None and self.n and (ends or due):
            self._told_at, self._told = now, share
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return False  # nothing to be wiped out

    def clear(self, *args: Any, **options: Any) -> None:
        """Wipe the bar out, where one is drawn."""
        if self._drawn:
            super().clear(*args, **options)


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
    if not is_first_rank():
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
    tqdm.write(line, file=sys.stderr)  # above a bar that is shown, not into it
    sys.stderr.flush()


@contextmanager
def transient_bars() -> Iterator[None]:
    """Let every tqdm bar that libraries open vanish when it is full, and show none where there is no terminal."""
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
