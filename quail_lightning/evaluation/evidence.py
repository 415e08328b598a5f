"""What the models said: kept beside a run's figures for its owner alone, and three answers shown side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response, write_log
from quail_lightning.evaluation.metrics.verbatim import RESPONSES
from quail_lightning.storage.durable import write_json
from quail_lightning.storage.privacy import make_private, private_folder

FOLDER, SAMPLES = "responses", "samples"
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


def keep_samples(folder: Path, logs: Logs, step: int) -> None:
    """Write what was said after three forget texts for TensorBoard, to a file of its own.

    It lies in ``<folder>/responses/samples``, readable for its owner alone: the run's other events hold figures
    and may be shown around, and stay where ``quail clean`` removes this.

    Args:
        folder: of the run.
        logs: those that are shown, over the same records.
        step: batches trained on.
    """
    said = _continuations(logs)
    if not said:
        return
    from torch.utils.tensorboard import SummaryWriter

    place = private_folder(folder / FOLDER / SAMPLES, folder / FOLDER)
    write_json(place / "about.json", {"responses_of": SAMPLES}, private=True)
    with SummaryWriter(str(place)) as writer:
        for number, truth in enumerate(next(iter(said.values()))):
            rows = {"prompt": truth.prompt, "truth": truth.truth}
            rows |= {" ".join(name): each[number].response for name, each in said.items()}
            lines = [f"| {name} | {_cell(text)} |" for name, text in rows.items() if text or name != "prompt"]
            writer.add_text(f"responses/text {number + 1}", "\n".join(["| | |", "|---|---|", *lines]), step)
    for path in place.iterdir():
        make_private(path)


def evidence_table(logs: Logs) -> Table | None:
    """The first continuations of forget texts, true and as each model gave them; None where none was asked for.

    Args:
        logs: those that are shown, over the same records.
    """
    said = _continuations(logs)
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


def _continuations(logs: Logs) -> dict[tuple[str, str], Sequence[Response]]:
    said = {name: log.responses.get(RESPONSES, ())[:SHOWN] for name, log in logs.items()}
    return {name: rows for name, rows in said.items() if rows}


def _cell(text: str) -> str:
    """Any text as one cell of a Markdown table."""
    return re.sub(r"([\\`*_|<>\[\]#~])", r"\\\1", " ".join(text.split()))


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= CHARACTERS else plain[: CHARACTERS - 1] + "…"
