"""Finished metrics on disk, so that an evaluation can be interrupted, repeated and extended."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from quail_lightning.evaluation.benchmark_log import BenchmarkLog, write_log
from quail_lightning.evaluation.metrics import Asked, Metric
from quail_lightning.run.results import Measure, measure_from_json, scored_json
from quail_lightning.storage.durable import partial_name, publish_or_keep, remove, replace_text, write_json
from quail_lightning.storage.privacy import private_folder
from quail_lightning.storage.vouched import DamagedError, digest, load_vouched, write_vouched

VERSION = 4  # of what is common to all parts; a metric has its own
MEASURES = "measures.json"
ABOUT = "about.json"


@dataclass(frozen=True)
class FinishedMetrics:
    """What was measured of one model at one precision.

    ``<root>/parts/<key>/`` holds one finished part: ``measures.json``, the responses and per-text scores in MUSE's
    log layout, and ``about.json``. The key is made of everything that decides the part's figures and of nothing
    else: ``about`` (digests of weights and tokenizer, the quantizer's settings), the part's records and those
    settings of the suite that it depends on. So another choice of attacks leaves the responses finished. A part is
    what one metric gives.

    ``measures.json`` holds the key, the digest of every other file and one of itself. A part that was edited,
    damaged or put there from elsewhere is not taken for finished, which is said; the next ``write`` replaces it.
    A folder gets its name when all of it is written, so that two evaluations at once do not mix.

    ``<root>/<key>/`` brings the logs of the parts of one evaluation together, as ``--from-log`` takes them.

    Attributes:
        root: of all evaluations.
        about: JSON; what decides the figures of every part.
        engine: JSON; what answers prompts where the model in memory does not. It decides the parts that are made
            of responses, so that those of two engines are not mixed, and no others.
    """

    root: Path
    about: Mapping[str, Any]
    engine: Mapping[str, Any] | None = None

    def part_folder(self, metric: Metric, asked: Asked) -> Path:
        """Where what one metric gives lies, or is to lie."""
        return self.root / "parts" / self._key(metric, asked)[:16]

    def read(self, metric: Metric, asked: Asked) -> dict[str, Measure] | None:
        """A metric's measures with their per-record scores; None where it is yet to be run."""
        folder = self.part_folder(metric, asked)
        try:
            return _measures(folder, self._key(metric, asked))
        except DamagedError as problem:
            print(
                f"finished part {folder} ({metric.name}): {problem}; it is run again", file=sys.stderr, flush=True
            )
            return None

    def write(self, metric: Metric, asked: Asked, measures: Mapping[str, Measure], log: BenchmarkLog) -> None:
        """Keep what a metric gave, with what it read of the model."""
        key = self._key(metric, asked)
        about = {"part": metric.name, "version": metric.version, "settings": asked.suite.deciding(metric)}
        described = about | {"records_sha256": digest(_read(metric, asked))}

        def fill(folder: Path) -> None:
            write_json(folder / ABOUT, self._deciding(metric) | described, private=True)
            write_log(folder, log)
            kept = {name: scored_json(measure) for name, measure in measures.items()}
            write_vouched(folder / MEASURES, {"key": key, "files": _digests(folder), "measures": kept})

        self._publish(self.part_folder(metric, asked), fill, partial(_is_intact, key=key))

    def gather(self, folders: Mapping[str, Path]) -> Path:
        """One folder with the logs of several parts.

        Args:
            folders: part → where it lies.
        """
        names = {part: folder.name for part, folder in folders.items()}
        gathered = self.root / digest(names)[:16]
        logs = {
            path.relative_to(folder): path for folder in folders.values() for path in folder.glob("*/log.json")
        }

        def fill(folder: Path) -> None:
            for name, path in logs.items():
                private_folder((folder / name).parent, self.root)
                replace_text(folder / name, path.read_text("utf-8"), private=True)
            write_json(folder / ABOUT, dict(self.about) | {"parts": names}, private=True)

        wanted = {str(name): _digest(path) for name, path in logs.items()}
        self._publish(gathered, fill, lambda folder: _digests(folder, but=ABOUT) == wanted)
        return gathered

    def _key(self, metric: Metric, asked: Asked) -> str:
        settings = asked.suite.deciding(metric)
        about = self._deciding(metric)
        return digest([VERSION, about, metric.name, metric.version, settings, _read(metric, asked)])

    def _deciding(self, metric: Metric) -> dict[str, Any]:
        """``about``, with the engine where a metric's figures are the engine's."""
        answered = self.engine is not None and metric.by_responses
        return dict(self.about) | ({"engine": dict(self.engine or {})} if answered else {})

    def _publish(self, folder: Path, fill: Callable[[Path], None], is_good: Callable[[Path], bool]) -> None:
        """Write a folder under a name of its own and give it its name, unless another process did meanwhile."""
        new = private_folder(partial_name(folder), self.root)
        try:
            fill(new)
            publish_or_keep(new, folder, is_good)
        finally:
            remove(new)


def _read(metric: Metric, asked: Asked) -> str:
    """Everything that the metric reads."""
    windows = {name: hashlib.sha256(rows.numpy().tobytes()).hexdigest() for name, rows in asked.windows.items()}
    return repr([windows if name == "windows" else getattr(asked.records, name) for name in metric.reads])


def _measures(folder: Path, key: str) -> dict[str, Measure] | None:
    """What a part's folder holds; None where there is none.

    Raises:
        DamagedError: it is not what was written under this key.
    """
    try:
        content = load_vouched(folder / MEASURES)
    except FileNotFoundError:
        if not os.path.lexists(folder):
            return None
        raise DamagedError(f"{MEASURES} is missing") from None
    if content.get("key") != key:
        raise DamagedError("it is another part's")
    try:
        found, wanted = _digests(folder, but=MEASURES), dict(content["files"])
        measures = {name: measure_from_json(row) for name, row in content["measures"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedError(f"{MEASURES} has the wrong form") from None
    if differing := sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name)):
        raise DamagedError(f"{', '.join(differing)} was edited, or is missing")
    return measures


def _is_intact(folder: Path, key: str) -> bool:
    try:
        return _measures(folder, key) is not None
    except DamagedError:
        return False


def _digests(folder: Path, but: str = "") -> dict[str, str]:
    """Name → digest of the files of a part, or of gathered parts; of what cannot be read, why."""
    paths = [folder / ABOUT, folder / MEASURES, *folder.glob("*/log.json")]
    return {str(path.relative_to(folder)): _digest(path) for path in paths if path.exists() and path.name != but}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return str(error)
