"""What the models said: kept beside a run's figures for its owner alone, and three answers shown side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table
from rich.text import Text

from quail_lightning.evaluation.benchmark_log import BenchmarkLog, write_log
from quail_lightning.evaluation.metrics.verbatim import RESPONSES
from quail_lightning.storage.durable import write_json
from quail_lightning.storage.privacy import private_folder

FOLDER = "responses"
SHOWN = 3
CHARACTERS = 160  # of a text in the table

Logs = Mapping[tuple[str, str], BenchmarkLog]  # (model, precision) → what it said


def keep_evidence(folder: Path, logs: Logs) -> None:
    """Write every response and per-text score to ``<folder>/responses/<model>-<precision>``, in MUSE's log layout.

    What stood there is replaced. The files are readable for their owner alone; ``quail clean`` removes them.
    """
    root = folder / FOLDER
    for (model, precision), log in logs.items():
        place = private_folder(root / f"{model}-{precision}", root)
        write_json(place / "about.json", {"responses_of": model, "precision": precision}, private=True)
        write_log(place, log)


def evidence_table(logs: Logs) -> Table | None:
    """The first continuations of forget texts, true and as each model gave them; None where none was asked for.

    Args:
        logs: those that are shown, over the same records.
    """
    said = {name: log.responses.get(RESPONSES, ())[:SHOWN] for name, log in logs.items()}
    said = {name: rows for name, rows in said.items() if rows}
    if not said:
        return None
    table = Table(title="what is said after three forget texts", show_lines=True)
    table.add_column("", no_wrap=True)
    truths = next(iter(said.values()))
    for number in range(len(truths)):
        table.add_column(f"text {number + 1}", ratio=1)
    table.add_row("truth", *(Text(_short(row.truth)) for row in truths))
    for (model, precision), rows in said.items():
        table.add_row(f"{model}\n{precision}", *(Text(_short(row.response)) for row in rows))
    return table


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= CHARACTERS else plain[: CHARACTERS - 1] + "…"
