"""What a metric is: what it reads, what it gives, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from quail_lightning.data.questions import EvaluationRecords
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.inference.encoding import encode, positions
from quail_lightning.inference.engine import Engine
from quail_lightning.inference.generation import check_lengths, generate
from quail_lightning.inference.sampling import Sampling
from quail_lightning.run.results import Measure

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from quail_lightning.evaluation.suite import EvaluationSuite

SuiteProgress = Callable[[str, int, int], None]  # (measure, done, total)


@dataclass(frozen=True)
class MetricLabel:
    """How a measure is shown, and what it means.

    Attributes:
        label: column heading.
        unit: of value and interval; empty for a plain fraction.
        better: which way is good for an unlearned model; ``none`` where the value says nothing by itself.
        short: its name in a verdict.
        role: what the verdict takes it for: ``knowledge`` of the forget set, ``utility``, or a ``sign`` by which
            an attacker can see that something was removed.
        table: the table that it stands in: of what is known, of membership attacks, of the labels, of the
            utility, of what survived, or none but the results files.
        floor: what one scores who knows nothing; the verdict counts as utility only what lies above it.
        guesses: who has forgotten guesses: ``floor`` stands in the place of a retrained model where there is none.
    """

    label: str
    unit: str
    better: Literal["down", "up", "zero", "one", "none"]
    short: str = ""
    role: Literal["knowledge", "utility", "sign"] | None = None
    table: Literal["known", "membership", "labels", "utility", "survival", "files"] = "known"
    floor: float = 0.0
    guesses: bool = False

    @property
    def heading(self) -> str:
        """Label with its arrow, such as ``Verbatim recall ↓``."""
        arrow = {"down": " ↓", "up": " ↑", "zero": " → 0", "one": " → 1", "none": ""}[self.better]
        return self.label + arrow

    @property
    def pairs(self) -> bool:
        """Whether what came back of it is a recovery: a score of what is known, higher where more is."""
        return self.role == "knowledge" and self.better == "down"


@dataclass(frozen=True)
class Asked:
    """What is to be measured, of a model that need not be loaded yet.

    Attributes:
        records: of the corpus.
        windows: set name → [n, time] token numbers, BOS first.
        suite: the options.
        tokenizer: the model's.
        config: the model's.
    """

    records: EvaluationRecords
    windows: Mapping[str, Tensor]
    suite: EvaluationSuite
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig

    @property
    def positions(self) -> int | None:
        """How many tokens the model can hold at once; None where its architecture sets no limit."""
        return positions(self.config)

    def length_problems(self, name: str, prompts: Sequence[str], new_tokens: int) -> list[str]:
        """Why prompts cannot be completed: there are none, one is empty, or they do not fit the positions."""
        if not prompts:
            return [f"{name}: there are no prompts"]
        try:
            check_lengths([len(row) for row in encode(self.tokenizer, prompts)], new_tokens, self.positions)
        except InputError as problem:
            return [f"{name}: {problem}"]
        return []


@dataclass(frozen=True)
class Subject(Asked):
    """A model at the precision that is evaluated.

    Attributes:
        loaded: the model on its device; None where an engine answers all that is asked.
        progress: called with a measure's name, what is done and the total.
        log: takes in what the model said; what is there already, for the same records, is not asked again.
        engine: continues prompts in the place of ``loaded``; None: ``loaded`` does.
    """

    loaded: PreTrainedModel | None
    progress: SuiteProgress | None = None
    log: BenchmarkLog = field(default_factory=BenchmarkLog)
    engine: Engine | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model, on its device; mode and random states must be left as they were."""
        assert self.loaded is not None, "a metric that is not by_responses is run on a model"
        return self.loaded

    def step(self, name: str) -> Callable[[int, int], None] | None:
        """Progress of one measure."""
        return None if self.progress is None else partial(self.progress, name)

    def complete(
        self,
        name: str,
        prompts: Sequence[str],
        max_new_tokens: int,
        stops: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[str]:
        """Completions for one measure, see ``generate``, by whoever answers for this model."""
        size, step = self.suite.batch_size, self.step(name)
        if self.engine is not None:
            return self.engine.complete(prompts, max_new_tokens, size, step, stops=stops, sampling=sampling)
        given = (self.model, self.tokenizer, prompts, max_new_tokens, size, step)
        return generate(*given, stops=stops, sampling=sampling)

    def responses(self, name: str, ask: Callable[[], Sequence[Response]]) -> tuple[Response, ...]:
        """What the model says to one set of prompts: asked once, however many metrics read it."""
        if name not in self.log.responses:
            self.log.responses[name] = tuple(ask())
        return self.log.responses[name]


class Metric(Protocol):
    """One thing that is measured of a model; ``test_metric_contract.py`` says what every metric keeps to.

    Attributes:
        name: of its part among finished ones.
        version: raised when its definition changes, which makes what is finished stale.
        reads: fields of ``EvaluationRecords`` that decide its figures, or ``windows``.
        options: of the suite that decide its figures. Batch sizes decide none.
        by_responses: whether all it wants of the model are completions, by ``Subject.complete``; a server can then
            answer in the model's place.
        labels: name of each measure that it can give → how it is shown. A metric whose measures are named by the
            records (``probes``) holds the names that are known.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def options(self) -> tuple[str, ...]: ...
    @property
    def by_responses(self) -> bool: ...
    @property
    def labels(self) -> Mapping[str, MetricLabel]: ...

    def is_asked(self, asked: Asked) -> bool:
        """Whether there is anything to measure; otherwise its measures are absent, which is not 0."""
        ...

    def problems(self, asked: Asked) -> list[str]:
        """Why it cannot be measured, found before anything is run; empty where it can."""
        ...

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Every measure, each with n, interval and, where it is a mean over records, their scores."""
        ...

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """The same measures from what a log holds; empty where it does not hold what is needed."""
        ...
