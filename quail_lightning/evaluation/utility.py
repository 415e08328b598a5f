"""What a model is still good for: Gen, Tru, Fac and Flu of the failure paper (section 6.2), and own files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

import quail_lightning.evaluation.fluency as fluency
import quail_lightning.evaluation.triviaqa as triviaqa
from quail_lightning.data.file_text import read_file
from quail_lightning.data.hub import hub_rows
from quail_lightning.data.located import Located, wrong_form
from quail_lightning.data.rwku_corpus import HUB_NAME as RWKU
from quail_lightning.data.text_files import is_record_file, read_documents, read_records
from quail_lightning.data.windows import token_windows
from quail_lightning.errors import InputError
from quail_lightning.evaluation.harness import (
    HarnessTask,
    HarnessTasks,
    harness_accuracy,
    task_digest,
    task_problems,
)
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.inference.encoding import encode, positions
from quail_lightning.inference.generation import check_lengths, generate
from quail_lightning.inference.likelihood import window_nlls
from quail_lightning.run.results import Estimate, Measure

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Step = Callable[[str], Callable[[int, int], None] | None]  # metric → called with what is done and the total
HARNESS = {"utility_general": ("mmlu", 5), "utility_truthful": ("truthfulqa_mc1", None)}
"""Metric → harness task and worked examples; ``truthfulqa_mc1`` brings its own six."""
TASK = "task_"  # before a task's name: the measure of a task that ``tasks`` names


@dataclass(frozen=True)
class Utility:
    """Which figures of utility are measured; one that is not asked for is absent from the results.

    Attributes:
        general: Gen, MMLU 5-shot accuracy, by the LM Evaluation Harness (extra ``eval``).
        truthful: Tru, TruthfulQA MC1 accuracy, likewise.
        factual: Fac, token F1 of TriviaQA after six worked examples: ``mandarjoshi/trivia_qa``, or a ``.json`` or
            ``.jsonl`` file of ``question`` and ``answer`` whose first six records are the examples.
        fluency: Flu, n-gram entropy of 256-token answers: ``jinzhuoran/RWKU`` for its instructions, or a file of
            them (text with a blank line between them, or ``.json``/``.jsonl`` with ``instruction``).
        questions: a file as for ``factual``; token F1 of your own questions, after ``question_examples``.
        question_examples: the first so many records of ``questions`` are worked examples.
        text: any text file; perplexity of its windows.
        tasks: tasks or groups of the LM Evaluation Harness, by name (``hellaswag``, ``arc_easy``, ``gsm8k``).
        shots: of ``tasks``: name → worked examples before each question, in place of the task's own number.
        task_metrics: of ``tasks``: name → which figure, such as ``acc_norm``, in place of its first.
        window: tokens of those windows, BOS included; fewer where the model has fewer positions.
        task_folder: of further harness task files, which may read local data.
        limit: the first so many questions, instructions or windows of each (of each MMLU subject); None: all.
    """

    general: bool = False
    truthful: bool = False
    factual: str | None = None
    fluency: str | None = None
    questions: str | None = None
    question_examples: int = 0
    text: str | None = None
    tasks: tuple[str, ...] = ()
    shots: dict[str, int] = field(default_factory=dict)
    task_metrics: dict[str, str] = field(default_factory=dict)
    window: int = 512
    task_folder: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("question_examples", 0), ("window", 2), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"utility.{name} must be at least {least}", given=value)
        self.harness_tasks()

    @property
    def of_harness(self) -> list[str]:
        """The options that let the harness run the model."""
        return [name for name in ("general", "truthful", "tasks") if getattr(self, name)]

    def harness_tasks(self) -> dict[str, HarnessTask]:
        """Measure → what the harness is asked for it.

        Raises:
            InputError: a task is named twice, or ``shots`` or ``task_metrics`` names another one.
        """
        chosen = {"utility_general": self.general, "utility_truthful": self.truthful}
        found = {
            name: HarnessTask(*HARNESS[name], folder=self.task_folder) for name, wanted in chosen.items() if wanted
        }
        named = HarnessTasks(self.tasks, self.shots, self.task_metrics, self.task_folder)
        return found | {f"{TASK}{task.name}": task for task in named.asked()}

    def read(self) -> dict[str, str]:
        """Option or measure → digest of the file or of the harness task that is read for it.

        Raises:
            InputError: a task that cannot be loaded.
        """
        named = {name: getattr(self, name) for name in ("factual", "fluency", "questions", "text")}
        files = {name: Path(file).expanduser() for name, file in named.items() if file is not None}
        found = {name: sha256(read_file(path)).hexdigest() for name, path in files.items() if path.is_file()}
        return found | {name: task_digest(task) for name, task in self.harness_tasks().items()}

    def problems(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[str]:
        """What cannot be measured, and why: files, hub, harness, prompts that do not fit the positions."""
        limit = positions(config)
        found = [f"utility: {problem}" for problem in task_problems(self.harness_tasks().values(), limit)]
        checks: list[Callable[[], object]] = []
        if self.text is not None:
            checks.append(lambda: self._windows(tokenizer, limit))
        checks.append(lambda: self._check_prompts(tokenizer, limit))
        for check in checks:
            try:
                check()
            except InputError as problem:
                found.append(f"utility: {problem}")
        return found

    def measures(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int | None, step: Step
    ) -> dict[str, Measure]:
        """Every figure that was asked for.

        Args:
            model: on its device, at the precision to evaluate; mode and random states are left as they were.
            tokenizer: its own.
            batch_size: prompts, requests or windows at once; None: by free memory.
            step: metric's name → progress.
        """
        measured: dict[str, Measure] = {}
        for name, task in self.harness_tasks().items():
            measured[name] = harness_accuracy(model, tokenizer, task, batch_size, self.limit)
        for name, asked in self._prompts().items():
            responses = generate(model, tokenizer, asked.prompts, asked.new_tokens, batch_size, step(name))
            scores = [score(said) for score, said in zip(asked.scores, responses, strict=True)]
            measured[name] = bootstrap_mean(scores)
        if self.text is not None:
            windows = self._windows(tokenizer, positions(model.config))
            nll = bootstrap_mean(window_nlls(model, windows, batch_size, step("perplexity")).numpy())
            measured["perplexity"] = _exponential(nll)
        return measured

    def _check_prompts(self, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> None:
        for name, asked in self._prompts().items():
            lengths = [len(row) for row in encode(tokenizer, asked.prompts)]
            try:
                check_lengths(lengths, asked.new_tokens, limit)
            except InputError as problem:
                raise InputError(f"{name}: {problem}") from problem

    def _prompts(self) -> dict[str, _Asked]:
        """Metric → what is generated for it."""
        asked: dict[str, _Asked] = {}
        if self.factual is not None:
            asked["utility_factual"] = self._short_answers(self.factual, triviaqa.SHOTS)
        if self.questions is not None:
            asked["question_f1"] = self._short_answers(self.questions, self.question_examples)
        if self.fluency is not None:
            prompts = [fluency.fluency_prompt(text) for text in _instructions(self.fluency)[: self.limit]]
            asked["utility_fluency"] = _Asked(prompts, fluency.NEW_TOKENS, [fluency.fluency] * len(prompts))
        return asked

    def _short_answers(self, source: str, shots: int) -> _Asked:
        pairs = _short_answers(source)
        if len(pairs) <= shots:
            raise InputError(
                f"{source} holds no question beside its {shots} worked examples", given=f"{len(pairs)} records"
            )
        questions = pairs[shots:][: self.limit]

        def scoring(answers: tuple[str, ...]) -> Callable[[str], float]:
            return lambda said: 100 * triviaqa.token_f1(answers, triviaqa.truncate_answer(said))

        prompts = triviaqa.question_prompts(questions, pairs[:shots])
        return _Asked(prompts, triviaqa.NEW_TOKENS, [scoring(pair.answers) for pair in questions])

    def _windows(self, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Tensor:
        assert self.text is not None
        length = self.window if limit is None else min(self.window, limit)
        return token_windows(read_documents(self.text), tokenizer, length)[: self.limit]


class _Asked(NamedTuple):
    """Prompts, the response's length in tokens, and what each response is worth."""

    prompts: list[str]
    new_tokens: int
    scores: list[Callable[[str], float]]


@cache
def _short_answers(source: str) -> list[triviaqa.ShortAnswer]:
    """Read once in a process: every precision of every model asks the same."""
    return triviaqa.read_short_answers(source)


@cache
def _instructions(source: str) -> list[str]:
    """RWKU's instructions, each once, or those of a file."""
    if source == RWKU:
        rows = hub_rows(source, "utility_fluency", "test", "and name a file of its records by utility.fluency")
        located = [Located(f"{source}, row {number}", row) for number, row in enumerate(rows)]
    elif is_record_file(source):
        located = read_records(Path(source).expanduser(), ("instruction",))
    else:
        return read_documents(source)
    for found in located:
        if not isinstance(found.record, dict) or not isinstance(found.record.get("instruction"), str):
            raise wrong_form(found, "objects with the string instruction")
    return list(dict.fromkeys(record["instruction"] for _, record in located))


def _exponential(nll: Measure) -> Measure:
    """Perplexity and its interval; the windows are of one length, so their mean is the tokens' mean."""
    if not isinstance(nll, Estimate):
        return nll
    return replace(nll, value=exp(nll.value), low=exp(nll.low), high=exp(nll.high), scores=())
