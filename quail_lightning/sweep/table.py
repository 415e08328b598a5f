"""A sweep's trials as a table: on the terminal while it runs, and as CSV."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table
from rich.text import Text

from quail_lightning.run.tables import output_console
from quail_lightning.storage.durable import replace_text
from quail_lightning.sweep.front import on_front
from quail_lightning.sweep.space import Space
from quail_lightning.sweep.study import REASON, origin, slots
from quail_lightning.sweep.worker import FIGURES

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

REFRESH = 5.0  # seconds between two readings of the storage
STATES = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
DIED = "its workers died"


def trials_table(trials: Sequence[FrozenTrial], space: Space, total: int, title: str) -> Table:
    """What each trial tries and found.

    Args:
        trials: the last attempt of each.
        space: what is tried.
        total: how many trials there are to be.
        title: above it.
    """
    front, ended = on_front(trials), sum(trial.state.is_finished() for trial in trials)
    table = Table(title=Text(f"{title}: {ended} of {total} trials"))
    for heading in ("trial", "state", *space.options, "epoch", "forgetting gap", "utility kept", "front"):
        table.add_column(heading, justify="left" if heading in ("state", "front") else "right")
    for trial in trials:
        epoch, gap, kept = (trial.user_attrs.get(name) for name in FIGURES[:3])
        table.add_row(
            str(origin(trial)),
            STATES[trial.state.name],
            *(_short(trial.params[key]) if key in trial.params else "" for key in space.options),
            "" if epoch is None else str(epoch),
            "" if gap is None else f"{gap:.3f}",
            "" if kept is None else f"{kept:.1%}",
            "yes" if origin(trial) in front else "",
        )
    table.caption = (
        "forgetting gap: what is missing from the goal's forget NLL, nats a token; utility kept: the target's "
        "retain perplexity over the trial's; both on validation windows, at the worst format, of the best epoch"
    )
    return table


def reasons(trials: Sequence[FrozenTrial]) -> list[str]:
    """A line for each trial that failed."""
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    return [f"trial {origin(trial)} failed: {trial.user_attrs.get(REASON, DIED)}" for trial in failed]


def write_csv(path: Path, trials: Sequence[FrozenTrial], space: Space, folder: Callable[[int], Path]) -> None:
    """Write all trials with every figure.

    Args:
        path: of the file.
        trials: the last attempt of each.
        space: what is tried.
        folder: a trial's run folder by its number.
    """
    front, text = on_front(trials), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *space.options, *FIGURES, "front", "folder", "reason"])
    for trial in trials:
        number = origin(trial)
        writer.writerow(
            [
                number,
                STATES[trial.state.name],
                *(trial.params.get(key) for key in space.options),
                *(trial.user_attrs.get(name) for name in FIGURES),
                number in front,
                folder(number),
                trial.user_attrs.get(REASON, DIED if trial.state.name == "FAIL" else ""),
            ]
        )
    replace_text(path, text.getvalue())


class LiveTable:
    """The table on a terminal, drawn anew; where the output is none, a line for what happens."""

    def __init__(self, study: Study, space: Space, total: int, title: str) -> None:
        self._study, self._space, self._total, self._title = study, space, total, title
        self._console = output_console()
        self._live: Live | None = None
        self._read_at = -REFRESH

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Something happened."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()
        self._read_at = -REFRESH

    def look(self) -> None:
        """Time has passed."""
        if self._live is None or time.monotonic() - self._read_at < REFRESH:
            return
        self._read_at = time.monotonic()
        trials = slots(self._study.get_trials(deepcopy=False))
        self._live.update(trials_table(trials, self._space, self._total, self._title), refresh=True)

    def finish(self) -> None:
        """Print the table as it is at the end, and why trials failed."""
        trials = slots(self._study.get_trials(deepcopy=False))
        self._console.print(trials_table(trials, self._space, self._total, self._title))
        for line in reasons(trials):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
