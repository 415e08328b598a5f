"""Finished metrics on disk, so that an evaluation can be interrupted, repeated and extended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.durable import replace_text, write_json
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, write_log
from quail_lightning.results import Estimate, Measure, Undefined

VERSION = 3  # raised when a metric's definition changes, which makes all that is stored stale
MEASURES = "measures.json"


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
    """What was measured of one model at one precision.

    ``<root>/parts/<key>/`` holds one finished part: ``measures.json``, the responses and per-text scores in MUSE's
    log layout, and ``about.json``. The key is made of everything that decides the part's figures and of nothing
    else: ``about`` (digests of weights and tokenizer, the quantizer's settings), the part's records and those
    settings of the suite that it depends on. So another choice of attacks leaves the responses finished. A damaged
    part is not taken for finished.

    ``<root>/<key>/`` brings the logs of the parts of one evaluation together, as ``--from-log`` takes them.

    Attributes:
        root: of all evaluations.
        about: JSON; what decides the figures of every part.
    """

    root: Path
    about: Mapping[str, Any]

    def part_folder(self, part: str, records: EvaluationRecords, settings: Mapping[str, Any]) -> Path:
        """Where a part lies, or is to lie.

        Args:
            part: its name, see ``parts``.
            records: its own.
            settings: of the suite, those that decide this part's figures.
        """
        key = digest([VERSION, self.about, part, settings, repr(records)])[:16]
        return self.root / "parts" / key

    def read(
        self, part: str, records: EvaluationRecords, settings: Mapping[str, Any]
    ) -> dict[str, Measure] | None:
        """The part's measures with their per-record scores; None where it is yet to be run."""
        try:
            folder = self.part_folder(part, records, settings)
            content = json.loads((folder / MEASURES).read_text("utf-8"))
            if not all((folder / name / "log.json").is_file() for name in content["logs"]):
                return None
            return {name: _measure(row) for name, row in content["measures"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(
        self,
        part: str,
        records: EvaluationRecords,
        settings: Mapping[str, Any],
        measures: Mapping[str, Measure],
        log: BenchmarkLog,
    ) -> None:
        """Keep a finished part. Its measures come last, so that what they vouch for is there."""
        folder = self.part_folder(part, records, settings)
        described = {"part": part, "settings": settings, "records_sha256": digest(repr(records))}
        write_json(folder / "about.json", dict(self.about) | described)
        write_log(folder, log)
        logs = sorted(path.parent.name for path in folder.glob("*/log.json"))
        kept = {name: _as_json(measure) for name, measure in measures.items()}
        write_json(folder / MEASURES, {"logs": logs, "measures": kept})

    def gather(self, folders: Mapping[str, Path]) -> Path:
        """One folder with the logs of several parts.

        Args:
            folders: part → where it lies.
        """
        names = {part: folder.name for part, folder in folders.items()}
        gathered = self.root / digest(names)[:16]
        for folder in folders.values():
            for path in folder.glob("*/log.json"):
                copy = gathered / path.parent.name / path.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                replace_text(copy, path.read_text("utf-8"))
        write_json(gathered / "about.json", dict(self.about) | {"parts": names})
        return gathered


def _measure(row: Mapping[str, Any]) -> Measure:
    if "reason" in row:
        return Undefined(row["reason"])
    return Estimate(row["value"], row["n"], row["low"], row["high"], tuple(row["scores"]))


def _as_json(measure: Measure) -> dict[str, Any]:
    if isinstance(measure, Undefined):
        return {"reason": measure.reason}
    return {key: getattr(measure, key) for key in ("value", "n", "low", "high", "scores")}
