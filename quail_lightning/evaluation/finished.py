"""Finished metrics on disk, so that an evaluation can be interrupted, repeated and extended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.durable import write_json
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, write_log
from quail_lightning.results import Estimate, Measure, Undefined

VERSION = 1  # raised when a metric's definition changes, which makes all that is stored stale


def parts(records: EvaluationRecords) -> Iterator[tuple[str, EvaluationRecords]]:
    """(name, records) of each kind of records that is there, one at a time: what is run and stored by itself."""
    for field in fields(records):
        value = getattr(records, field.name)
        if value is not None and field.name != "note":
            yield field.name, replace(EvaluationRecords(), **{field.name: value})


def digest(content: Any) -> str:
    """SHA-256 of a value by its JSON, or by its ``repr`` where it is no JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()


@dataclass(frozen=True)
class FinishedMetrics:
    """What was measured of one model at one precision under one protocol.

    ``<root>/<key>/`` holds ``about.json``, ``<part>.json`` for each finished part, and the responses and
    per-text scores in MUSE's log layout. The key is made of everything in ``about`` that decides a result: the
    digests of weights and tokenizer, the quantizer's settings, protocol and limits. Each part also holds the
    digest of its records; one made of other records is not taken for finished, nor is a damaged one.

    Attributes:
        root: of all evaluations.
        about: JSON; what decides the results.
    """

    root: Path
    about: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where this model's results lie."""
        return self.root / digest([VERSION, self.about])[:16]

    def read(self, part: str, records: EvaluationRecords) -> dict[str, Measure] | None:
        """The part's measures with their per-record scores; None where it is yet to be run."""
        try:
            content = json.loads((self.folder / f"{part}.json").read_text("utf-8"))
            if content["records"] != digest(repr(records)):
                return None
            return {name: _measure(row) for name, row in content["measures"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(
        self, part: str, records: EvaluationRecords, measures: Mapping[str, Measure], log: BenchmarkLog
    ) -> None:
        """Keep a finished part. Its own file comes last, so that what it vouches for is there."""
        write_json(self.folder / "about.json", dict(self.about))
        write_log(self.folder, log)
        rows = {name: _as_json(measure) for name, measure in measures.items()}
        write_json(self.folder / f"{part}.json", {"records": digest(repr(records)), "measures": rows})


def _measure(row: Mapping[str, Any]) -> Measure:
    if "reason" in row:
        return Undefined(row["reason"])
    return Estimate(row["value"], row["n"], row["low"], row["high"], tuple(row["scores"]))


def _as_json(measure: Measure) -> dict[str, Any]:
    if isinstance(measure, Undefined):
        return {"reason": measure.reason}
    return {key: getattr(measure, key) for key in ("value", "n", "low", "high", "scores")}
