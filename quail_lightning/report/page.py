"""Finished runs as one HTML file that needs nothing else: no script, no font, no request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from quail_lightning.errors import InputError
from quail_lightning.report.cells import (
    Grid,
    baselines_last,
    beside_one_another,
    beside_published,
    came_back,
    figures_at,
)
from quail_lightning.report.finished_run import FinishedRun
from quail_lightning.report.forgetting_utility import caption, draw_forgetting_utility
from quail_lightning.report.inline_svg import inline_svg
from quail_lightning.report.kept_responses import Kind, side_by_side
from quail_lightning.report.layer_delivery import LayerDelivery, delivered_by_layer
from quail_lightning.report.limits import limits_of
from quail_lightning.report.metric_choice import axes, key_measures
from quail_lightning.report.origins import Fact, all_packages, origins_of
from quail_lightning.report.same_corpus import notes_on
from quail_lightning.report.side_by_side import ANSWERS, names_of, precisions_of, rows_at
from quail_lightning.report.training_curves import draw_curves, read_curves
from quail_lightning.report.words import MEANINGS, QUESTIONS, Finding, finding

TEMPLATE = "page.html"
LAYERS = "of the update, by layer and format; the same figures stand in the table"
READ = {
    "arrives, %": "The share of the update that arrives in its own direction. The axis need not start at 0.",
    "cosine": "How alike in direction the update and what arrives of it are.",
}
NOT_ASKED = "Left out, as asked."


@dataclass(frozen=True)
class Chart:
    """A figure with what it shows.

    Attributes:
        svg: the element.
        caption: below it.
    """

    svg: Markup
    caption: str


@dataclass(frozen=True)
class RunSection:
    """All that the page says of one run.

    Attributes:
        anchor: of its heading.
        name: short.
        found: the verdicts in plain words.
        verdicts: precision → answers in the order of ``QUESTIONS``, and the program's own line.
        figures: a table a precision.
        back: what came back; None where no format was tested.
        delivered: what arrives of the update by layer; None where it could not be measured.
        delivered_charts: the same, drawn.
        delivered_notes: what was left out of it, or why there is none.
        published: None where there is none.
        source: of the published figures, and how the published code departs from its paper.
        curves: of the training.
        responses: None where they are left out.
        origins: where it comes from.
        packages: all of them.
        config: as it stands.
        note: of the run's results.
        limits: what the figures do not say.
    """

    anchor: str
    name: str
    found: Finding
    verdicts: Sequence[tuple[str, Sequence[str], str]]
    figures: Sequence[Grid]
    back: Grid | None
    delivered: Grid | None
    delivered_charts: Sequence[Chart]
    delivered_notes: Sequence[str]
    published: Grid | None
    source: Sequence[str]
    curves: Sequence[Chart]
    responses: Sequence[Kind] | None
    origins: Sequence[Fact]
    packages: Sequence[str]
    config: str
    note: str
    limits: Sequence[str]


def as_html(runs: Sequence[FinishedRun], with_responses: bool = False, with_layers: bool = True) -> str:
    """The page.

    Args:
        runs: of one corpus.
        with_responses: put prompts, true texts and answers into it, which are private text, folded away.
        with_layers: compare each run's model with its target, where both are on this machine.

    Raises:
        InputError: responses are wanted of a run that keeps none.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named = names_of(runs)
    sections = [
        _section(number, name, run, with_responses, with_layers)
        for number, (name, run) in enumerate(named.items(), 1)
    ]
    compared = []
    if len(runs) > 1:
        for precision in precisions_of(runs):
            rows = baselines_last(rows_at(runs, precision))
            said = {name: run.results.verdicts.get(precision, {}) for name, run in named.items()}
            answers = {
                heading: [said.get(row.model, {}).get(question, "") for row in rows]
                for question, heading in ANSWERS.items()
            }
            compared.append(beside_one_another(rows, key_measures(rows), answers, precision))
    context: dict[str, Any] = {
        "title": "Unlearning report: " + ", ".join(named),
        "sections": sections,
        "compared": compared,
        "notes": notes_on(runs),
        "planes": _planes(runs),
        "questions": list(QUESTIONS.items()),
        "meanings": MEANINGS,
    }
    return environment.get_template(TEMPLATE).render(context)


def _section(number: int, name: str, run: FinishedRun, with_responses: bool, with_layers: bool) -> RunSection:
    published = run.results.published
    verdicts = [
        (precision, [found.get(question, "unknown") for question in QUESTIONS], found.get("text", ""))
        for precision, found in run.results.verdicts.items()
    ]
    curves = [
        Chart(
            inline_svg(figure, f"r{number}c{count}", f"Line chart: {title}, by step"),
            f"{title[0].upper()}{title[1:]}. The vertical axis starts where the values do, not at 0.",
        )
        for count, (title, figure) in enumerate(draw_curves(read_curves(run.folder)).items(), 1)
    ]
    arrived = delivered_by_layer(run) if with_layers else LayerDelivery(None, {}, [NOT_ASKED])
    return RunSection(
        anchor=f"run-{number}",
        name=name,
        found=finding(run.results.verdicts, run.sixteen_bits),
        verdicts=verdicts,
        figures=[figures_at(run, precision) for precision in run.precisions],
        back=came_back(run),
        delivered=arrived.grid,
        delivered_charts=[
            Chart(inline_svg(figure, f"r{number}d{count}", f"Line chart: {title}, {LAYERS}"), READ[title])
            for count, (title, figure) in enumerate(arrived.figures.items(), 1)
        ],
        delivered_notes=arrived.notes,
        published=None if published is None else beside_published(published),
        source=[] if published is None else [f"Published: {published['source']}.", *published.get("notes", [])],
        curves=curves,
        responses=side_by_side(run) if with_responses else None,
        origins=origins_of(run),
        packages=all_packages(run),
        config=run.config_text,
        note=run.results.note,
        limits=limits_of(run),
    )


def _planes(runs: Sequence[FinishedRun]) -> list[Chart]:
    """Forgetting against utility, a figure a precision, for narrow screens; none where it has no axes."""
    try:
        axes(runs)
    except InputError:
        return []
    found = []
    for number, precision in enumerate(precisions_of(runs), 1):
        figure = draw_forgetting_utility(runs, [precision], captioned=False)
        said = f"Scatter chart of forgetting and utility at {precision}; the same figures stand in the tables"
        found.append(Chart(inline_svg(figure, f"p{number}", said), f"At {precision}. {caption(runs)}"))
    return found
