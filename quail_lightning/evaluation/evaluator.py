"""Model × precision × metric, in one place: one quantized copy at a time, and nothing finished is run twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from quail_lightning.attacks import Texts, attacked
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, holds_log, read_log
from quail_lightning.evaluation.finished import FinishedMetrics
from quail_lightning.evaluation.metrics import METRICS, Asked, Metric, Subject
from quail_lightning.evaluation.precision import Precision
from quail_lightning.inference.engine import Engine
from quail_lightning.inference.shares import shared_among
from quail_lightning.models.release import release_memory
from quail_lightning.quantization import computing, quantized_copy
from quail_lightning.run.processes import current_processes
from quail_lightning.run.results import Measure
from quail_lightning.terminal import step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[str, int, int], None]  # (what, done, total)
Result = TypeVar("Result")
Opening = Callable[[], AbstractContextManager[Engine]]
"""Has a model loaded by an engine for as long as the block lasts."""


@dataclass(frozen=True)
class Evaluated:
    """One model at one precision.

    Attributes:
        measures: of all metrics.
        folder: their log, in MUSE's layout; None where nothing is kept.
        reused: metrics that had been finished before.
        log: what the model said; of what was reused, what its folder holds.
    """

    measures: dict[str, Measure]
    folder: Path | None = None
    reused: tuple[str, ...] = ()
    log: BenchmarkLog = field(default_factory=BenchmarkLog)


@dataclass(frozen=True)
class Evaluator:
    """Evaluates one model after the other at every precision.

    Attributes:
        precisions: in the order in which they are evaluated and shown.
        calibration: [windows, time] tokens that AWQ, GPTQ and SmoothQuant see; None where none of them is there.
        texts: that attacks train on.
    """

    precisions: Sequence[Precision]
    calibration: Tensor | None = None
    texts: Texts = field(default_factory=dict)

    def evaluate(
        self,
        load: Callable[[torch.dtype], PreTrainedModel],
        asked: Asked,
        progress: Progress,
        finished: Mapping[str, FinishedMetrics] | None = None,
        engines: Mapping[str, Opening] | None = None,
    ) -> dict[str, Evaluated]:
        """Precision → what was measured. Where several processes call, they share the batches.

        What an engine answers comes first, and the engine is gone before a model is loaded: both want the device.

        Args:
            load: gives the model in a dtype, on its device; called only where something is left to run.
            asked: what is measured, already checked.
            progress: called with what is running, what is done and the total.
            finished: precision → where finished metrics are kept; None keeps nothing.
            engines: precision → what answers prompts there; the model itself where none is named.
        """
        held = _Held(load, self.texts)
        found: dict[str, Evaluated] = {}

        def showing(name: str) -> Progress:
            return lambda what, done, total: progress(f"{name} · {what}", done, total)

        kept = {
            each.name: _Kept(None if finished is None else finished[each.name], asked) for each in self.precisions
        }
        left = {name: each.left() for name, each in kept.items()}
        for name, opened in (engines or {}).items():
            if by_responses := [metric for metric in left[name] if metric.by_responses]:
                with opened() as engine:
                    kept[name].run(by_responses, progress=showing(name), engine=engine)
                left[name] = [metric for metric in left[name] if not metric.by_responses]
        for precision in self._by_attacks():
            name = precision.name
            if left[name]:
                run = partial(kept[name].run, left[name], progress=showing(name))
                on_copy(precision, held.model(precision, showing(name)), run, self.calibration)
            found[name] = kept[name].evaluated()
        held.let_go()
        return {each.name: found[each.name] for each in self.precisions}

    def _by_attacks(self) -> list[Precision]:
        """The precisions, a chain of attacks after the one that it begins with: each is made once."""
        return sorted(self.precisions, key=lambda each: each.chain)


class _Held:
    """The one model that quantized copies are made from: loaded, and attacked as far as the next one wants."""

    def __init__(self, load: Callable[[torch.dtype], PreTrainedModel], texts: Texts) -> None:
        self._load, self._texts = load, texts
        self._model: PreTrainedModel | None = None
        self._chain: tuple[str, ...] = ()
        self._dtype: torch.dtype | None = None

    def model(self, precision: Precision, progress: Progress) -> PreTrainedModel:
        """The model that a precision is made from; the one before is let go."""
        chain, made = precision.chain, self._chain
        if self._model is None or self._dtype != precision.dtype or chain[: len(made)] != made:
            self.let_go()
            self._model, self._dtype, made = self._load(precision.dtype), precision.dtype, ()
        if attacks := precision.attacks[len(made) :]:
            self._model = attacked(attacks, self._model, self._texts, lambda what: partial(progress, what))
            release_memory()
        self._chain = chain
        return self._model

    def let_go(self) -> None:
        """Give its memory back."""
        self._model = None
        self._chain = ()
        release_memory()


def on_copy(
    precision: Precision,
    model: PreTrainedModel,
    use: Callable[[PreTrainedModel], Result],
    calibration: Tensor | None = None,
) -> Result:
    """Make a model's copy at a precision, use it, and let it go before another one is made.

    Where several processes call, each has a copy, and inside ``use`` they share the batches.

    Args:
        precision: of the copy.
        model: not quantized, whole or in shards; unchanged.
        use: is handed the copy, which is the model itself where that is what is deployed.
        calibration: [windows, time] tokens, for a quantizer that is calibrated.
    """
    with step(f"quantizing to {precision.name}"):
        copy = model if precision.is_had_by(model) else quantized_copy(precision.quantizer, model, calibration)
    try:
        with shared_among(current_processes(), copy), computing(copy):
            return use(copy)
    finally:
        del copy
        release_memory()


class _Kept:
    """What is measured of one model at one precision, and what of it was finished before."""

    def __init__(self, store: FinishedMetrics | None, asked: Asked) -> None:
        self._store, self._asked = store, asked
        self._log = BenchmarkLog()
        self._found: dict[str, dict[str, Measure]] = {}
        self._folders: dict[str, Path] = {}
        self._reused: list[str] = []

    def left(self) -> list[Metric]:
        """The metrics to run: neither finished nor to be had from what the model said before."""
        wanted = [metric for metric in METRICS if metric.is_asked(self._asked)]
        if self._store is None:
            return wanted
        open_metrics = []
        for metric in wanted:
            if (known := self._finished(self._store, metric)) is None:
                open_metrics.append(metric)
            else:
                self._found[metric.name], folder = known
                self._folders[metric.name] = folder
                self._reused.append(metric.name)
                if holds_log(folder):
                    known_log = read_log(folder)
                    self._log.responses |= known_log.responses
                    self._log.scores |= known_log.scores
                    self._log.membership = self._log.membership or known_log.membership
        return [metric for metric in open_metrics if not self._from_log(metric)]

    def run(
        self,
        metrics: Sequence[Metric],
        copy: PreTrainedModel | None = None,
        *,
        progress: Progress,
        engine: Engine | None = None,
    ) -> None:
        """Measure, and keep each metric where anything is kept, as soon as it is there."""
        asked = self._asked
        config = asked.config if copy is None else copy.config
        given = (asked.records, asked.windows, asked.suite, asked.tokenizer, config)
        subject = Subject(*given, copy, progress, self._log, engine)
        for metric in metrics:
            self._keep(metric, metric.run(subject))

    def evaluated(self) -> Evaluated:
        """All of it, in the metrics' order."""
        ordered = [self._found[metric.name] for metric in METRICS if metric.name in self._found]
        measures = {name: measure for each in ordered for name, measure in each.items()}
        folder = None if self._store is None else self._store.gather(self._folders)
        return Evaluated(measures, folder, tuple(self._reused), self._log)

    def _from_log(self, metric: Metric) -> bool:
        """A metric that reads the same responses as a finished one needs no model."""
        measures = metric.from_log(self._log)
        if measures:
            self._keep(metric, measures)
        return bool(measures)

    def _keep(self, metric: Metric, measures: dict[str, Measure]) -> None:
        self._found[metric.name] = measures
        if self._store is None:
            return
        own = {name: rows for name, rows in self._log.responses.items() if name in metric.labels}
        scores = {name: rows for name, rows in self._log.scores.items() if name in metric.labels}
        attacked = self._log.membership if "membership_auc" in metric.labels else None
        self._store.write(metric, self._asked, measures, BenchmarkLog(own, attacked, scores))
        self._folders[metric.name] = self._store.part_folder(metric, self._asked)

    def _finished(self, store: FinishedMetrics, metric: Metric) -> tuple[dict[str, Measure], Path] | None:
        """Measures and where they lie. All attacks hold the reported one."""
        for attacks in dict.fromkeys((self._asked.suite.attacks, "all")):
            asked = replace(self._asked, suite=replace(self._asked.suite, attacks=attacks))
            if (known := store.read(metric, asked)) is not None:
                return known, store.part_folder(metric, asked)
        return None
