"""What an examination found, one line each, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from rich.table import Table
from rich.text import Text

State = Literal["ok", "note", "absent", "blocks"]


class Finding(NamedTuple):
    """One line.

    Attributes:
        section: heading that it stands under.
        name: of what was looked at.
        value: what was found.
        state: ``ok``; ``note``, worth knowing; ``absent``, of what can be done without; ``blocks``, the run cannot
            be, or the program cannot work.
        remedy: what to do about it; empty for nothing.
    """

    section: str
    name: str
    value: str
    state: State = "ok"
    remedy: str = ""


def table_of(findings: Iterable[Finding]) -> Table:
    """The findings of one section."""
    rows = list(findings)
    table = Table(title=rows[0].section, title_justify="left", show_header=False, expand=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        said = f"{row.value.rstrip('.')}. {row.remedy}" if row.remedy else row.value
        # as it stands: rich would take [gguf] for markup
        table.add_row(row.name, Text("" if row.state == "ok" else row.state), Text(said))
    return table


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """``ok``, whether nothing blocks, and the findings by section."""
    rows = list(findings)
    sections: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        own = {name: value for name, value in row._asdict().items() if name != "section"}
        sections.setdefault(row.section, []).append(own)
    return {"ok": all(row.state != "blocks" for row in rows), "sections": sections}
