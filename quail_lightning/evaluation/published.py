"""What the papers published, and a run's own figures beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from quail_lightning.configuration.bounded_yaml import read_yaml
from quail_lightning.errors import InputError
from quail_lightning.run.results import Estimate, Measure, ResultRow, measure_as_json

FILE = Path(__file__).with_suffix(".yaml")
MEASURES = ("verbmem_forget", "knowmem_forget", "privleak", "knowmem_retain")
"""M1 to M4, in the order of the file."""


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table, with the rows of its target and its retrained model.

    Attributes:
        name: ``failure/news/ga_gdr``: paper, corpus, row.
        source: paper, corpus and table.
        setting: option → value that a run has in common with the row.
        notes: where the published code departs from its paper.
        figures: (model, precision) → measure → figure, × 100.
    """

    name: str
    source: str
    setting: Mapping[str, Any]
    notes: tuple[str, ...]
    figures: Mapping[tuple[str, str], Mapping[str, float]]

    def differing(self, setting: Mapping[str, Any]) -> list[str]:
        """Where a run's setting is not the row's, one sentence's part an option; see ``setting``."""
        return [
            f"{option} is {setting[option]}, there {value}"
            for option, value in self.setting.items()
            if setting[option] != value
        ]


@dataclass(frozen=True)
class Compared:
    """One published figure and the same measure of a run.

    Attributes:
        model, precision, measure: of what.
        published: × 100.
        here: the run's measure; None where it was not run.
    """

    model: str
    precision: str
    measure: str
    published: float
    here: Measure | None

    @property
    def difference(self) -> float | None:
        """Here minus published; None where there is no figure here."""
        return self.here.value - self.published if isinstance(self.here, Estimate) else None


def published_rows() -> list[str]:
    """The names of all rows, those that cannot be reproduced among them."""
    return [f"{paper}/{row}" for paper, found in _content()["papers"].items() for row in found["rows"]]


def published_row(name: str) -> PublishedRow:
    """One row of the published tables.

    Args:
        name: paper, corpus and row, such as ``quail/news/ga_gdr_l1-alpha5-gamma8``.

    Raises:
        InputError: there is no such row, or its figures cannot be reproduced.
    """
    known = published_rows()
    if name not in known:
        raise InputError(
            "evaluation.published names no row of the published tables",
            given=name,
            allowed=", ".join(get_close_matches(name, known, n=6) or known),
            remedy="Or null, which sets no published figures beside the run's",
        )
    paper, _, row = name.rpartition("/")
    content = _content()
    found = content["papers"][paper]
    if why := found.get("not_reproducible"):
        raise InputError(
            f"no figures can be set beside those of evaluation.published {name!r}: {why}",
            remedy="Set evaluation.published to null",
        )
    own = dict(found["rows"][row])
    source, setting = f"{found['source']}, {own.pop('table')}", found["setting"] | own.pop("setting")
    notes = [content["departures"].get(part) for part in setting["method"].split("_")]
    figures = {
        (model, precision): dict(zip(MEASURES, values, strict=True))
        for model, by_precision in (found["baselines"] | {"unlearned": own}).items()
        for precision, values in by_precision.items()
    }
    return PublishedRow(name, source, setting, tuple(filter(None, notes)), figures)


def compare(published: PublishedRow, rows: Sequence[ResultRow]) -> list[Compared]:
    """Every published figure of a model and a precision that a run has evaluated, in the order of its rows.

    Args:
        published: the row.
        rows: one for each model and precision.
    """
    return list(_compared(published, rows))


def as_json(published: PublishedRow, compared: Sequence[Compared]) -> dict[str, object]:
    """For ``results.json``; a figure that was not measured is absent."""
    return {
        "row": published.name,
        "source": published.source,
        "notes": list(published.notes),
        "figures": [_figure_as_json(each) for each in compared],
    }


def _figure_as_json(each: Compared) -> dict[str, object]:
    found: dict[str, object] = {"model": each.model, "precision": each.precision, "metric": each.measure}
    found["published"] = each.published
    if each.here is not None:
        found["here"] = measure_as_json(each.here)
    return found if each.difference is None else found | {"difference": each.difference}


def _compared(published: PublishedRow, rows: Sequence[ResultRow]) -> Iterator[Compared]:
    for row in rows:
        for measure, figure in published.figures.get((row.model, row.precision), {}).items():
            yield Compared(row.model, row.precision, measure, figure, row.metrics.get(measure))


@cache
def _content() -> dict[str, Any]:
    return read_yaml(FILE)
